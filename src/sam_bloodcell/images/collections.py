"""Collections of images from users: lists, arrays, columns of paths."""

import os
from collections.abc import Mapping, Sequence
from io import IOBase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..cells import domain_column


def as_image_list(X: Any, name: str = "X") -> Sequence[Any]:
    """Check a collection of images and return it as a sequence of at least one, without reading an image.

    The function accepts a list of paths, PIL images and arrays, an (n, H, W, 3) array or tensor, an Arrow array, a
    Series or one-column DataFrame of paths, and a table with a column "path". An iterator is consumed.
    """
    if isinstance(X, str | bytes | bytearray | os.PathLike | Image.Image | IOBase):
        raise ValueError(f"Got one image as {name} but expected a collection. Fix: pass [{name}].")
    if isinstance(X, set | frozenset | Mapping):
        kind = type(X).__name__
        raise TypeError(
            f"Got {name} as a {kind} but expected a collection with an order. "
            f"Fix: pass a list, such as {'list(images.values())' if isinstance(X, Mapping) else 'sorted(paths)'}."
        )
    if not hasattr(X, "__iter__") and not hasattr(X, "columns"):
        raise TypeError(f"Got {name}={X!r} but expected a collection of images. Fix: pass a list of paths.")
    if hasattr(X, "columns"):  # a table of pandas, polars or Arrow
        columns = _column_names(X)
        if len(columns) != 1 and columns.count("path") != 1:
            raise ValueError(
                f"Got {name} with the columns {', '.join(map(str, columns))} but expected a column 'path'. "
                f"Fix: {name}.rename(columns={{...: 'path'}})."
            )
        X = X["path" if "path" in columns else columns[0]]
    X = _as_array_or_list(X)
    if isinstance(X, np.ndarray):
        if X.dtype.kind in "OUST" or X.shape == (0,):  # pandas treats an empty list as numbers
            X = _one_column(X, name)
        elif X.ndim not in (3, 4) or (X.ndim == 3 and X.shape[-1] in (3, 4)):
            raise ValueError(
                f"Got {name} as an array of shape {X.shape} but expected (n, H, W, 3). "
                f"Fix: for one image pass {name}[None]."
            )
    images: Any = X if isinstance(X, Sequence | np.ndarray) else list(X)
    if len(images) == 0:
        raise ValueError(f"Got an empty {name} but expected at least one image. Fix: check the folder or filter.")
    return images


def domain_of(X: Any) -> NDArray[Any] | None:
    """Return the column "domain" of a table of n images, with None in rows without one; None for other inputs."""
    if not hasattr(X, "columns") or "domain" not in (names := _column_names(X)) or len(names) == 1:
        return None
    return domain_column(_as_array_or_list(X["domain"]), len(X))


def table_columns(X: Any) -> dict[Any, Any] | None:
    """Return the columns of a table of pandas, polars or Arrow by name; None if X is not a table."""
    if not hasattr(X, "columns"):
        return None
    return {name: _as_array_or_list(X[name]) for name in _column_names(X)}


def _column_names(table: Any) -> list[Any]:
    return list(table.column_names if hasattr(table, "column_names") else table.columns)


def name_rows(rows: Sequence[int] | NDArray) -> str:
    """Name rows in a message, at most the first ten: "rows 3, 5, 8"."""
    return f"rows {', '.join(map(str, rows[:10]))}{' ...' * (len(rows) > 10)}"


def _as_array_or_list(X: Any) -> Any:
    """Convert columns and arrays of other libraries into an array or a list; return anything else unchanged."""
    if hasattr(X, "to_pylist"):  # Arrow, whose to_numpy refuses text
        return X.to_pylist()
    if hasattr(X, "to_numpy"):
        return X.to_numpy()
    if hasattr(X, "__array__") and not isinstance(X, Sequence):  # a tensor: its rows would hide that it is one image
        return np.asarray(X)
    return X


def _one_column(paths: NDArray, name: str) -> NDArray:
    if paths.ndim == 0 or (paths.ndim == 2 and paths.shape[1] != 1):
        raise ValueError(
            f"Got {name} as an array of shape {paths.shape} but expected one path per image. "
            "Fix: pass one column of paths."
        )
    return paths[:, 0] if paths.ndim == 2 else paths
