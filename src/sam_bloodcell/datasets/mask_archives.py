"""The papers' ``*.dat.gz`` files of cells with masks: pickles, from which only arrays and containers are read."""

import codecs
import gzip
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ImageReadError

_FIX = "Fix: pass the Bloodcell_train.dat.gz of BC-SAM's authors, or train with sam-bloodcell finetune on image files."


def read_mask_archive(path: str | os.PathLike) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:
    """Read the cells and masks on which the papers' authors fine-tuned SAM, from their ``Bloodcell_train.dat.gz``.

    The format is that of their published training code: a gzip-compressed pickle of a dict that maps the name of each
    cell to a dict with its ``image`` (H, W, 3), from 0 to 255, and its ``label`` (H, W), which is 0 outside the cell.
    Other entries of a cell are ignored. Loading a pickle can run any code, so only numpy arrays, numbers, text and
    plain containers are accepted, and other objects are refused.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    images : list of uint8 arrays (H, W, 3)
        The cells.
    masks : list of bool arrays (H, W)
        The masks, which are True inside the cell.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ImageReadError
        If the file is damaged, contains other objects, or has another layout. The message says what was found.
    """
    content = _unpickle(Path(path))
    if not isinstance(content, Mapping) or not content:
        raise ImageReadError(
            f"'{path}' contains {_described(content)} but expected a dict of cells, each with an image and a label. "
            f"{_FIX}"
        )
    pairs = [_cell(f"'{path}' cell {name!r}", cell) for name, cell in content.items()]
    return [image for image, _ in pairs], [mask for _, mask in pairs]


def _cell(where: str, cell: Any) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Check one cell, and return its image and mask."""
    image, label = (cell.get("image"), cell.get("label")) if isinstance(cell, Mapping) else (None, None)
    are_arrays = isinstance(image, np.ndarray) and isinstance(label, np.ndarray)
    image, label = np.asarray(image), np.asarray(label)
    if not are_arrays or label.ndim != 2 or image.shape != (*label.shape, 3):
        expected = "a dict with image, an array (H, W, 3), and label, an array (H, W)"
        raise ImageReadError(f"{where} is {_described(cell)} but expected {expected}. {_FIX}")
    is_numeric = {image.dtype.kind, label.dtype.kind} <= set("biuf")
    if not is_numeric or not np.isfinite(image).all() or not np.isfinite(label).all():
        raise ImageReadError(f"{where} holds {image.dtype} and {label.dtype} but expected finite numbers. {_FIX}")
    if not image.size or image.min() < 0 or not 1 < image.max() <= 255:
        found = f"{image.min():g} to {image.max():g}" if image.size else "no pixel"
        raise ImageReadError(f"{where} has an image of {found} but expected colours from 0 to 255. {_FIX}")
    if not label.any():
        raise ImageReadError(f"{where} has an empty mask. Fix: leave the cell out of the file.")
    return np.rint(image).astype(np.uint8), label.astype(bool)


def _described(value: Any) -> str:
    """Describe a value and its direct contents."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{name!r}: {_kind(part)}" for name, part in list(value.items())[:5])
    elif isinstance(value, list | tuple):
        inside = ", ".join(_kind(part) for part in value[:5])
    else:
        return f"a value of type {type(value).__name__}"
    more = ", ..." if len(value) > 5 else ""
    return f"a {type(value).__name__} of {len(value)} ({inside}{more})"


def _kind(value: Any) -> str:
    return _described(value) if isinstance(value, np.ndarray) else type(value).__name__


def _unpickle(path: Path) -> Any:
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder but expected a .dat.gz file. {_FIX}")
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist. {_FIX}")
    try:
        with gzip.open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()  # as numpy needs it for pickles of Python 2
    except _RefusedError as exc:
        raise ImageReadError(f"'{path}' contains {exc}, which could run any code and is not read. {_FIX}") from exc
    except Exception as exc:  # a damaged pickle may raise anything
        raise ImageReadError(f"'{path}' cannot be read: {exc!s:.200}. Fix: fetch it again.") from exc


class _RefusedError(Exception):
    """Names the object in a pickle that is neither an array nor a plain container."""


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Do what ``_codecs.encode`` does, but only for bytes in old pickles."""
    if encoding != "latin1":
        raise _RefusedError(f"a text to be encoded as {encoding!r}")
    return codecs.encode(text, "latin1")


def _array_maker(array: Any, protocol: int) -> Callable:
    """Return the function that pickles of arrays name, whose module depends on the version of numpy."""
    return array.__reduce_ex__(protocol)[0]


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, "_reconstruct"): _array_maker(np.empty(1), 2) for module in _MULTIARRAY},
    **{(module, "scalar"): _array_maker(np.float64(0), 2) for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _array_maker(np.empty(1), 5) for module in _NUMERIC},
}


class _ArraysOnly(pickle.Unpickler):
    """Loads the objects of `_ALLOWED`, and plain containers, numbers and text, which need no class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"an object {module}.{name}")
        return _ALLOWED[module, name]
