"""What a table of predictions says in a few lines, and the files of predictions and models."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import as_path, check_writable, is_utf8, make_folder, replacing

_WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace"),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}
_MOST_LISTED = 10  # wrong answers


def check_predictions_file(
    out: str | os.PathLike, sources: Iterable[str | os.PathLike] = (), *, overwrite: bool
) -> tuple[Path, Path]:  # fmt: skip
    """Return the paths of a file for predictions and of its picture of mistakes; raise now if they cannot be written.

    A picture in one of the source folders would be taken for a cell in the next run.
    """
    path = as_path(out, "out")
    if path.suffix not in _WRITERS:
        raise ValueError(f"Got '{path}' but expected a name that ends in {' or '.join(_WRITERS)}.")
    picture = path.with_name(f"{path.stem}_mistakes.png")
    for source in map(Path, sources):
        if source.is_dir() and path.resolve().is_relative_to(source.resolve()):
            fix = "its picture of mistakes would be taken for a cell. Fix: name another folder."
            raise ValueError(f"Got '{path}' inside the folder '{source}' of the images: {fix}")
    for made in (path, picture):
        if made.exists() and not overwrite:
            raise FileExistsError(f"'{made}' exists. Fix: overwrite=True, or another name.")
    make_folder(path.parent)
    for made in (path, picture):
        check_writable(made)
    return path, picture


def check_model_folder(folder: Path, cells: Path, *, overwrite: bool) -> None:
    """Raise now if a model cannot be saved into a folder, or would replace another one or a README of its own."""
    if cells.is_dir() and folder.resolve().is_relative_to(cells.resolve()):
        raise ValueError(f"Got '{folder}' inside the folder of the cells. Fix: name another folder.")
    model, card = folder / "pipeline.skops", folder / "README.md"
    if model.exists() and not overwrite:
        raise FileExistsError(f"'{model}' exists. Fix: overwrite=True, or another folder.")
    if card.exists() and not model.exists():
        raise FileExistsError(f"'{card}' exists, where the model card is to be written. Fix: name another folder.")
    make_folder(folder)
    check_writable(model)


def check_names(table: pd.DataFrame) -> None:
    """Raise for a path that is not UTF-8, which no format can hold."""
    for row, image in enumerate(table["path"]):
        if not is_utf8(str(image)):
            name = os.fsencode(str(image))
            raise ValueError(f"Row {row}: the path {name!r} is not UTF-8. Fix: rename the file or its folder.")


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions, whole or not at all, in the format that the file's suffix names."""
    with replacing(path) as draft:
        _WRITERS[path.suffix](table, draft)


def has_label(table: pd.DataFrame) -> pd.Series:
    """Tell which rows have a label."""
    return table["label"].notna() & (table["label"].astype(str).str.strip() != "")


def wrong_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose label differs from the answer, the most confident ones first; none without labels."""
    if "label" not in table:
        return table.iloc[:0]
    wrong = has_label(table) & (table["label"].astype(str) != table["predicted"].astype(str))
    return table[wrong].sort_values("confidence", ascending=False, kind="stable")


def as_benchmark(table: pd.DataFrame) -> pd.DataFrame:
    """Return the wrong answers with the columns of a benchmark's predictions, for `plotting.plot_mistakes`."""
    wrong = wrong_answers(table.reset_index(drop=True))
    domain = wrong["domain"].fillna("unknown") if "domain" in wrong else "unknown"
    return wrong.assign(row=wrong.index, train_domain="training", test_domain=domain, known=True)


def describe_predictions(table: pd.DataFrame) -> Iterator[str]:
    """Yield sentences about the table of `CellClassifier.predict_table`: counts, doubts and, with labels, mistakes."""
    counts = ", ".join(f"{n} {name}" for name, n in table["predicted"].value_counts().items())
    yield f"{_number(len(table), 'cell')}: {counts}."
    if n := int(table["unknown"].sum()):
        yield f"Unlike the training cells (column unknown): {n}. Do not trust these answers without a look."
    if n := int(table["quality_fallback"].sum()):
        yield f"Without a cell that was found (column quality_fallback): {n}. The whole image was classified."
    if n := int((table["copy_of"] != "").sum()):
        yield f"Copies of training cells, by their looks (column copy_of): {n}. They do not count as new cells."
    if "label" in table:
        yield from _describe_mistakes(table)


def _describe_mistakes(table: pd.DataFrame) -> Iterator[str]:
    classes = [str(name).removeprefix("probability_") for name in table if str(name).startswith("probability_")]
    labelled = table[has_label(table)]
    labels = labelled["label"].astype(str)
    known = labels.isin(classes)
    if known.any():
        right = (labels == labelled["predicted"].astype(str))[known]
        recall = right.groupby(labels[known]).mean()
        cells = _number(int(known.sum()), "cell")
        by_class = ", ".join(f"{name} {share:.2f}" for name, share in recall.items())
        yield (
            f"Labels were given: the balanced accuracy is {recall.mean():.2f} on {cells} whose class the model knows "
            f"(recall: {by_class})."
        )
    for name, n in labels[~known].value_counts().items():
        yield f"The model does not know the class {name}: the {_number(n, 'answer')} for its cells cannot be right."
    wrong = wrong_answers(table)
    if len(wrong):
        yield f"Answers that differ from the label: {len(wrong)}. The most confident ones are:"
    for row in wrong.head(_MOST_LISTED).itertuples():
        yield f"  {row.path}: labelled {row.label}, answered {row.predicted} ({row.confidence:.2f})"


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
