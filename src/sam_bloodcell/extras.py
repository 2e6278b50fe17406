"""Optional dependencies: this module imports them, or names the extra that is missing."""

import warnings
from importlib import import_module
from types import ModuleType

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook without ipywidgets, bars are drawn as text
    from tqdm.auto import tqdm as tqdm


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, which an extra of sam-bloodcell installs.

    If it is not installed, the message of the ImportError starts with the purpose, such as "Plots need matplotlib".
    """
    try:
        return import_module(module)
    except ImportError as exc:
        raise ImportError(f'{purpose}. Fix: pip install "sam-bloodcell[{extra}]"') from exc
