"""The errors of this package, each also a standard error of Python, and its way to warn."""

import inspect
import warnings

# Their functions may stand between the caller and this package, for example those of a pipeline.
_BETWEEN = ("contextlib", "joblib", "sklearn")


class ImageReadError(OSError, ValueError):
    """An image could not be read; the message names the row, the file and the fix."""


class WeightsUnavailableError(OSError):
    """Weights could not be downloaded or read; the message names the source and the fix."""


def warn_caller(message: str) -> None:
    """Warn at the line that called this package, even if the cause was found deep in the package."""
    package, names, frame = __name__.partition(".")[0], [], inspect.currentframe()
    while frame is not None:
        names.append(frame.f_globals.get("__name__", "").partition(".")[0])
        frame = frame.f_back
    outside = names[len(names) - names[::-1].index(package) :]
    between = next((depth for depth, name in enumerate(outside) if name not in _BETWEEN), 0)
    warnings.warn(message, stacklevel=len(names) - len(outside) + between + 1)
