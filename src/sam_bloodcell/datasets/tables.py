"""Tables of users: CSV files of text, with paths relative to the table."""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..files import paths_beside

_SEPARATORS = (("semicolons", ";"), ("tabs", "\t"), ("bars", "|"))
_UNCLOSED = "Fix: close the quotation mark before it; the text after it was read as one value."


def read_table(
    csv: str | os.PathLike, required: Sequence[str] = (), *, root: str | os.PathLike | None = None,
    comment: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Read a CSV file (with tabs if its name ends in ".tsv") as text: "007" and "NA" stay as written, and gaps are "".

    The required columns must exist and have a value in every row. If "path" is one of them, the paths in the columns
    path and mask are relative to the table, are made absolute, and must be in `root` (default: the table's folder).
    """
    csv = Path(csv)
    table = _parsed(csv, comment)
    check_columns(table.columns.tolist(), required, csv)
    if table.empty:
        raise ValueError(f"'{csv}' has a header but no rows. Fix: add a row for each entry.")
    for name in required:
        _check_values(table[name], name, csv)
    for name in table.columns:
        _check_lines(table[name], name, csv, len(table.columns) - 1)
    if "path" in required:
        for name in table.columns.intersection(["path", "mask"]):
            table[name] = paths_beside(csv, table[name], root)
    return table


def _check_values(column: pd.Series, name: str, csv: Path) -> None:
    empty = np.flatnonzero(column.str.strip() == "")
    if len(empty):
        raise ValueError(f"'{csv}' row {empty[0]}: {name} is empty. Fix: fill it in or remove the row.")
    broken = np.flatnonzero(column.str.contains("[\r\n]"))
    if len(broken):
        raise ValueError(f"'{csv}' row {broken[0]}: {name} continues on the next line. {_UNCLOSED}")


def _check_lines(column: pd.Series, name: str, csv: Path, n_separators: int) -> None:
    """Raise if a value continues with text that looks like another row; a note of several lines does not."""
    separator = "\t" if csv.suffix.casefold() == ".tsv" else ","
    swallowed = rf"[\r\n](?:[^\r\n{separator}]*{separator}){{{max(n_separators, 1)}}}"
    broken = np.flatnonzero(column.str.contains(swallowed))
    if len(broken):
        raise ValueError(f"'{csv}' row {broken[0]}: {name} continues on the next line. {_UNCLOSED}")


def _parsed(csv: Path, comment: str | None) -> pd.DataFrame:
    separator, character = ("tabs", "\t") if csv.suffix.casefold() == ".tsv" else ("commas", ",")
    fix = f"Fix: save it as UTF-8 with {separator}."
    text = _text_of(csv, fix)
    options: dict[str, Any] = {"sep": character, "comment": comment, "dtype": str, "keep_default_na": False}
    try:
        with warnings.catch_warnings():
            # pandas would only warn, and drop values, if a row has more values than the header has names.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # The header is read as a row, because pandas would rename duplicate columns.
            header = pd.read_csv(io.StringIO(text), header=None, nrows=1, **options).iloc[0].tolist()
            table = pd.read_csv(io.StringIO(text), index_col=False, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning) as exc:
        reason = str(exc).strip()
        if isinstance(exc, pd.errors.ParserWarning):
            reason = "its rows have more values than its header has names"
        if not isinstance(exc, pd.errors.EmptyDataError):
            fix += f" Quote values that contain {separator}, and remove {separator} at the ends of rows."
        raise ValueError(f"'{csv}' is not a readable CSV: {reason}. {fix}") from exc
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise ValueError(f"'{csv}' has the column '{twice[0]}' twice. Fix: rename or remove one of them.")
    return table


def _text_of(csv: Path, fix: str) -> str:
    content = csv.read_bytes()
    try:
        text = content.decode("utf-8-sig")  # spreadsheets write a byte order mark first
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ValueError(f"'{csv}' is not a readable CSV: line {line} is not UTF-8. {fix}") from exc
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"'{csv}' is not a readable CSV: line {line} contains a NUL byte. {fix}")
    if re.match(r"sep=.?\r?\n", text):
        raise ValueError(f"'{csv}' begins with Excel's line '{text.splitlines()[0]}'. Fix: remove that line.")
    return text


def check_columns(columns: Sequence[str], required: Sequence[str], source: str | os.PathLike, fix: str = "") -> None:
    """Raise unless all required columns exist; `source` is the table's name in the message."""
    lacking = [name for name in required if name not in columns]
    if not lacking:
        return
    header, fix = ", ".join(map(str, columns)), fix or f"name its columns {', '.join(required)}."
    for name, character in _SEPARATORS:
        if len(columns) == 1 and character in header:
            fix += f" Separate them with commas, not {name}."
    for name, written in similar_columns(columns, lacking).items():
        fix += f" Write {name}, not '{written}'."
    raise ValueError(f"'{source}' lacks the column(s) {', '.join(lacking)}; it has {header}. Fix: {fix}")


def similar_columns(columns: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Return columns that differ from the wanted ones only in case or surrounding spaces, by the wanted name."""
    named = {str(column).strip().casefold(): str(column) for column in columns}
    return {name: named[name] for name in wanted if name not in columns and name in named}
