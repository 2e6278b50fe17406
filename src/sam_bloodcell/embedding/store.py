"""Each image is embedded once: its record is kept by content, in a folder for all processes, or in memory."""

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
# Of the free memory, the share that a store in memory may take.
_MEMORY_SHARE = 0.25
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class EmbeddingStore(RecordTable):
    """Records in an SQLite table.

    A transaction stores the records of a batch, all of them or none. Each record carries a checksum, so that damage is
    noticed and the image is embedded again; a table that SQLite cannot read any more is begun anew.

    Parameters
    ----------
    folder : path, optional
        For any number of processes; made if need be, on a disk of this machine, since SQLite needs locks that network
        file systems often lack. Default: in the memory of this process.
    limit : int or str, optional
        Bytes, or as "20GB". When a session ends and the records take more, the least recently used are deleted, but
        not tokens and crops that the session itself asked for. Default: none in a folder, a quarter of what is free in
        memory.
    """

    def __init__(self, folder: str | os.PathLike | None = None, limit: int | str | None = None) -> None:
        super().__init__(folder)
        self.limit = None if limit is None else parse_bytes(limit)

    @contextmanager
    def session(
        self, recipe: str, description: Mapping[str, Any], keep: Collection[str] = ()
    ) -> Iterator["EmbeddingSession"]:
        """Open a session for the records of one recipe (a digest); the description is for people."""
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
        """Bytes that the records take."""
        return self.read(lambda db: db.execute(f"SELECT SUM({_BYTES}) FROM cell").fetchone()[0]) or 0

    def info(self) -> pd.DataFrame:
        """Return one row a recipe: cells, bytes, when they were last used, and what made them."""
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
        """Delete the least recently used records until `limit` bytes are left; return the bytes freed.

        Records that were used in the future count as oldest: a clock was wrong, and else they might stay for ever.
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
        for journal in ("DELETE", "MEMORY"):  # a full disk has no space for a journal
            try:
                freed += self.transact(thin_out, journal=journal)
                self.shrink(journal)
                break
            except OSError as exc:
                if journal == "MEMORY" or "disk is full" not in str(exc):
                    raise
        return freed

    def clear(self) -> None:
        """Forget everything."""
        self.prune(0)


def parse_bytes(size: int | str) -> int:
    """Return a number of bytes given as such or as "500MB", "20 GB"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)?", str(size).strip().upper())
    if match is None:
        raise ValueError(f"Got {size!r} but expected a size. Fix: a number of bytes, or as in '500MB' or '20GB'.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


MEMORY = EmbeddingStore()
