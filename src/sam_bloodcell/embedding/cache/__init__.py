"""Every image once: embeddings by content, on disk for all processes and sessions, or in memory for this process."""

import os

from ._disk import DiskStore, parse_bytes
from ._memory import MemoryStore
from ._session import Session, Store

__all__ = ["MEMORY", "DiskStore", "MemoryStore", "Session", "Store", "open_store", "parse_bytes"]

MEMORY = MemoryStore()


def open_store(folder: str | os.PathLike | None, limit: int | str | None = None) -> Store:
    """Return the store of a folder, or without one that of this process."""
    return MEMORY if folder is None else DiskStore(folder, limit)
