"""The findings of a benchmark: the verdict, the labels to check, and advice in plain sentences.

All functions take a `BenchmarkResult` and do not change it. The functions that judge labels and mistakes use only the
recommended classifier, which is chosen by the same scores that are shown.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..cells import first_of
from .benchmark import BenchmarkResult
from .checks import class_names
from .few_labels import summarise_curve
from .headlines import select_series
from .label_checks import clashing_labels, mistakes, suspected_labels
from .verdict import (
    Comparison,
    Interval,
    Verdict,
    candidates,
    headlined,
    recall_by_direction,
    recommended,
    verdict,
)

__all__ = [
    "Advice", "Comparison", "Interval", "Verdict", "advice", "candidates", "clashing_labels", "mistakes",
    "recall_by_direction", "recommended", "suspected_labels", "verdict",
]  # fmt: skip

# With 8 cells of one class and 60 of each other class, a third of its cells were found on average; with 32 cells two
# thirds, and with 60 four fifths (benchmarks/cells_per_class.py).
_FEW_CELLS, _LOW_RECALL = 30, 0.7
_ADD_CELLS = f"Add cells until each has at least {_FEW_CELLS}."
_UNSURE, _MANY = 0.9, 0.1  # a mask below this mean probability is doubtful; share of doubtful masks in a laboratory
_MISCALIBRATED = 0.1  # expected calibration error
_FEW_PATIENTS = 10
_ASKED, _WORTHWHILE = 32, 0.05  # number of labelled cells of a laboratory, and the least gain that is worth advice
_NAMED = 4  # names in a sentence

Topic = Literal[
    "cells", "labels", "masks", "mislabelled", "copies", "calibration", "autoencoder", "few labels", "patients"
]


@dataclass(frozen=True)
class Advice:
    """A finding and what to do about it.

    Parameters
    ----------
    topic : str
        Kind of finding, such as "labels" or "masks".
    text : str
        The finding and what to do about it, in one or two sentences.
    rows : list of int
        Rows of the cells concerned. It is empty if the finding is not about single cells.
    """

    topic: Topic
    text: str
    rows: list[int] = field(default_factory=list)


def advice(result: BenchmarkResult) -> list[Advice]:
    """Return what to do about the findings of the benchmark, the most important first.

    The order is: classes that laboratories may mean differently, labels that look wrong, images that look duplicated,
    classes with too few cells, classes that only one laboratory has, laboratories whose masks are doubtful, an
    autoencoder that lowers scores, confidences that are not probabilities in another laboratory, laboratories in which
    a few labels would help, and patients.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    list of Advice
        One item per finding; empty if there is nothing to do.
    """
    told, clashes = verdict(result), clashing_labels(result)
    parts = (
        _clashes(result, clashes), _mislabelled(result), _copies(result), _cells(result),
        _lonely_classes(result, clashes), _masks(result), _autoencoder(told), _calibration(result, told),
        _few_labels(result), _patients(result),
    )  # fmt: skip
    return [one for part in parts for one in part]


def _clashes(result: BenchmarkResult, found: pd.DataFrame) -> Iterator[Advice]:
    found = found[found["other_domain"] != ""]
    for clash in found.head(_NAMED).itertuples():
        yield Advice("labels", str(clash.finding), _rows_of(result, {(clash.label, clash.domain)}))
    rest = found.iloc[_NAMED:]
    if len(rest):
        rows = _rows_of(result, set(zip(rest["label"], rest["domain"], strict=True)))
        more = f"{len(rest)} more such finding{'s' if len(rest) > 1 else ''} about pairs of laboratories"
        yield Advice("labels", f"{more}: evaluation.findings.clashing_labels lists all of them.", rows)


def _lonely_classes(result: BenchmarkResult, found: pd.DataFrame) -> Iterator[Advice]:
    found = found[found["other_domain"] == ""]
    if len(found):
        names = first_of([f"{row.label!r} ({row.domain})" for row in found.itertuples()], _NAMED)
        lonely = f"Only one laboratory has cells of {names}, so it is not known how well they are recognised elsewhere."
        rows = _rows_of(result, set(zip(found["label"], found["domain"], strict=True)))
        yield Advice("labels", f"{lonely} Check whether other laboratories have them under another name.", rows)


def _mislabelled(result: BenchmarkResult) -> Iterator[Advice]:
    found = suspected_labels(result)
    if len(found):
        names = [
            f"{f'row {cell.row}' if 'path' not in found else PurePath(str(cell.path)).name} "
            f"({cell.label!r}, called {cell.predicted!r})"
            for cell in found.itertuples()
        ]
        which = "label of 1 cell looks" if len(found) == 1 else f"labels of {len(found)} cells look"
        fix = "Look at these cells, and correct the labels that are wrong."
        yield Advice("mislabelled", f"The {which} wrong: {first_of(names, _NAMED)}. {fix}", found["row"].tolist())


def _copies(result: BenchmarkResult) -> Iterator[Advice]:
    pairs = result.duplicates
    if len(pairs):
        found = "1 pair of images looks" if len(pairs) == 1 else f"{len(pairs)} pairs of images look"
        fix = "Give copies the same group or drop one of each pair: copies in training and test make scores too high."
        yield Advice("copies", f"{found} duplicated. {fix}", sorted({*pairs["a"].tolist(), *pairs["b"].tolist()}))


def _cells(result: BenchmarkResult) -> Iterator[Advice]:
    counts = Counter(zip(_labels_of(result).tolist(), np.asarray(result.cells.domain).tolist(), strict=True))
    if len({domain for _, domain in counts}) == 1:
        yield Advice(
            "cells",
            "All cells come from one laboratory, so no score shows how well the classifier works in another one. "
            "Add cells of a second laboratory.",
        )
    tested = result.predictions[["label", "test_domain"]].drop_duplicates()
    scored = set(zip(tested["label"], tested["test_domain"], strict=True))
    left_out = sorted(cell for cell in counts if cell not in scored)
    if left_out:
        found = [f"{label!r} in {domain} ({counts[label, domain]})" for label, domain in left_out]
        names = first_of(found, _NAMED)
        text = f"These classes have too few cells to train or test on: {names}. {_ADD_CELLS}"
        yield Advice("cells", text, _rows_of(result, set(left_out)))
    recall = _recall_after_training(result)
    few = [cell for cell, found in recall.items() if found < _LOW_RECALL and counts[cell] < _FEW_CELLS]
    if few:
        few.sort(key=lambda cell: recall[cell])
        found = [
            f"{label!r} after training on {counts[label, domain]} cells of {domain} ({recall[label, domain]:.0%})"
            for label, domain in few
        ]
        text = f"These classes have few cells and a low recall: {first_of(found, _NAMED)}. {_ADD_CELLS}"
        yield Advice("cells", text, _rows_of(result, set(few)))


def _masks(result: BenchmarkResult) -> Iterator[Advice]:
    quality = getattr(result.embeddings, "quality", None)
    if quality is None:
        return
    doubtful = np.asarray(quality["fallback"]) | ~(np.asarray(quality["confidence"]) >= _UNSURE)
    domains = np.asarray(result.cells.domain)
    shares = pd.Series(doubtful).groupby(domains).mean()
    for domain, share in shares[shares >= _MANY].sort_values(ascending=False).items():
        found = f"In {domain}, {share:.0%} of the masks are doubtful: no cell was found, or its mask is uncertain."
        rows = np.flatnonzero(doubtful & (domains == domain)).tolist()
        yield Advice(
            "masks", f"{found} Look at some of them. If they are wrong, fine-tune on masks of this laboratory.", rows
        )


def _autoencoder(told: Verdict) -> Iterator[Advice]:
    compared = told.autoencoder
    if compared is not None and compared.helps == "no":
        found = f"The autoencoder lowers the balanced accuracy across laboratories by {-compared.difference:.2f}"
        interval = f"(95% interval {-compared.high:.2f} to {-compared.low:.2f})"
        yield Advice("autoencoder", f"{found} {interval}. Use the embeddings without it.")


def _calibration(result: BenchmarkResult, told: Verdict) -> Iterator[Advice]:
    errors, best = told.calibration, recommended(result)
    across = not np.isnan(errors["across"])
    error = errors["across" if across else "within"]
    if best is None or not error >= _MISCALIBRATED:
        return
    cells = headlined(select_series(result.predictions, *best))
    cells = cells[cells["confidence"].notna()]
    right = (np.asarray(cells["label"]).astype(object) == np.asarray(cells["predicted"]).astype(object)).mean()
    where = "across laboratories" if across else "in held-out cells"
    mean = cells["confidence"].mean()
    wrong = "too high for some and too low for others"
    if abs(mean - right) >= _MISCALIBRATED / 2:
        wrong = "too high" if mean > right else "too low"
    found = f"Confidences {where} are {wrong}: their mean is {mean:.0%}, while {right:.0%} of the answers are right"
    fix = "Do not read them as probabilities, unless you calibrate them on labelled cells of the laboratory."
    yield Advice("calibration", f"{found} (expected calibration error {error:.2f}). {fix}")


def _few_labels(result: BenchmarkResult) -> Iterator[Advice]:
    """Say where a few labelled cells would help, the largest gain first."""
    if result.label_curve.empty:
        return
    found = summarise_curve(result.label_curve)
    scores = found.pivot_table("balanced_accuracy", "test_domain", ["chosen", "n_labels"], observed=True)
    if not {("none", 0), ("informative", _ASKED)} <= set(scores.columns):
        return
    without, with_labels = scores["none", 0], scores["informative", _ASKED]
    gains = (with_labels - without).sort_values(ascending=False, kind="stable")
    worthwhile = gains.index[gains >= _WORTHWHILE]
    names = [f"{name} from {without[name]:.2f} to {with_labels[name]:.2f}" for name in worthwhile]
    if names:
        found_out = f"Labels of {_ASKED} cells would raise the balanced accuracy on the other cells of a new laboratory"
        how = "CellClassifier.cells_to_label says which cells to label, and CellClassifier.adapt learns from them."
        yield Advice("few labels", f"{found_out}, when all others train: {first_of(names, _NAMED)}. {how}")


def _patients(result: BenchmarkResult) -> Iterator[Advice]:
    groups = result.cells.get("group")
    if groups is None:
        found = "The patients of the cells are not known, so scores within a laboratory may be too high and intervals "
        yield Advice("patients", f"{found}too narrow. Add a column group with the patient or slide of each cell.")
        return
    counts = pd.Series(np.asarray(groups)).groupby(np.asarray(result.cells.domain)).nunique()
    few = counts[counts < _FEW_PATIENTS]
    if len(few):
        names = first_of([f"{domain} ({count})" for domain, count in few.items()], _NAMED)
        fix = f"Do not rely on intervals from fewer than {_FEW_PATIENTS} in a laboratory. Add patients."
        yield Advice("patients", f"These laboratories have few patients or slides: {names}. {fix}")


def _recall_after_training(result: BenchmarkResult) -> dict[tuple[Any, Any], float]:
    """Return the recall of each class by training laboratory, elsewhere, or at home if no other has the class."""
    table = recall_by_direction(result)
    table["at home"] = table["train_domain"] == table["test_domain"]
    means = table.groupby(["label", "train_domain", "at home"])["recall"].mean()
    first = means.groupby(level=[0, 1]).first()  # False, elsewhere, comes before True
    return dict(zip(first.index.tolist(), first.tolist(), strict=True))


def _rows_of(result: BenchmarkResult, chosen: set[tuple[Any, Any]]) -> list[int]:
    """Return the rows of the cells with one of these pairs of label and laboratory."""
    pairs = zip(_labels_of(result).tolist(), np.asarray(result.cells.domain).tolist(), strict=True)
    return [row for row, pair in enumerate(pairs) if pair in chosen]


def _labels_of(result: BenchmarkResult) -> Any:
    return class_names(result.cells.target, result.cells.target_names, "target")
