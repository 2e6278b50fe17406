"""A cache of embeddings by image content, in a folder for all processes or in memory."""

import json
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import psutil

from .session import EmbeddingSession, Key, delete_records
from .table import RecordTable

_BYTES = "length(pooled) + length(quality) + length(mask) + ifnull(length(tokens), 0) + ifnull(length(crops), 0)"
# Share of the free memory that a store in memory may use.
_MEMORY_SHARE = 0.25
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class EmbeddingStore(RecordTable):
    """A cache of embeddings in an SQLite table.

    A transaction stores all records of a batch or none. Each record has a checksum, so that damage is detected and the
    image is embedded again. A table that SQLite can no longer read is replaced by a new one.

    Parameters
    ----------
    folder : path, optional
        Folder of the table, for any number of processes. It is created if missing, and must be on a local disk, because
        SQLite needs locks that network file systems often lack. By default, the table is in the memory of this process.
    limit : int or str, optional
        Maximum size in bytes, or as "20GB". If the records take more when a session ends, the least recently used are
        deleted, except tokens and crops that the session itself requested. By default, there is no limit in a folder,
        and a quarter of the free memory in memory.
    """

    def __init__(self, folder: str | os.PathLike | None = None, limit: int | str | None = None) -> None:
        super().__init__(folder)
        self.limit = None if limit is None else parse_bytes(limit)

    @contextmanager
    def session(
        self, recipe: str, description: Mapping[str, Any], keep: Collection[str] = ()
    ) -> Iterator["EmbeddingSession"]:
        """Open a session for the records of one recipe.

        Parameters
        ----------
        recipe : str
            Digest of the weights and settings.
        description : mapping
            Description of the recipe, which `info` shows.
        keep : collection of str, default=()
            Parts to keep in addition to the pooled embeddings, such as "tokens".

        Yields
        ------
        EmbeddingSession
            The open session.
        """
        session = EmbeddingSession(self, recipe[:16], keep)
        row = (session.recipe, json.dumps(description))
        if not self.read_only:
            self.transact(lambda db: db.execute("INSERT OR IGNORE INTO recipe VALUES (?, ?)", row))
        with self.kept_alive(session.owner):
            try:
                yield session
            finally:
                session.release()
        limit = None if self.read_only else self.limit
        if self.folder is None:
            limit = int(_MEMORY_SHARE * (psutil.virtual_memory().available + self.nbytes))
        if limit is not None and self.nbytes > limit:
            self.prune(limit, spare=session.found if keep else ())

    @property
    def nbytes(self) -> int:
        """Return the size of the records in bytes."""
        return self.read(lambda db: db.execute(f"SELECT SUM({_BYTES}) FROM cell").fetchone()[0]) or 0

    def info(self) -> pd.DataFrame:
        """Return a table of the cached embeddings, by weights and settings.

        Returns
        -------
        pandas.DataFrame
            A row per recipe: number of cells, bytes, time of the last use, weights and settings.
        """
        rows = self.read(
            lambda db: db.execute(
                f"SELECT recipe, COUNT(*), SUM({_BYTES}), MAX(at), description FROM cell JOIN used USING (recipe, key) "
                "JOIN recipe ON name = recipe GROUP BY recipe"
            ).fetchall()
        )
        table = pd.DataFrame(rows, columns=["recipe", "cells", "bytes", "last_used", "description"])
        table["last_used"] = pd.to_datetime(table["last_used"], unit="s", errors="coerce").dt.floor("s")
        made_by = pd.DataFrame([json.loads(text) for text in table.pop("description")], index=table.index)
        return pd.concat([table, made_by], axis=1)

    def prune(self, limit: int | str, *, spare: Collection[Key] = ()) -> int:
        """Delete the least recently used records until `limit` bytes are left.

        Records with a last use in the future, after a wrong clock, count as oldest, because they might otherwise stay
        forever.

        Parameters
        ----------
        limit : int or str
            Size to keep, in bytes or as "20GB".
        spare : collection of keys, default=()
            Keys of records to keep in any case.

        Returns
        -------
        int
            Number of bytes that were freed.
        """
        limit = parse_bytes(limit)

        def thin_out(db: sqlite3.Connection) -> int:
            rows = db.execute(
                f"SELECT recipe, key, {_BYTES} FROM cell JOIN used USING (recipe, key) "
                "ORDER BY at <= ? DESC, at DESC, cell.rowid DESC",
                (time.time(),),
            ).fetchall()
            kept_bytes = np.cumsum([size for *_, size in rows])
            surplus = [row for row, upto in zip(rows, kept_bytes, strict=True) if upto > limit and row[1] not in spare]
            delete_records(db, [(recipe, key) for recipe, key, _ in surplus])
            return sum(size for *_, size in surplus)

        freed = 0
        for journal in ("DELETE", "MEMORY"):  # a full disk has no space for a journal file
            try:
                freed += self.transact(thin_out, journal=journal)
                self.shrink(journal)
                break
            except OSError as exc:
                if journal == "MEMORY" or "disk is full" not in str(exc):
                    raise
        return freed

    def clear(self) -> None:
        """Delete all records."""
        self.prune(0)


def parse_bytes(size: int | str) -> int:
    """Return a number of bytes from a number or from text such as "500MB" or "20 GB"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)?", str(size).strip().upper())
    if match is None:
        raise ValueError(f"Got {size!r} but expected a size. Fix: pass a number of bytes, or '500MB' or '20GB'.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


MEMORY = EmbeddingStore()
