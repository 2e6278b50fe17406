"""Optional dependencies: the one place that imports them, or names the extra that is missing."""

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Parameters
    ----------
    module : str
        Dotted name, such as "matplotlib.figure".
    extra : str
        The extra of sam-bloodcell that installs it.
    purpose : str
        What it is needed for, as the beginning of the message: "Plots need matplotlib".

    Raises
    ------
    ImportError
        If it is not installed; the message names the command that installs it.

    Examples
    --------
    >>> require("no_such_module", extra="report", purpose="Plots need no_such_module")
    Traceback (most recent call last):
        ...
    ImportError: Plots need no_such_module. Fix: pip install "sam-bloodcell[report]"
    """
    try:
        return import_module(module)
    except ImportError as exc:
        raise ImportError(f'{purpose}. Fix: pip install "sam-bloodcell[{extra}]"') from exc
