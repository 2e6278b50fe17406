"""Embeddings on disk, for any number of processes.

An embedding is a row of a shard: a numpy file of records, named by the SHA-256 of its content. An SQLite index says
which row of which shard holds which image. Shards are written under another name first and never changed, so a reader
sees all of one or nothing; the index can be rebuilt from them.
"""

import json
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ...files import make_folder, unwritable, write_text
from ...weights.remote import sha256
from ..embeddings import CellEmbeddings
from ..stored import as_records
from ._session import Key, Session

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shard (name TEXT PRIMARY KEY, recipe TEXT, bytes INTEGER, used REAL);
CREATE TABLE IF NOT EXISTS cell (recipe TEXT, key BLOB, shard TEXT, row INTEGER, PRIMARY KEY (recipe, key));
CREATE INDEX IF NOT EXISTS cell_by_shard ON cell (shard);
CREATE TABLE IF NOT EXISTS claim (recipe TEXT, key BLOB, writer TEXT, PRIMARY KEY (recipe, key));
"""
# Seconds that a writer waits for others to be done with the index.
_PATIENCE = 60
# Keys in one SQL statement: older SQLite takes 999 variables.
_KEYS_AT_ONCE = 900
# Unfinished files older than so many seconds are of writers that died.
_STALE = 3600
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(size: int | str) -> int:
    """Return a number of bytes given as such or as "500MB", "20 GB".

    Raises
    ------
    ValueError
        If it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)?", str(size).strip().upper())
    if match is None:
        raise ValueError(f"Got {size!r} but expected a size. Fix: a number of bytes, or as in '500MB' or '20GB'.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


# An index that came from elsewhere cannot make us read or delete anything but shards of its folder.
_SHARD = re.compile(r"[0-9a-z]+/[0-9a-f]{64}\.npy")


class DiskStore:
    """Embeddings in a folder, for any number of processes.

    Parameters
    ----------
    folder : path
        Made if need be.
    limit : int or str, optional
        Bytes, or as "20GB". When a session ends and the shards take more, the least recently used are deleted.
    """

    def __init__(self, folder: str | os.PathLike, limit: int | str | None = None) -> None:
        self.folder = Path(folder)
        self.limit = None if limit is None else parse_bytes(limit)
        self._index = self.folder / "index.sqlite"
        make_folder(self.folder / "writers")
        if not self._index.exists():
            with self._telling():
                self._rebuild()

    @contextmanager
    def session(self, recipe: str, description: Mapping[str, Any]) -> Iterator["_DiskSession"]:
        """See `Store`."""
        shards = self.folder / recipe[:16]
        shards.mkdir(exist_ok=True)
        if not (shards / "recipe.json").exists():
            write_text(shards / "recipe.json", json.dumps(description, indent=2) + "\n")
        writer = uuid.uuid4().hex
        # Held as long as this process lives: how others know that the claims are not a dead one's.
        alive = FileLock(self._lock_of(writer))
        try:
            with alive:
                session = _DiskSession(self, recipe[:16], writer)
                try:
                    yield session
                finally:
                    session.release()
        finally:
            self._lock_of(writer).unlink(missing_ok=True)
        if self.limit is not None:
            self.prune(self.limit)

    def info(self) -> pd.DataFrame:
        """Return one row a recipe: cells, bytes, when they were last used, and what made them."""
        rows = self.transact(
            lambda index: index.execute(
                "SELECT recipe, SUM(n), SUM(bytes), MAX(used) FROM shard JOIN "
                "(SELECT shard, COUNT(*) AS n FROM cell GROUP BY shard) ON shard = name GROUP BY recipe"
            ).fetchall()
        )
        table = pd.DataFrame(rows, columns=["recipe", "cells", "bytes", "last_used"])
        table["last_used"] = pd.to_datetime(table["last_used"], unit="s").dt.floor("s")
        made_by = [json.loads((self.folder / recipe / "recipe.json").read_text("utf-8")) for recipe in table["recipe"]]
        return pd.concat([table, pd.DataFrame(made_by, index=table.index)], axis=1)

    def prune(self, limit: int | str) -> int:
        """Delete the least recently used shards until `limit` bytes are left; return the bytes freed.

        What another process has open stays readable to it.
        """
        limit = parse_bytes(limit)

        def choose(index: sqlite3.Connection) -> tuple[list[str], int]:
            shards = index.execute("SELECT name, bytes FROM shard ORDER BY used DESC").fetchall()
            total = np.cumsum([size for _, size in shards])
            surplus = [shard for shard, upto in zip(shards, total, strict=True) if upto > limit]
            return [name for name, _ in surplus], sum(size for _, size in surplus)

        names, freed = self.transact(choose)
        self.drop(names)
        for unfinished in self.folder.glob("*/*.tmp"):
            with suppress(OSError):  # another process may clean up too
                if time.time() - unfinished.stat().st_mtime > _STALE:
                    unfinished.unlink()
        return freed

    def drop(self, names: Sequence[str]) -> None:
        """Delete shards."""

        def forget(index: sqlite3.Connection) -> None:
            index.executemany("DELETE FROM cell WHERE shard = ?", [(name,) for name in names])
            index.executemany("DELETE FROM shard WHERE name = ?", [(name,) for name in names])

        self.transact(forget)
        for name in filter(_SHARD.fullmatch, names):
            with suppress(OSError):  # gone already, or mapped on a system that keeps mapped files
                (self.folder / name).unlink()

    def find(self, recipe: str, keys: Sequence[Key]) -> list[tuple[Key, str, int]]:
        """Return (key, shard, row) of the keys that are there, and note their shards as used."""

        def look(index: sqlite3.Connection) -> list[tuple[Key, str, int]]:
            found = _select(index, "SELECT key, shard, row FROM cell", recipe, keys)
            now = time.time()
            index.executemany("UPDATE shard SET used = ? WHERE name = ?", [(now, s) for s in {s for _, s, _ in found}])
            return found

        return self.transact(look)

    def claim(self, recipe: str, keys: Sequence[Key], writer: str) -> list[Key]:
        """Note the keys as the writer's that are neither there nor a living other's."""

        def take(index: sqlite3.Connection) -> list[Key]:
            stored = {key for (key,) in _select(index, "SELECT key FROM cell", recipe, keys)}
            claims = dict(_select(index, "SELECT key, writer FROM claim", recipe, keys))
            living = {other for other in set(claims.values()) if self._is_alive(other)}
            free = [key for key in keys if key not in stored and claims.get(key) not in living]
            index.executemany("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", [(recipe, key, writer) for key in free])
            return free

        return self.transact(take)

    def release(self, writer: str) -> None:
        """Drop a writer's claims."""
        self.transact(lambda index: index.execute("DELETE FROM claim WHERE writer = ?", (writer,)))

    def write(self, recipe: str, keys: Sequence[Key], records: NDArray) -> NDArray:
        """Store records as a shard and return them memory-mapped."""
        unfinished = self.folder / recipe / f"{uuid.uuid4().hex}.tmp"
        try:
            with unfinished.open("wb") as file:
                np.save(file, records, allow_pickle=False)
        except OSError as exc:
            unfinished.unlink(missing_ok=True)
            raise unwritable(unfinished, exc) from exc
        size = unfinished.stat().st_size
        name = f"{recipe}/{sha256(unfinished)}.npy"
        unfinished.replace(self.folder / name)

        def enter(index: sqlite3.Connection) -> None:
            _enter(index, recipe, name, size, keys)
            index.executemany("DELETE FROM claim WHERE recipe = ? AND key = ?", [(recipe, key) for key in keys])

        self.transact(enter)
        return _load(self.folder / name)

    def read(self, name: str) -> NDArray | None:
        """Return a shard memory-mapped; one that is gone or damaged is dropped and None returned."""
        path = self.folder / name
        try:
            if not _SHARD.fullmatch(name):
                raise FileNotFoundError
            stat = path.stat()
            seen = (path, stat.st_mtime_ns, stat.st_size)
            if seen in _intact or sha256(path) == path.stem:
                records = _load(path)
                _intact.add(seen)
                return records
        except (FileNotFoundError, ValueError):
            pass
        self.drop([name])
        return None

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work on the index, all of it or none; a damaged index is rebuilt first.

        Raises
        ------
        OSError
            If the index cannot be written.
        """
        with self._telling():
            try:
                return self._transact(work)
            except sqlite3.DatabaseError as exc:
                if isinstance(exc, sqlite3.OperationalError) and "no such table" not in str(exc):
                    raise
            self._rebuild()
            return self._transact(work)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise OSError(
                f"The cache '{self.folder}' cannot be used: {exc}. Fix: free space, make the folder writable, or set "
                "another cache_dir."
            ) from exc

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with closing(sqlite3.connect(self._index, timeout=_PATIENCE, isolation_level=None)) as index:
            index.execute("PRAGMA synchronous = OFF")  # what a power cut damages is rebuilt
            index.execute("BEGIN IMMEDIATE")
            try:
                result = work(index)
            except BaseException:
                index.execute("ROLLBACK")
                raise
            index.execute("COMMIT")
            return result

    def _rebuild(self) -> None:
        """Make the index anew from the shards that are intact; damaged ones are deleted."""
        with FileLock(self.folder / "index.lock"):
            if self._is_healthy():
                return  # another process was quicker
            for leftover in ("index.sqlite", "index.sqlite-journal"):
                (self.folder / leftover).unlink(missing_ok=True)
            for path in self.folder.glob("*/*.npy"):
                try:
                    intact = sha256(path) == path.stem and len(_load(path))
                except ValueError:
                    intact = False
                if not intact:
                    path.unlink()
            shards = sorted(self.folder.glob("*/*.npy"))

            def fill(index: sqlite3.Connection) -> None:
                for statement in _SCHEMA.strip().split(";\n"):
                    index.execute(statement)
                for path in shards:
                    keys = [key.tobytes() for key in _load(path)["key"]]
                    name = f"{path.parent.name}/{path.name}"
                    _enter(index, path.parent.name, name, path.stat().st_size, keys)

            self._transact(fill)

    def _is_healthy(self) -> bool:
        try:
            checks = ("PRAGMA quick_check", "SELECT COUNT(*) > 0 FROM sqlite_master")
            return self._transact(lambda i: [i.execute(check).fetchone()[0] for check in checks]) == ["ok", 1]
        except sqlite3.DatabaseError:
            return False

    def _is_alive(self, writer: str) -> bool:
        lock = FileLock(self._lock_of(writer))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        self._lock_of(writer).unlink(missing_ok=True)
        return False

    def _lock_of(self, writer: str) -> Path:
        return self.folder / "writers" / f"{writer}.lock"


# Shards that this process found intact, with the time and size that they had.
_intact: set[tuple[Path, int, int]] = set()


class _DiskSession(Session):
    def __init__(self, store: DiskStore, recipe: str, writer: str) -> None:
        super().__init__(recipe)
        self._store, self._writer = store, writer
        self._shards: dict[str, NDArray | None] = {}

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        unknown = [key for key in keys if key not in self.found]
        for key, name, row in self._store.find(self.recipe, unknown):
            if name not in self._shards:
                self._shards[name] = self._store.read(name)
            records = self._shards[name]
            if records is None:
                continue
            if not 0 <= row < len(records) or records[row]["key"].tobytes() != key:
                self._store.drop([name])  # an index that is wrong about a shard is not believed about any of it
                self._shards[name] = None
                continue
            self.found[key] = (records, row)
        return [key for key in unknown if key not in self.found]

    def take(self, keys: Sequence[Key]) -> list[Key]:
        return self._store.claim(self.recipe, keys, self._writer)

    def put(self, keys: Sequence[Key], cells: CellEmbeddings) -> None:
        records = self._store.write(self.recipe, keys, as_records(keys, cells))
        self.found.update({key: (records, row) for row, key in enumerate(keys)})

    def release(self) -> None:
        self._store.release(self._writer)


def _load(path: Path) -> NDArray:
    """Map a shard.

    Raises
    ------
    ValueError
        If it is no table of embeddings.
    """
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    if "key" not in (records.dtype.names or ()):
        raise ValueError(f"'{path}' holds no embeddings.")
    return records


def _select(index: sqlite3.Connection, query: str, recipe: str, keys: Sequence[Key]) -> list[Any]:
    """Run a query on the rows of some keys."""
    found: list[Any] = []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        found += index.execute(f"{query} WHERE recipe = ? AND key IN ({marks})", (recipe, *some)).fetchall()
    return found


def _enter(index: sqlite3.Connection, recipe: str, name: str, size: int, keys: Sequence[Key]) -> None:
    """Add a shard and its rows to the index."""
    index.execute("INSERT OR REPLACE INTO shard VALUES (?, ?, ?, ?)", (name, recipe, size, time.time()))
    index.executemany(
        "INSERT OR IGNORE INTO cell VALUES (?, ?, ?, ?)", [(recipe, key, name, row) for row, key in enumerate(keys)]
    )
