"""What a table of predictions says in a few lines, and its file."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from ..files import as_path, check_writable, make_folder, replacing

_WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace"),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}
_MOST_LISTED = 10  # wrong answers


def check_predictions_file(out: str | os.PathLike, *, overwrite: bool) -> Path:
    """Return the path of a file to write predictions to; raise now, before hours of work, if it cannot be written."""
    path = as_path(out, "out")
    if path.suffix not in _WRITERS:
        raise ValueError(f"Got '{path}' but expected a name that ends in {' or '.join(_WRITERS)}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists. Fix: overwrite=True, or another name.")
    make_folder(path.parent)
    check_writable(path)
    return path


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions, whole or not at all, in the format that the file's suffix names."""
    with replacing(path) as draft:
        _WRITERS[path.suffix](table, draft)


def wrong_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose label differs from the answer, the most confident ones first; none without labels."""
    if "label" not in table:
        return table.iloc[:0]
    wrong = table["label"].notna() & (table["label"] != "") & (table["label"] != table["predicted"])
    return table[wrong].sort_values("confidence", ascending=False, kind="stable")


def as_benchmark(table: pd.DataFrame) -> pd.DataFrame:
    """Return the wrong answers with the columns of a benchmark's predictions, for `plotting.plot_mistakes`."""
    wrong = wrong_answers(table.reset_index(drop=True))
    domain = wrong["domain"].fillna("unknown") if "domain" in wrong else "unknown"
    return wrong.assign(row=wrong.index, train_domain="training", test_domain=domain, known=True)


def describe_predictions(table: pd.DataFrame) -> Iterator[str]:
    """Yield sentences about the table of `CellClassifier.predict_table`: counts, doubts and, with labels, mistakes."""
    counts = ", ".join(f"{n} {name}" for name, n in table["predicted"].value_counts().items())
    yield f"{len(table)} cells: {counts}."
    if n := int(table["unknown"].sum()):
        yield f"{n} of them are unlike the training cells (column unknown): do not trust these answers unseen."
    if n := int(table["quality_fallback"].sum()):
        yield f"In {n} no cell was found (column quality_fallback): the whole image was classified."
    if n := int((table["copy_of"] != "").sum()):
        yield f"{n} look like copies of training cells (column copy_of): they do not count as new cells."
    if "label" in table:
        yield from _describe_mistakes(table)


def _describe_mistakes(table: pd.DataFrame) -> Iterator[str]:
    classes = [str(name).removeprefix("probability_") for name in table if str(name).startswith("probability_")]
    labels = table["label"].astype(str)
    known = labels.isin(classes)
    if known.any():
        score = balanced_accuracy_score(labels[known], table["predicted"][known].astype(str))
        yield (
            f"Labels were given: of the {int(known.sum())} cells whose class the model knows, the balanced accuracy "
            f"is {score:.2f}."
        )
    if others := sorted(set(labels[~known]) - {"", "nan"}):
        yield f"The model knows no class {', '.join(others)}: all {int((~known).sum())} answers for these are wrong."
    wrong = wrong_answers(table)
    if len(wrong):
        yield f"{len(wrong)} answers differ from the label; the most confident ones are:"
    for row in wrong.head(_MOST_LISTED).itertuples():
        yield f"  {row.path}: {row.label}, answered {row.predicted} ({row.confidence:.2f})"
