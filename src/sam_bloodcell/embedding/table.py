"""An SQLite table of records, in a folder for all processes or in the memory of one."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from ..files import make_folder

T = TypeVar("T")

_SCHEMA = (
    "CREATE TABLE recipe (name TEXT PRIMARY KEY, description TEXT)",
    "CREATE TABLE cell (recipe TEXT, key BLOB, pooled BLOB, quality BLOB, mask BLOB, checksum INTEGER, "
    "tokens BLOB, crops BLOB, PRIMARY KEY (recipe, key))",
    # Apart from the records, which would have to be written again to note when they were used.
    "CREATE TABLE used (recipe TEXT, key BLOB, at REAL, PRIMARY KEY (recipe, key)) WITHOUT ROWID",
    "CREATE TABLE claim (recipe TEXT, key BLOB, owner TEXT, PRIMARY KEY (recipe, key)) WITHOUT ROWID",
)
# Seconds to wait for other processes that use the table.
_PATIENCE = 60


class RecordTable:
    """A table that is begun anew when SQLite cannot read it any more; without a folder it is in memory."""

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memory = _Memory()
        if self.folder is not None:
            make_folder(self.folder / "sessions")
            if not self._table.exists():
                with self._explained():
                    self._begin_anew()

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work on the table, all of it or none; a table that is damaged or gone is begun anew first."""
        with self._explained():
            try:
                return self._transact_once(work)
            except sqlite3.DatabaseError as exc:
                if isinstance(exc, sqlite3.OperationalError) and "no such table" not in str(exc):
                    raise
            self._begin_anew()
            return self._transact_once(work)

    def shrink(self) -> None:
        """Give the space of deleted records back to the disk."""
        with self._explained(), self.connected() as table:
            table.executescript("PRAGMA incremental_vacuum")  # execute would free one page alone

    def is_alive(self, owner: str) -> bool:
        """Tell whether the session of this owner is still open somewhere."""
        if self.folder is None:
            return True
        lock = FileLock(self._lock_of(owner))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        with suppress(OSError):
            self._lock_of(owner).unlink(missing_ok=True)
        return False

    @contextmanager
    def kept_alive(self, owner: str) -> Iterator[None]:
        """Hold a lock that the system frees when this process dies: its claims are then another's to take."""
        if self.folder is None:
            yield
            return
        try:
            with FileLock(self._lock_of(owner)):
                yield
        finally:
            self._lock_of(owner).unlink(missing_ok=True)

    def _lock_of(self, owner: str) -> Path:
        return Path(self.folder or "", "sessions", f"{owner}.lock")

    @property
    def _table(self) -> Path:
        return Path(self.folder or "", "embeddings.sqlite")

    def _transact_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self.connected() as table:
            table.execute("BEGIN IMMEDIATE")
            try:
                result = work(table)
            except BaseException:
                table.execute("ROLLBACK")
                raise
            table.execute("COMMIT")
            return result

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to the table."""
        if self.folder is None:
            with self._memory.connected() as table:
                yield table
            return
        with closing(sqlite3.connect(self._table, timeout=_PATIENCE, isolation_level=None)) as table:
            table.execute("PRAGMA synchronous = OFF")  # what a power cut damages is embedded again
            yield table

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise OSError(
                f"The cache '{self.folder}' cannot be used: {exc}. Fix: free space, make the folder writable, or set "
                "another cache_dir."
            ) from exc

    def _begin_anew(self) -> None:
        """Replace a table that is damaged or not there by an empty one."""
        with FileLock(Path(self.folder or "", "table.lock")):
            if self._is_intact():
                return  # another process was quicker
            for suffix in ("", "-journal"):
                self._table.with_name(self._table.name + suffix).unlink(missing_ok=True)
            with self.connected() as table:
                _create(table)

    def _is_intact(self) -> bool:
        if not self._table.exists():
            return False
        try:
            with self.connected() as table:
                tables = table.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
                return tables == len(_SCHEMA) and table.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        except sqlite3.DatabaseError:
            return False


class _Memory:
    """A table in memory, for the threads of one process; a forked process begins with an empty one."""

    def __init__(self) -> None:
        self._process: int | None = None

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.Lock()
            self._table = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            _create(self._table)
        with self._lock:
            yield self._table


def _create(table: sqlite3.Connection) -> None:
    table.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for statement in _SCHEMA:
        table.execute(statement)
