"""The errors of this package; each is also a standard error of Python."""


class ImageReadError(OSError, ValueError):
    """An image could not be read; the message names the row, the file and the fix."""


class WeightsUnavailableError(OSError):
    """Weights could not be downloaded or read; the message names the source and the fix."""
