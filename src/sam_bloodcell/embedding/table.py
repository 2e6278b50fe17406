"""An SQLite table of records, in a folder for all processes or in the memory of one."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from ..files import make_folder

T = TypeVar("T")

_SCHEMA = {
    "recipe": "CREATE TABLE recipe (name TEXT PRIMARY KEY, description TEXT)",
    "cell": "CREATE TABLE cell (recipe TEXT, key BLOB, pooled BLOB, quality BLOB, mask BLOB, checksum INTEGER, "
    "tokens BLOB, crops BLOB, PRIMARY KEY (recipe, key))",
    # In a table of its own, so that noting the time of the last use does not rewrite the large records.
    "used": "CREATE TABLE used (recipe TEXT, key BLOB, at REAL, PRIMARY KEY (recipe, key)) WITHOUT ROWID",
    "claim": "CREATE TABLE claim (recipe TEXT, key BLOB, owner TEXT, PRIMARY KEY (recipe, key)) WITHOUT ROWID",
}
# Maximum number of seconds to wait for other processes that use the table.
_PATIENCE = 60


class RecordTable:
    """A table that is replaced by a new one if SQLite can no longer read it. Without a folder, it is in memory.

    `read_only` is true if the table exists, but this user cannot write to it or its folder.
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.read_only = False
        self._memory = _Memory()
        if self.folder is not None:
            # os.path.exists is used because Path.exists raises in a folder without permission.
            places = [self.folder, self.folder / "sessions", self._table]
            there = os.path.exists(self._table)  # noqa: PTH110
            closed = [place for place in places if os.path.exists(place) and not os.access(place, os.W_OK)]  # noqa: PTH110
            self.read_only = there and bool(closed)
            if not self.read_only:
                make_folder(self.folder / "sessions")
            if not there:
                with self._explained():
                    self._begin_anew()

    @staticmethod
    def is_in(folder: str | os.PathLike) -> bool:
        """Return whether a folder contains a table."""
        return RecordTable._path_in(folder).exists()

    def transact(self, work: Callable[[sqlite3.Connection], T], *, journal: str = "DELETE") -> T:
        """Do some work in one transaction; a damaged or missing table is first replaced by a new one.

        The journal "MEMORY" needs no space on the disk, but the table is damaged if this process dies during the work.
        """
        if self.read_only:
            with self._explained():
                raise sqlite3.OperationalError("it is read-only")
        return self._transact(work, f"PRAGMA journal_mode = {journal}", "BEGIN IMMEDIATE")

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work that only reads, as `transact`; it needs no write permission and no space on the disk."""
        return self._transact(work, "BEGIN")

    def _transact(self, work: Callable[[sqlite3.Connection], T], *begin: str) -> T:
        with self._explained():
            try:
                return self._transact_once(work, begin)
            except sqlite3.DatabaseError as exc:
                gone = "no such table" in str(exc)
                if (isinstance(exc, sqlite3.OperationalError) and not gone) or self.folder is None or self.read_only:
                    raise
            self._begin_anew()
            return self._transact_once(work, begin)

    def shrink(self, journal: str = "DELETE") -> None:
        """Free the disk space of deleted records, with a journal as in `transact`."""
        with self._explained(), self.connected() as table:
            table.execute(f"PRAGMA journal_mode = {journal}")
            table.executescript("PRAGMA incremental_vacuum")  # execute would free only one page

    def is_alive(self, owner: str) -> bool:
        """Return whether the session of this owner is still open in any process."""
        if self.folder is None:
            return True
        lock = FileLock(self._lock_of(owner))
        try:
            with self._explained():
                lock.acquire(timeout=0)
        except Timeout:
            return True
        except PermissionError:
            return False  # another user has the lock; embedding an image twice is better than waiting forever
        lock.release()
        with suppress(OSError):
            self._lock_of(owner).unlink(missing_ok=True)
        return False

    @contextmanager
    def kept_alive(self, owner: str) -> Iterator[None]:
        """Hold a lock that the system releases if this process dies, so that other processes can take its claims."""
        if self.folder is None or self.read_only:
            yield
            return
        lock = FileLock(self._lock_of(owner))
        with self._explained():
            lock.acquire()
        try:
            yield
        finally:
            with suppress(OSError):  # the folder may be gone
                lock.release()
                self._lock_of(owner).unlink(missing_ok=True)

    def _lock_of(self, owner: str) -> Path:
        return Path(self.folder or "", "sessions", f"{owner}.lock")

    @property
    def _table(self) -> Path:
        return self._path_in(self.folder or "")

    @staticmethod
    def _path_in(folder: str | os.PathLike) -> Path:
        return Path(folder, "embeddings.sqlite")

    def _transact_once(self, work: Callable[[sqlite3.Connection], T], begin: Sequence[str]) -> T:
        with self.connected() as table:
            for statement in begin:
                table.execute(statement)
            try:
                result = work(table)
            except BaseException:
                if table.in_transaction:  # if the disk is full, SQLite has already rolled back
                    table.execute("ROLLBACK")
                raise
            table.execute("COMMIT")
            return result

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection to the table."""
        if self.folder is None:
            with self._memory.connected() as table:
                yield table
            return
        with closing(sqlite3.connect(self._table, timeout=_PATIENCE, isolation_level=None)) as table:
            table.execute("PRAGMA synchronous = OFF")  # records that a power cut damages are embedded again
            table.text_factory = _as_text
            yield table

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replace errors of SQLite, the file system and its locks by an error that names the folder and the fix."""
        try:
            yield
        except Timeout:
            raise
        except (sqlite3.Error, OSError, NotImplementedError) as exc:  # the last one comes from a system without locks
            gone = self.folder is not None and not os.path.isdir(self.folder)  # noqa: PTH112, as in __init__
            kind = PermissionError if isinstance(exc, PermissionError) else OSError
            raise kind(
                f"The cache '{self.folder}' cannot be used: {'the folder is gone' if gone else exc}. Fix: free space, "
                "make the folder writable, or set another cache_dir, on a disk of this machine if locks are at fault."
            ) from exc

    def _begin_anew(self) -> None:
        """Replace a damaged or missing table by an empty one."""
        with FileLock(Path(self.folder or "", "table.lock")):
            if self._is_intact():
                return  # another process has already replaced it
            for suffix in ("", "-journal"):
                self._table.with_name(self._table.name + suffix).unlink(missing_ok=True)
            self._table.touch()  # SQLite would ignore the umask and not let a group write
            with self.connected() as table:
                _create(table)

    def _is_intact(self) -> bool:
        if not self._table.exists():
            return False
        try:
            with self.connected() as table:
                names = {name for (name,) in table.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                sound = table.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        except sqlite3.OperationalError:
            raise  # the table is locked or cannot be read, but it need not be damaged
        except sqlite3.DatabaseError:
            return False
        if sound and not names <= set(_SCHEMA):
            raise sqlite3.DatabaseError(f"'{self._table.name}' is of another version or program")
        return sound and names == set(_SCHEMA)


def _as_text(content: bytes) -> str:
    """Decode a text; bytes that damage has turned into a text that cannot be decoded stay readable as damaged."""
    return content.decode(errors="replace")


class _Memory:
    """A table in memory, for the threads of one process; a forked process begins with an empty one."""

    def __init__(self) -> None:
        self._of_process: dict[int, tuple[threading.Lock, sqlite3.Connection]] = {}

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() not in self._of_process:
            table = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            _create(table)
            self._of_process.setdefault(os.getpid(), (threading.Lock(), table))  # the first of several threads wins
        lock, table = self._of_process[os.getpid()]
        with lock:
            yield table


def _create(table: sqlite3.Connection) -> None:
    table.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for statement in _SCHEMA.values():
        table.execute(statement)
