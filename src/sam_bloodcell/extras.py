"""Optional dependencies: the one place that imports them, or names the extra that is missing."""

import warnings
from importlib import import_module
from types import ModuleType

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook without ipywidgets, bars are drawn as text; nobody need be warned
    from tqdm.auto import tqdm as tqdm


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, which an extra of sam-bloodcell installs.

    The purpose begins the message of the ImportError where it is not installed: "Plots need matplotlib".
    """
    try:
        return import_module(module)
    except ImportError as exc:
        raise ImportError(f'{purpose}. Fix: pip install "sam-bloodcell[{extra}]"') from exc
