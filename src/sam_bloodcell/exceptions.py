"""The errors of this package; each is also one that scikit-learn's or Python's users expect."""


class ImageReadError(OSError, ValueError):
    """An image could not be turned into pixels; the message names the row, the file and the fix."""


class WeightsUnavailableError(OSError):
    """Weights could not be fetched or read; the message says from where and what to do."""
