"""One step at a time, the protocol behind `evaluation.cross_domain_scores`: rows, folds, fits, metrics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import _safe_indexing

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def label_column(values: Any, name: str) -> np.ndarray:
    """Labels as a (n,) array of one natural dtype; missing ones are an error that names the row."""
    cells = np.asarray(values if hasattr(values, "__array__") else list(values), dtype=object)
    if cells.ndim != 1:
        raise ValueError(f"Got {name} of shape {cells.shape} but expected one value per cell; ravel it.")
    missing = np.flatnonzero(pd.isna(cells))
    if len(missing):
        raise ValueError(
            f"Got {name}={cells[missing[0]]} in row {missing[0]} but expected a value for every cell; "
            f"drop the {len(missing)} row(s) without one."
        )
    return np.asarray(cells.tolist())


def check_lengths(n_samples: int, n_labels: int, n_domains: int) -> None:
    """Raise unless there is one label and one domain per sample."""
    if not n_samples == n_labels == n_domains:
        raise ValueError(
            f"Got {n_samples} samples in X, {n_labels} labels in y and {n_domains} in domain but expected "
            "the same number; pass one label and one domain per cell."
        )


def scorable_rows(labels: np.ndarray, labs: np.ndarray, cv: int) -> dict[Any, np.ndarray]:
    """Rows of each domain whose class has at least `cv` cells there; warns once of the others."""
    rows: dict[Any, np.ndarray] = {}
    rare: list[str] = []
    for lab in np.unique(labs).tolist():
        members = np.flatnonzero(labs == lab)
        classes, counts = np.unique(labels[members], return_counts=True)
        kept = classes[counts >= cv]
        rare += [
            f"{name!r} of domain {lab!r} ({count} cell{'s' if count > 1 else ''})"
            for name, count in zip(classes.tolist(), counts.tolist(), strict=True)
            if count < cv
        ]
        if len(kept) < 2:
            raise ValueError(
                f"Got {len(kept)} class(es) of at least cv={cv} cells in domain {lab!r} but expected two "
                "or more; add cells, lower cv, or leave this domain out."
            )
        rows[lab] = members[np.isin(labels[members], kept)]
    if rare:
        warnings.warn(f"Left out classes with fewer than cv={cv} cells in a domain: {', '.join(rare)}.", stacklevel=3)
    return rows


class Fit(NamedTuple):
    """One fit: these rows of `train_domain` train, those of its fold and of all other domains test."""

    classifier: str
    train_domain: Any
    fold: int
    train: np.ndarray
    held_out: np.ndarray


def plan_fits(
    names: Iterable[str], rows: Mapping[Any, np.ndarray], labels: np.ndarray, cv: int, seed: int
) -> Iterator[Fit]:
    """Yield every fit; the folds depend on the seed and the domain alone, so all classifiers share them."""
    for name in names:
        for lab, members in rows.items():
            folds = StratifiedKFold(cv, shuffle=True, random_state=seed).split(members, labels[members])
            for fold, (train, held_out) in enumerate(folds):
                yield Fit(name, lab, fold, members[train], members[held_out])


def fit_and_score(
    estimator: Any, X: Any, labels: np.ndarray, rows: Mapping[Any, np.ndarray], task: Fit
) -> list[dict[str, Any]]:
    """Fit on the training rows, then score the held-out fold and each other domain, a row for each."""
    classes, encoded = np.unique(labels[task.train], return_inverse=True)
    estimator.fit(_safe_indexing(X, task.train), encoded)
    results = []
    for lab, members in rows.items():
        candidates = task.held_out if lab == task.train_domain else members
        known = candidates[np.isin(labels[candidates], classes)]
        results.append(
            {
                "classifier": task.classifier,
                "train_domain": task.train_domain,
                "test_domain": lab,
                "fold": task.fold,
                "n_train": len(task.train),
                "n_test": len(known),
                "n_left_out": len(candidates) - len(known),
                "n_classes": len(np.unique(labels[known])),
                **_metrics(estimator, X, labels, known, classes),
            }
        )
    return results


def _metrics(estimator: Any, X: Any, labels: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    if len(rows) == 0:
        return dict.fromkeys(METRICS, np.nan)
    truth = labels[rows]
    predicted = classes[np.asarray(estimator.predict(_safe_indexing(X, rows))).astype(int)]
    over = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall_score(truth, predicted, **over)),
        "macro_f1": float(f1_score(truth, predicted, **over)),
    }
