"""Columns of embeddings whose rows are computed on demand."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from ..images.frames import load_square
from ..segmentation.cell import CROP_SIZE, cell_crop


class Column(NDArrayOperatorsMixin):
    """An array of shape (n, ...) whose rows are decoded when they are indexed.

    Indexing returns numpy arrays, and `select` returns another column. Columns with equal decoders are joined without
    decoding. All other operations, such as ``column.mean()`` or ``column > 0``, decode the whole array.

    `decode` turns an array of k items into an array of shape (k, ...), also for k = 0. A column whose decoder has the
    attribute ``on_disk`` is pickled as the array itself.
    """

    def __init__(self, items: NDArray[np.object_], decode: Callable[[NDArray[np.object_]], NDArray]) -> None:
        self.items = items
        self.decode = decode

    @property
    def dtype(self) -> np.dtype:
        """Return the type of the values."""
        return self[:0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the array that this column stands for."""
        return (len(self), *self[:0].shape[1:])

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Any) -> NDArray:
        key, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self[[key]][(0, *rest)]
        if not isinstance(key, slice) and np.ndim(key) != 1:
            return np.asarray(self)[(key, *rest)]
        values = self.decode(self.items[key])
        return values[(slice(None), *rest)] if rest else values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(np.asarray(self), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[:], dtype=dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*(_decoded(value) for value in inputs), **kwargs)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        """Join columns in `np.concatenate`; every other numpy function gets the decoded array."""
        if func is np.concatenate and not kwargs and len(args) == 1:
            parts = list(args[0])
            if all(isinstance(part, Column) and part.decode == self.decode for part in parts):
                return Column(np.concatenate([part.items for part in parts]), self.decode)
        return func(*(_decoded(arg) for arg in args), **{name: _decoded(value) for name, value in kwargs.items()})

    def __reduce__(self) -> tuple:
        if getattr(self.decode, "on_disk", False):
            return (np.asarray, (np.asarray(self),))
        return (Column, (self.items, self.decode))

    def select(self, key: Any) -> Column:
        """Return the column of some rows, without decoding them."""
        return Column(self.items[key], self.decode)


def as_items(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return an object array of shape (n,) with any objects, even if numpy would convert them to another array."""
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        return values
    items = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        items[row] = value
    return items


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """Compress one square mask of shape (H, H) to a few hundred bytes."""
    return zlib.compress(np.packbits(mask).tobytes())


@dataclass(frozen=True)
class UnpackedMasks:
    """Decode packed masks to a bool array of shape (k, side, side)."""

    side: int

    def __call__(self, items: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Decode masks."""
        masks = np.empty((len(items), self.side**2), bool)
        for row, item in enumerate(items):
            masks[row] = np.unpackbits(np.frombuffer(zlib.decompress(item), np.uint8), count=self.side**2)
        return masks.reshape(-1, self.side, self.side)


@dataclass(frozen=True)
class CropsFromImages:
    """Read images again and cut out their cells, as a uint8 array of shape (k, 128, 128, 3)."""

    side: int

    def __call__(self, items: NDArray[np.object_]) -> NDArray[np.uint8]:
        """Cut crops from pairs of an image and its packed mask."""
        crops = np.empty((len(items), CROP_SIZE, CROP_SIZE, 3), np.uint8)
        masks = UnpackedMasks(self.side)(as_items([mask for _, mask in items]))
        for row, (image, _) in enumerate(items):
            crops[row] = cell_crop(load_square(image, self.side), masks[row])
        return crops


def _decoded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_decoded, value))
    return np.asarray(value) if isinstance(value, Column) else value
