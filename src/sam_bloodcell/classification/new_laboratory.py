"""Cells of a new laboratory from files: cells to label, their labels for `adapt`, and the effect of the labels."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..datasets.tables import similar_columns
from ..evaluation.few_labels import ENOUGH_FOR_TEMPERATURE
from ..images.listing import Listing
from .cell_classifier import CellClassifier
from .sources import list_cells


def list_new_cells(
    sources: Iterable[str | os.PathLike], domain: str, classes: Iterable[Any], *, root: str | os.PathLike | None = None
) -> tuple[pd.DataFrame, list[Listing]]:
    """List each cell of a laboratory once, with its label from a table or a class folder.

    Parameters
    ----------
    sources, root
        Sources and root as in `bulk.find_images`. A cell may be in several sources, such as a folder of all cells and a
        table of labels.
    domain : str
        The laboratory of all cells.
    classes : iterable
        The classes that the model knows.

    Returns
    -------
    table : DataFrame
        The columns path, domain and, if any source has labels, label: text, or "" if a cell has no label.
    listings : list of Listing
        The other contents of each folder.

    Raises
    ------
    ValueError
        If a label is not a class of the model, if a cell has two labels, or as in `bulk.find_images`.
    """
    names = [str(name) for name in classes]
    tables, listings = [], []
    for source in sources:
        table, found = list_cells([source], domain=domain, classes=names, root=root)
        if "label" in table:
            table["label"] = table["label"].fillna("").astype(str).str.strip()
            _check_labels(table, Path(source), names)
        elif similar := similar_columns(table.columns.tolist(), ["label"]):
            raise ValueError(f"'{source}' has the column '{similar['label']}'. Fix: write label.")
        tables.append(table)
        listings += found
    cells = pd.concat(tables, ignore_index=True)
    return _each_once(cells[[name for name in ("path", "domain", "label") if name in cells]]), listings


def check_new_laboratory(classifier: CellClassifier, domain: str) -> None:
    """Raise unless the classifier can learn labels of a laboratory with this name."""
    if domain != domain.strip() or not domain:
        raise ValueError(f"Got domain={domain!r} but expected a name. Fix: pass it without spaces around it.")
    if domain in getattr(classifier, "training_domains_", ()) and domain not in classifier.temperatures_:
        fix = "Fix: choose another name, or train a model again with its cells."
        raise ValueError(f"Got domain={domain!r}, a laboratory that the model was trained on. {fix}")


def labels_for_adapt(cells: pd.DataFrame, classes: Iterable[Any]) -> list[Any] | None:
    """Return the model's class of each cell, or None if it has no label; None if there is no column of labels."""
    if "label" not in cells:
        return None
    if (cells["label"] == "").all():
        fix = "Fix: fill in the column label, or leave it out to learn the stain alone."
        raise ValueError(f"Got {len(cells)} cells and a column label without any label. {fix}")
    return [{str(name): name for name in classes}.get(label) for label in cells["label"]]


def suggest_cells(classifier: CellClassifier, cells: pd.DataFrame, n: int) -> list[str]:
    """Return the paths of the n cells without a label whose labels would help most, the most doubtful first."""
    unlabelled = cells[cells["label"] == ""] if "label" in cells else cells
    unlabelled = unlabelled[["path", "domain"]].reset_index(drop=True)
    if not 1 <= n <= len(unlabelled):
        found = f"suggest={n} but {len(unlabelled)} cells without a label"
        fix = f"Fix: suggest={len(unlabelled)} or fewer." if len(unlabelled) else "Fix: also pass the other cells."
        raise ValueError(f"Got {found}. {fix}")
    return unlabelled["path"].iloc[classifier.cells_to_label(unlabelled, n)].tolist()


def table_to_label(paths: Iterable[str], csv: Path) -> pd.DataFrame:
    """Return a table of images with an empty column label; the paths are relative to the CSV file."""
    return pd.DataFrame({"path": [_beside(path, csv) for path in paths], "label": ""})


def root_of(paths: Iterable[str], csv: Path) -> Path | None:
    """Return the folder that contains a table and its images, or None if all images are in the table's folder."""
    folder = csv.parent.absolute()
    root = Path(os.path.commonpath([folder, *(Path(path).absolute() for path in paths)]))
    return None if root == folder else root


def learned_laboratories(classifier: CellClassifier) -> list[Any]:
    """Return the laboratories whose stain the classifier has learned."""
    return np.asarray(getattr(classifier.pipeline_.named_steps.get("autoencoder"), "domains_", [])).tolist()


def describe_adaptation(
    classifier: CellClassifier, cells: pd.DataFrame, domain: str, before: float, *, learned: bool
) -> Iterator[str]:
    """Yield sentences about what `adapt` has changed.

    Parameters
    ----------
    classifier : CellClassifier
        The classifier after `adapt`.
    cells : DataFrame
        The table of `list_new_cells`.
    domain : str
        Name of the laboratory.
    before : float
        Temperature of the laboratory before `adapt`.
    learned : bool
        Whether the stain was learned in this call.
    """
    labels = cells["label"] if "label" in cells else pd.Series([""] * len(cells))
    counts = labels[labels != ""].value_counts().sort_index()
    n = int(counts.sum())
    if learned:
        yield f"The stain of {domain} was learned from {len(cells)} cells."
    if not n:
        yield "No cell has a label, so the classifier is the same as before."
        return
    yield f"Labels used: {n} ({', '.join(f'{count} {name}' for name, count in counts.items())})."
    lacking = [str(name) for name in classifier.classes_ if str(name) not in counts.index]
    if lacking:
        yield f"Classes without a label: {', '.join(lacking)}. The classifier knows them only from the training cells."
    if learned and n == len(cells):
        yield (
            "Every cell has a label. If you have other cells of the laboratory, also pass them, because its stain is "
            "learned best from its usual mixture of cells."
        )
    after = classifier.temperatures_[domain]
    few = f" (it is fitted with {ENOUGH_FOR_TEMPERATURE} or more labels)" if n < ENOUGH_FOR_TEMPERATURE else ""
    yield f"Temperature of the probabilities of {domain}: {before:.2f} before, {after:.2f} now{few}."


def _check_labels(table: pd.DataFrame, source: Path, names: list[str]) -> None:
    """Raise for the first label that is not a class of the model."""
    unknown = np.flatnonzero((table["label"] != "") & ~table["label"].isin(names))
    if not len(unknown):
        return
    row = int(unknown[0])
    path, label = table["path"].iloc[row], table["label"].iloc[row]
    where = f"'{path}'" if source.is_dir() else f"'{source}' row {row} ('{path}')"
    fix = "Fix: correct the label, leave it empty, or train a model that knows the class."
    for name in names:
        if similar_columns([label], [name]):
            fix = f"Fix: write {name}."
    raise ValueError(f"{where}: got the label '{label}' but the model knows {', '.join(names)}. {fix}")


def _each_once(cells: pd.DataFrame) -> pd.DataFrame:
    """Return each cell once, with the label that any of its rows has; raise if two of them differ."""
    # Not Path.absolute, which keeps "..", and not Path.resolve, which follows links.
    places = pd.Series([os.path.abspath(path) for path in cells["path"]])  # noqa: PTH100
    once = cells[~places.duplicated()].reset_index(drop=True)
    if "label" not in cells:
        return once
    labels: dict[str, str] = {}
    for place, label in zip(places, cells["label"].fillna(""), strict=True):
        before = labels.get(place, "")
        if before and label and before != label:
            raise ValueError(f"'{place}' has the labels '{before}' and '{label}'. Fix: keep one of them.")
        labels[place] = before or label
    return once.assign(label=list(labels.values()))


def _beside(path: str, csv: Path) -> str:
    """Return a path relative to the folder of a table, with slashes on every system."""
    return Path(os.path.relpath(path, csv.parent)).as_posix()
