"""The files of predictions and models, with checks before the work that they can be written."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..bulk import check_not_a_source
from ..files import as_path, check_outside, check_writable, is_utf8, make_folder, replacing

_WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace"),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}


def check_predictions_file(
    out: str | os.PathLike, sources: Iterable[str | os.PathLike] = (), *, overwrite: bool
) -> tuple[Path, Path]:  # fmt: skip
    """Return the paths of a file for predictions and of its picture of mistakes; raise if they cannot be written."""
    path = as_path(out, "out")
    if path.suffix not in _WRITERS:
        fix = f"Fix: write to {path.stem or 'predictions'}.csv."
        raise ValueError(f"Got '{path}' but expected a name that ends in {' or '.join(_WRITERS)}. {fix}")
    picture = path.with_name(f"{path.stem}_mistakes.png")
    check_outside(path, *sources)
    for made in (path, picture):
        if made.exists() and not overwrite:
            raise FileExistsError(f"'{made}' exists. Fix: overwrite=True, or another name.")
    make_folder(path.parent)
    for made in (path, picture):
        check_writable(made)
    return path, picture


def check_table_to_label(path: Path, sources: Iterable[str | os.PathLike] = (), *, overwrite: bool) -> None:
    """Raise now if a table of cells to label cannot be written, or would replace another one, or one of the sources."""
    check_not_a_source(path, sources)
    if path.suffix != ".csv":
        fix = f"Fix: write to {path.stem or 'cells'}.csv."
        raise ValueError(f"Got '{path}' but expected a name that ends in .csv. {fix}")
    check_outside(path, *sources)
    if path.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists, perhaps with labels. Fix: overwrite=True, or another name.")
    make_folder(path.parent)
    check_writable(path)


def check_model_folder(folder: Path, *cells: Path, overwrite: bool) -> None:
    """Raise now if a model cannot be saved into a folder, or would replace another one or a README of its own."""
    check_outside(folder, *cells)
    model, card = folder / "pipeline.skops", folder / "README.md"
    if model.exists() and not overwrite:
        raise FileExistsError(f"'{model}' exists. Fix: overwrite=True, or another folder.")
    if card.exists() and not model.exists():
        raise FileExistsError(f"'{card}' exists in the place of the model card. Fix: name another folder.")
    make_folder(folder)
    check_writable(model)


def check_names(table: pd.DataFrame) -> None:
    """Raise for a path that is not UTF-8, because no format can store it."""
    for row, image in enumerate(table["path"]):
        if not is_utf8(str(image)):
            name = os.fsencode(str(image))
            raise ValueError(f"Row {row}: the path {name!r} is not UTF-8. Fix: rename the file or its folder.")


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions, whole or not at all, in the format of the file's suffix."""
    with replacing(path) as draft:
        _WRITERS[path.suffix](table, draft)
