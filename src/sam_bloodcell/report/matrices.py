"""Matrices of a report that are tables instead of pictures: too many names for a picture, or none that a font has."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import BenchmarkResult, confusion_counts, summarise_scores
from ..evaluation.headlines import best_headlines, best_of_all, select_series
from ..plotting.canvas import is_plain

_MAX_DOMAINS = 10  # in a picture of transfer: a panel for each classifier has a field for each pair
_MAX_PANELS, _MAX_CLASSES = 16, 30  # in a picture of confusions: a panel for each pair of laboratories


def draws_transfer(result: BenchmarkResult) -> bool:
    """Tell whether the scores by pair of laboratories are a picture, and not a table."""
    return len(_domains(result)) <= _MAX_DOMAINS and all(map(is_plain, _domains(result)))


def draws_confusions(result: BenchmarkResult) -> bool:
    """Tell whether the confusions by pair of laboratories are a picture, and not a table."""
    n_classes, n_pairs = len(result.cells.target_names), len(_domains(result)) ** 2
    names = [*_domains(result), *result.cells.target_names]
    return n_pairs <= _MAX_PANELS and n_classes <= _MAX_CLASSES and all(map(is_plain, names))


def transfer_tables(result: BenchmarkResult) -> Iterator[dict[str, Any]]:
    """Yield, for the best classifier of each feature set, the mean balanced accuracy of each pair of laboratories."""
    for best in best_headlines(result.headlines).itertuples():
        summary = summarise_scores(select_series(result.scores, best.features, best.classifier))
        means = summary.pivot_table("balanced_accuracy_mean", "train_domain", "test_domain", dropna=False)
        yield _matrix(means, f"{best.classifier} on {best.features}", "trained on", "tested on")


def confusion_tables(result: BenchmarkResult) -> Iterator[dict[str, Any]]:
    """Yield the confusions of the best classifier within laboratories and across them, all pairs together."""
    best = best_of_all(result.headlines)
    if best is None:
        return
    found = select_series(result.predictions, *best)
    at_home = found["train_domain"] == found["test_domain"]
    for rows, where in ((at_home, "within laboratories"), (~at_home, "across laboratories")):
        if rows.any():
            name = f"{best[1]} on {best[0]}, {where}, all pairs together"
            yield _matrix(confusion_counts(found[rows]), name, "true class", "answer")


def _matrix(values: pd.DataFrame, caption: str, down: str, along: str) -> dict[str, Any]:
    """Return a matrix of shares as the template shows it; None is a field without a value."""
    rows = [
        (name, [None if np.isnan(share) else float(share) for share in row])
        for name, row in zip(values.index, values.to_numpy(float), strict=True)
    ]
    return {"caption": caption, "down": down, "along": along, "columns": list(values.columns), "rows": rows}


def _domains(result: BenchmarkResult) -> list[Any]:
    return np.unique(np.asarray(result.cells.domain)).tolist()
