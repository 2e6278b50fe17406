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
    csv: str | os.PathLike,
    required: Sequence[str] = (),
    *,
    root: str | os.PathLike | None = None,
    comment: str | None = None,
) -> pd.DataFrame:
    """Read a CSV file whose columns all stay text: "007", "NA" and "1E5" are kept as they are written.

    Parameters
    ----------
    csv : path
        UTF-8 with commas, or with tabs if the name ends in ".tsv".
    required : sequence of str
        Columns that must be there and have a value in every row. If "path" is one of them, the paths in the columns
        path and mask, which are relative to the table's folder, are completed with it.
    root : path, optional
        Folder that the paths may not leave; default the table's own.
    comment : str, optional
        Character that begins a comment.

    Returns
    -------
    pandas.DataFrame
        All columns of the table, of strings; a cell without a value is "".

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not such a table, has no rows, lacks a column or a value, or a path leads out of `root`; the
        message names the file, and the row if there is one.
    """
    csv = Path(csv)
    table = _parsed(csv, comment)
    _check_columns(table, required, csv)
    if table.empty:
        raise ValueError(f"'{csv}' has a header but no rows. Fix: add a row for each entry.")
    for name in required:
        empty = np.flatnonzero(table[name].str.strip() == "")
        if len(empty):
            raise ValueError(f"'{csv}' row {empty[0]}: {name} is empty. Fix: fill it in or remove the row.")
    if "path" in required:
        for name in ("path", "mask"):
            if name in table:
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
        raise ValueError(
            f"'{csv}' is no readable CSV: {_reason(exc)}. Fix: save it as UTF-8 with {separator}."
        ) from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        line = exc.object.count(b"\n", 0, exc.start) + 1
        return f"line {line} is not UTF-8"
    if isinstance(exc, pd.errors.ParserWarning):
        return "its rows have more values than its header has names"
    return str(exc).strip()


def _check_columns(table: pd.DataFrame, required: Sequence[str], csv: Path) -> None:
    lacking = [name for name in required if name not in table]
    if not lacking:
        return
    header = ", ".join(map(str, table))
    hint = ""
    for name, character in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        if table.shape[1] == 1 and character in header:
            hint = f" Separate them with commas, not {name}."
    raise ValueError(
        f"'{csv}' lacks the column(s) {', '.join(lacking)}; it has {header}. Fix: name its columns "
        f"{', '.join(required)}.{hint}"
    )
