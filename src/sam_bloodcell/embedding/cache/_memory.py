"""Embeddings in memory, for this process."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from numpy.typing import NDArray

from ..embeddings import CellEmbeddings
from ..stored import as_records
from ._session import Key, Place, Session

# Of the free memory, the share that embeddings may take which nobody asked to keep.
_MEMORY_SHARE = 0.25


class MemoryStore:
    """Embeddings of this process, the oldest dropped when they would take more than a quarter of the free memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[tuple[str, Key], Place] = {}
        # Records and the names of their rows by the records' id, used longest ago first.
        self._batches: OrderedDict[int, tuple[NDArray, list[tuple[str, Key]]]] = OrderedDict()
        self._claims: dict[tuple[str, Key], object] = {}
        self.nbytes = 0

    @contextmanager
    def session(self, recipe: str, description: Mapping[str, Any]) -> Iterator["_MemorySession"]:
        """See `Store`."""
        session = _MemorySession(self, recipe)
        try:
            yield session
        finally:
            session.release()

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._places.clear()
            self._batches.clear()
            self.nbytes = 0

    def find(self, recipe: str, keys: Iterable[Key]) -> dict[Key, Place]:
        """Return the places of the keys that are there."""
        with self._lock:
            found = {key: self._places[recipe, key] for key in keys if (recipe, key) in self._places}
            for records, _ in found.values():
                self._batches.move_to_end(id(records))
            return found

    def claim(self, recipe: str, keys: Sequence[Key], session: object) -> list[Key]:
        """Note the keys as the session's that are neither there nor another's."""
        with self._lock:
            free = [key for key in keys if (recipe, key) not in self._places and (recipe, key) not in self._claims]
            self._claims.update({(recipe, key): session for key in free})
            return free

    def release(self, session: object) -> None:
        """Drop a session's claims."""
        with self._lock:
            self._claims = {key: owner for key, owner in self._claims.items() if owner is not session}

    def keep(self, recipe: str, keys: Sequence[Key], records: NDArray) -> None:
        """Keep records while memory allows."""
        with self._lock:
            for key in keys:
                self._claims.pop((recipe, key), None)
            names = [(recipe, key) for key in keys]
            self._places.update({name: (records, row) for row, name in enumerate(names)})
            self._batches[id(records)] = (records, names)
            self.nbytes += records.nbytes
            while self._batches and self.nbytes > _MEMORY_SHARE * (psutil.virtual_memory().available + self.nbytes):
                _, (oldest, names) = self._batches.popitem(last=False)
                self.nbytes -= oldest.nbytes
                for name in names:
                    self._places.pop(name, None)


class _MemorySession(Session):
    in_memory = True

    def __init__(self, store: MemoryStore, recipe: str) -> None:
        super().__init__(recipe)
        self._store = store

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        unknown = [key for key in keys if key not in self.found]
        self.found |= self._store.find(self.recipe, unknown)
        return [key for key in unknown if key not in self.found]

    def take(self, keys: Sequence[Key]) -> list[Key]:
        return self._store.claim(self.recipe, keys, self)

    def put(self, keys: Sequence[Key], cells: CellEmbeddings) -> None:
        records = as_records(keys, cells)
        self.found.update({key: (records, row) for row, key in enumerate(keys)})
        self._store.keep(self.recipe, keys, records)

    def release(self) -> None:
        self._store.release(self)
