"""Embeddings as records, and their columns read from where they lie."""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .embeddings import CellEmbeddings


class StoredRows:
    """A column of embeddings that stays where it is: rows are read when asked for, as from a memory-mapped array.

    Indexing gives arrays, `select` another view. Pickled, it becomes the array itself.

    Parameters
    ----------
    shards : list of record arrays
        Memory-mapped.
    which, rows : integer arrays of shape (n,)
        Shard and row in it of every entry.
    field : str
    in_memory : bool
        The shards are no files, so nothing speaks against reading them all.
    """

    def __init__(
        self, shards: list[NDArray], which: NDArray[np.intp], rows: NDArray[np.intp], field: str, in_memory: bool
    ) -> None:
        self._shards, self._which, self._rows, self._field = shards, which, rows, field
        self.in_memory = in_memory

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self[:0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that this stands for."""
        return (len(self), *self[:0].shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> NDArray:
        key, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(key, int | np.integer):
            return self[[key]][(0, *rest)]
        values = _gather(self._shards, self._which[key], self._rows[key], self._field)
        return values[(slice(None), *rest)] if rest else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[:], dtype=dtype)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        """Join views under `np.concatenate` without reading; every other numpy function sees the array."""
        if func is np.concatenate and not kwargs and len(args) == 1 and all(isinstance(p, StoredRows) for p in args[0]):
            return _joined(list(args[0]))
        return func(*(_array(arg) for arg in args), **{name: _array(value) for name, value in kwargs.items()})

    def __reduce__(self) -> tuple:
        return (np.asarray, (np.asarray(self),))

    def select(self, key: Any) -> "StoredRows":
        """Return a view of some rows, nothing read yet."""
        return StoredRows(self._shards, self._which[key], self._rows[key], self._field, self.in_memory)


def _array(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_array, value))
    return np.asarray(value) if isinstance(value, StoredRows) else value


def _joined(parts: list[StoredRows]) -> StoredRows:
    offsets = np.cumsum([0] + [len(part._shards) for part in parts])
    return StoredRows(
        [shard for part in parts for shard in part._shards],
        np.concatenate([part._which + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part._rows for part in parts]),
        parts[0]._field,
        all(part.in_memory for part in parts),
    )


def _gather(shards: list[NDArray], which: NDArray, rows: NDArray, field: str) -> NDArray:
    """Read a field of rows that lie in several shards, each shard once."""
    example = shards[0][field]
    out = np.empty((len(rows), *example.shape[1:]), example.dtype)
    order = np.argsort(which, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if len(order) else ():
        out[places] = shards[which[places[0]]][field][rows[places]]
    if field != "masks":
        return out
    side = isqrt(8 * out.shape[1])
    return np.unpackbits(out, axis=1).reshape(len(out), side, side).astype(bool)


def as_records(keys: Sequence[bytes], cells: CellEmbeddings) -> NDArray:
    """Put embeddings and their keys (32 bytes each) into one record array, masks as bits."""
    columns: dict[str, NDArray] = {
        "key": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1),
        "pooled": cells.pooled,
        "tokens": np.asarray(cells.tokens, np.float16),
        "masks": np.packbits(cells.masks.reshape(len(keys), -1), axis=1),
        "crops": cells.crops,
        "quality": cells.quality,
    }
    records = np.zeros(len(keys), [(name, value.dtype, value.shape[1:]) for name, value in columns.items()])
    for name, value in columns.items():
        records[name] = value
    return records
