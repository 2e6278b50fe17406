"""The session of one call with the store: it finds stored records, claims images to embed, and stores new records."""

from __future__ import annotations

import sqlite3
import time
import uuid
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..segmentation.cell import QUALITY
from .columns import Column, as_items
from .table import RecordTable

Key = bytes  # SHA-256 of an image
# Parts of a record that are kept only on request, because they are a hundred times as large as the rest.
KEPT_ON_REQUEST = ("tokens", "crops")
# Requests crops as in the papers' code. They are stored as "crops" under a different recipe.
PUBLISHED_CROPS = "published_crops"
_DTYPES: dict[str, np.dtype] = {"tokens": np.dtype(np.float16), "crops": np.dtype(np.uint8)}
# Maximum number of keys in one SQL statement: older versions of SQLite accept 999 variables.
_KEYS_AT_ONCE = 900
# Maximum number of rows of tokens or crops that are in memory as bytes at the same time.
_ROWS_AT_ONCE = 64
_SEAL_BYTES = 4


class Record(NamedTuple):
    """The stored data of one cell: embedding (C,), quality, packed mask, and on request tokens (C, h, w) and crop."""

    pooled: NDArray[np.float32]
    quality: np.void
    mask: bytes
    tokens: NDArray[np.float16] | None = None
    crops: NDArray[np.uint8] | None = None


class EmbeddingSession:
    """The session of one call with a store; `found` has the records it read or stored, without tokens and crops."""

    def __init__(self, table: RecordTable, recipe: str, keep: Collection[str]) -> None:
        self.table, self.recipe, self.keep = table, recipe, tuple(keep)
        self.owner = uuid.uuid4().hex
        self.found: dict[Key, Record] = {}

    def missing(self, keys: Sequence[Key]) -> list[Key]:
        """Return the keys whose records, with all parts to keep, are not stored; add the other records to `found`."""
        unknown = [key for key in keys if key not in self.found]
        if unknown:
            found, damaged = self.table.read(lambda db: self._find(db, unknown))
            if not self.table.read_only:
                self._note(found, damaged)
            self.found.update(found)
        return [key for key in unknown if key not in self.found]

    def claim(self, keys: Sequence[Key]) -> list[Key]:
        """Claim the keys that are neither stored nor claimed by a session that is alive, and return them."""

        def take(db: sqlite3.Connection) -> list[Key]:
            stored = {key for key, *kept in _select(db, f"key{self._kept_columns}", self.recipe, keys) if all(kept)}
            claims = dict(_select(db, "key, owner", self.recipe, keys, source="claim"))
            alive = {owner for owner in set(claims.values()) if owner == self.owner or self.table.is_alive(owner)}
            free = [key for key in keys if key not in stored and claims.get(key) not in alive]
            rows = [(self.recipe, key, self.owner) for key in free]
            db.executemany("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", rows)
            return free

        if keys and self.table.read_only:
            raise OSError(
                f"The cache '{self.table.folder}' is read-only and lacks some of these images. Fix: make the folder "
                "writable, or set another cache_dir."
            )
        return self.table.transact(take) if keys else []

    def release(self) -> None:
        """Release the claims on keys whose records were not stored."""
        if not self.table.read_only:
            self.table.transact(lambda db: db.execute("DELETE FROM claim WHERE owner = ?", (self.owner,)))

    def put(self, records: Mapping[Key, Record]) -> None:
        """Store records, all of them or none, and drop the claims on them."""
        names = [(self.recipe, key) for key in records]
        rows = []
        for key, record in records.items():
            small = (record.pooled.tobytes(), record.quality.tobytes(), record.mask)
            kept = (None if part is None else _seal(part.tobytes()) for part in (record.tokens, record.crops))
            rows.append((self.recipe, key, *small, _checksum(key, *small), *kept))

        def enter(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            db.executemany("INSERT OR REPLACE INTO used VALUES (?, ?, ?)", [(*name, time.time()) for name in names])
            db.executemany("DELETE FROM claim WHERE recipe = ? AND key = ?", names)

        self.table.transact(enter)
        self.found.update({key: record._replace(tokens=None, crops=None) for key, record in records.items()})

    def forget_lost(self) -> bool:
        """Drop found records whose tokens or crops can no longer be read; return whether there were any."""

        def check(db: sqlite3.Connection) -> list[Key]:
            rows = _select(db, ", ".join(["key", *self.keep]), self.recipe, list(self.found))
            whole = {key for key, *kept in rows if all(map(_is_whole, kept))}
            return [key for key in self.found if key not in whole]

        lost = self.table.read(check) if self.keep else []
        if lost:
            self.table.transact(lambda db: delete_records(db, [(self.recipe, key) for key in lost]))
        for key in lost:
            del self.found[key]
        return bool(lost)

    def column(self, keys: Sequence[Key], part: str, *, token_share: int = 1, n_measures: int = 0) -> Any:
        """Return tokens (n, C, h, w) or crops (n, S, S, 3), as an array or as a column that reads them from the folder.

        The length of an embedding is `token_share` times the length of a token, plus `n_measures`.
        """
        (first,) = read_parts(self.table, self.recipe, part, keys[:1])
        channels = (len(self.found[keys[0]].pooled) - n_measures) // token_share if part == "tokens" else 3
        side = isqrt(len(first) // _DTYPES[part].itemsize // channels)
        shape = (channels, side, side) if part == "tokens" else (side, side, channels)
        rows = StoredRows(str(self.table.folder), self.recipe, part, shape)
        return Column(as_items(keys), rows) if self.table.folder else rows.decode(self.table, keys)

    @property
    def _kept_columns(self) -> str:
        return "".join(f", {part} IS NOT NULL" for part in self.keep)

    def _find(self, db: sqlite3.Connection, keys: Sequence[Key]) -> tuple[dict[Key, Record], list[Key]]:
        """Return the complete records of some keys, and the keys whose records are damaged."""
        found: dict[Key, Record] = {}
        damaged: list[Key] = []
        columns = f"key, pooled, quality, mask, checksum{self._kept_columns}"
        for key, pooled, quality, mask, checksum, *kept in _select(db, columns, self.recipe, keys):
            if _checksum(key, pooled, quality, mask) != checksum or len(quality) != QUALITY.itemsize or len(pooled) % 4:
                damaged.append(key)
            elif all(kept):
                found[key] = Record(np.frombuffer(pooled, np.float32), np.frombuffer(quality, QUALITY)[0], mask)
        return found, damaged

    def _note(self, found: Collection[Key], damaged: Collection[Key]) -> None:
        """Store the time at which records were used, and delete damaged records."""
        if damaged:
            self.table.transact(lambda db: delete_records(db, [(self.recipe, key) for key in damaged]))
        rows = [(self.recipe, key, time.time()) for key in found]
        if rows:
            with suppress(OSError):  # records can still be read if the disk is full
                self.table.transact(lambda db: db.executemany("INSERT OR REPLACE INTO used VALUES (?, ?, ?)", rows))


@dataclass(frozen=True)
class StoredRows:
    """Decode tokens or crops in a folder to an array of shape (k, *shape), from the keys of their k images."""

    folder: str
    recipe: str
    part: str
    shape: tuple[int, ...]
    on_disk = True

    def __call__(self, items: NDArray[np.object_]) -> NDArray:
        """Read rows from the folder."""
        return self.decode(RecordTable(self.folder), list(items))

    def decode(self, table: RecordTable, keys: Sequence[Key]) -> NDArray:
        """Read rows from a table, a few at a time."""
        rows = np.empty((len(keys), *self.shape), _DTYPES[self.part])
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            parts = read_parts(table, self.recipe, self.part, keys[start : start + _ROWS_AT_ONCE])
            for row, data in enumerate(parts, start=start):
                rows[row] = np.frombuffer(data, rows.dtype).reshape(self.shape)
        return rows


def read_parts(table: RecordTable, recipe: str, part: str, keys: Sequence[Key]) -> list[bytes]:
    """Return the bytes of tokens or crops; raise an OSError if some are no longer stored."""
    wanted = list(dict.fromkeys(keys))
    content = dict(table.read(lambda db: list(_select(db, f"key, {part}", recipe, wanted))))
    if any(content.get(key) is None for key in wanted):
        raise OSError(
            f"Some {part} are no longer in the cache '{table.folder}': they were deleted to keep its limit. "
            "Fix: call transform again, with a larger cache_limit."
        )
    return [content[key][_SEAL_BYTES:] for key in keys]


def delete_records(db: sqlite3.Connection, names: Sequence[tuple[str, Key]]) -> None:
    """Delete the records of these recipes and keys."""
    for source in ("cell", "used"):
        db.executemany(f"DELETE FROM {source} WHERE recipe = ? AND key = ?", names)


def _select(
    db: sqlite3.Connection, columns: str, recipe: str, keys: Sequence[Key], source: str = "cell"
) -> Iterator[tuple[Any, ...]]:
    """Yield columns of the rows of some keys, one row at a time, because tokens are large."""
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        yield from db.execute(f"SELECT {columns} FROM {source} WHERE recipe = ? AND key IN ({marks})", (recipe, *some))


def _checksum(*parts: bytes) -> int:
    """Return the CRC-32 of a record's parts, or -1, which is never a CRC-32, if a part does not contain bytes."""
    return zlib.crc32(b"".join(parts)) if all(isinstance(part, bytes) for part in parts) else -1


def _seal(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_SEAL_BYTES, "big") + content


def _is_whole(sealed: Any) -> bool:
    return isinstance(sealed, bytes) and sealed == _seal(sealed[_SEAL_BYTES:])
