"""Matrices that a report shows as tables instead of pictures."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import BenchmarkResult, confusion_shares, summarise_scores
from ..evaluation.findings import recommended
from ..evaluation.headlines import best_headlines, select_series
from ..plotting.canvas import is_plain

_MAX_DOMAINS = 10  # laboratories in a transfer figure: the panel of a classifier has a field for each pair
_MAX_PANELS, _MAX_CLASSES = 16, 30  # limits of a confusion figure: it has a panel for each pair of laboratories
_MAX_DIRECTED = 4  # laboratories up to which each direction has a column; 5 laboratories would need 25
_SHADES = 10
MANY = 9  # a table with more columns than this has small type


def draws_transfer(result: BenchmarkResult) -> bool:
    """Tell whether the scores by pair of laboratories are shown as a picture instead of a table."""
    return len(_domains(result)) <= _MAX_DOMAINS and all(map(is_plain, _domains(result)))


def draws_confusions(result: BenchmarkResult) -> bool:
    """Tell whether the confusions by pair of laboratories are shown as a picture instead of a table."""
    n_classes, n_pairs = len(result.cells.target_names), len(_domains(result)) ** 2
    names = [*_domains(result), *result.cells.target_names]
    return n_pairs <= _MAX_PANELS and n_classes <= _MAX_CLASSES and all(map(is_plain, names))


def recall_matrix(recall: pd.DataFrame, counts: pd.DataFrame) -> dict[str, Any]:
    """Return recall by class (rows) and direction (columns); beyond 4 laboratories, by tested laboratory.

    Parameters
    ----------
    recall : pandas.DataFrame
        ``label``, ``train_domain``, ``test_domain`` and ``recall``, a row per class and direction.
    counts : pandas.DataFrame
        The number of cells of each class (rows) in each laboratory (columns).

    Returns
    -------
    dict
        ``groups`` are the training laboratories and the number of columns of each (empty beyond 4 laboratories).
        ``columns`` are the tested laboratories. ``rows`` has each class with a field per column: its recall and the
        number of its cells, or None if it was not scored.
    """
    pooled = recall["train_domain"].nunique() > _MAX_DIRECTED
    if pooled:
        recall = recall[recall["train_domain"] != recall["test_domain"]]
    keys = ["test_domain"] if pooled else ["train_domain", "test_domain"]
    means = recall.groupby(["label", *keys], sort=False)["recall"].mean().dropna().to_dict()
    columns: list[Any] = sorted(recall[keys].drop_duplicates().itertuples(index=False, name=None), key=str)
    scored = counts.index[counts.index.isin(recall["label"])]
    rows = []
    for name in scored:
        found = [means.get((name, *column)) for column in columns]
        numbers = [counts[column[-1]][name] for column in columns]
        fields = [None if share is None else (share, n) for share, n in zip(found, numbers, strict=True)]
        rows.append((name, fields))
    trained = [] if pooled else [column[0] for column in columns]
    groups = [(name, trained.count(name)) for name in dict.fromkeys(trained)]
    return {"groups": groups, "columns": [column[-1] for column in columns], "rows": rows}


def transfer_matrix(result: BenchmarkResult, features: Any, classifier: Any) -> dict[str, Any]:
    """Return the mean balanced accuracy of one classifier for each pair of laboratories."""
    summary = summarise_scores(select_series(result.scores, features, classifier))
    means = summary.pivot_table("balanced_accuracy_mean", "train_domain", "test_domain", dropna=False)
    return _matrix(means, f"{classifier} on {features}", "trained on", "tested on")


def transfer_tables(result: BenchmarkResult) -> Iterator[dict[str, Any]]:
    """Yield, for the best classifier of each feature set, the mean balanced accuracy of each pair of laboratories."""
    for best in best_headlines(result.headlines).itertuples():
        yield transfer_matrix(result, best.features, best.classifier)


def confusion_tables(result: BenchmarkResult) -> Iterator[dict[str, Any]]:
    """Yield the confusions of the best classifier within laboratories and across them, all pairs together."""
    best = recommended(result)
    if best is None:
        return
    found = select_series(result.predictions, *best)
    at_home = found["train_domain"] == found["test_domain"]
    for rows, where in ((at_home, "within laboratories"), (~at_home, "across laboratories")):
        if rows.any():
            name = f"{best[1]} on {best[0]}, {where}, all pairs together"
            yield _matrix(confusion_shares(found[rows]), name, "true class", "answer")


def shade(value: float) -> int:
    """Return the shade of a value from 0 to 1, a whole number from 0 (lowest) to 10 (highest)."""
    return int(np.clip(round(value * _SHADES), 0, _SHADES))


def _matrix(values: pd.DataFrame, caption: str, down: str, along: str) -> dict[str, Any]:
    """Return a matrix of shares as the template shows it; None is a field without a value."""
    rows = [
        (name, [None if np.isnan(share) else float(share) for share in row])
        for name, row in zip(values.index, values.to_numpy(float), strict=True)
    ]
    return {"caption": caption, "down": down, "along": along, "columns": list(values.columns), "rows": rows}


def _domains(result: BenchmarkResult) -> list[Any]:
    return np.unique(np.asarray(result.cells.domain)).tolist()
