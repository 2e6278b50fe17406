"""Tables that users hand over: CSV files of text, with paths relative to the table."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import paths_beside


def read_table(
    csv: str | os.PathLike, required: Sequence[str] = (), *, root: str | os.PathLike | None = None,
    comment: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Read a CSV file (with tabs if its name ends in ".tsv") as text: "007" and "NA" stay as written, no value is "".

    The required columns must be there and have a value in every row. If "path" is one of them, the paths in the columns
    path and mask are relative to the table, become whole, and may not leave `root` (default the table's folder).
    """
    csv = Path(csv)
    table = _parsed(csv, comment)
    check_columns(table.columns.tolist(), required, csv)
    if table.empty:
        raise ValueError(f"'{csv}' has a header but no rows. Fix: add a row for each entry.")
    for name in required:
        empty = np.flatnonzero(table[name].str.strip() == "")
        if len(empty):
            raise ValueError(f"'{csv}' row {empty[0]}: {name} is empty. Fix: fill it in or remove the row.")
    if "path" in required:
        for name in table.columns.intersection(["path", "mask"]):
            table[name] = paths_beside(csv, table[name], root)
    return table


def _parsed(csv: Path, comment: str | None) -> pd.DataFrame:
    separator, character = ("tabs", "\t") if csv.suffix.casefold() == ".tsv" else ("commas", ",")
    try:
        text = csv.read_text("utf-8-sig")  # spreadsheets put a byte order mark in front
        with warnings.catch_warnings():
            # For rows with more values than the header has names, pandas would only warn and drop values.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.StringIO(text), sep=character, comment=comment, dtype=str, keep_default_na=False, index_col=False
            )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning) as exc:
        reason = str(exc).strip()
        if isinstance(exc, UnicodeDecodeError):
            line = exc.object.count(b"\n", 0, exc.start) + 1
            reason = f"line {line} is not UTF-8"
        elif isinstance(exc, pd.errors.ParserWarning):
            reason = "its rows have more values than its header has names"
        raise ValueError(f"'{csv}' is no readable CSV: {reason}. Fix: save it as UTF-8 with {separator}.") from exc


def check_columns(columns: Sequence[str], required: Sequence[str], source: str | os.PathLike, fix: str = "") -> None:
    """Raise unless all the required columns are there; `source` is the table's name in the message."""
    lacking = [name for name in required if name not in columns]
    if not lacking:
        return
    header, fix = ", ".join(map(str, columns)), fix or f"name its columns {', '.join(required)}."
    for name, character in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        if len(columns) == 1 and character in header:
            fix += f" Separate them with commas, not {name}."
    raise ValueError(f"'{source}' lacks the column(s) {', '.join(lacking)}; it has {header}. Fix: {fix}")
