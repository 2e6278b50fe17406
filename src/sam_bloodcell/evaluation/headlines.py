"""The headline numbers of a benchmark: mean scores with intervals and chance, and recall by class."""

from typing import Any

import numpy as np
import pandas as pd

from .scores import per_class_recall

_SERIES = ["features", "classifier"]
_PAIR = ["train_domain", "test_domain"]


def headline_scores(predictions: pd.DataFrame, scores: pd.DataFrame, intervals: pd.DataFrame | None) -> pd.DataFrame:
    """Return the mean scores of each feature set and classifier, and those of chance and of the commonest class.

    The means are over all pairs of different domains, or over the folds of the domain if there is only one.

    Returns
    -------
    pandas.DataFrame
        A row per ``features`` and ``classifier``: ``pairs``, the number of pairs of domains with a score;
        ``balanced_accuracy``, its interval ``low`` to ``high`` (NaN without intervals) and ``chance``, one divided by
        the number of classes scored; ``accuracy`` and ``majority``, the share of the commonest class among the cells
        scored, which is the accuracy of always answering this class. There is no row if nothing was scored.
    """
    scored = scores[_headlined(scores) & (scores["n_classes"] > 0)]
    scored = scored.assign(chance=1 / scored["n_classes"])
    columns = ["balanced_accuracy", "chance", "accuracy"]
    pairs = scored.groupby([*_SERIES, *_PAIR], sort=False)[columns].mean()
    means = pairs.groupby(level=_SERIES, sort=False).mean()
    means.insert(0, "pairs", pairs.groupby(level=_SERIES, sort=False).size())
    table = means.reset_index().assign(majority=_majority_share(predictions), low=np.nan, high=np.nan)
    if intervals is not None:
        table = table.drop(columns=["low", "high"]).merge(intervals[[*_SERIES, "low", "high"]], on=_SERIES, how="left")
    return table[[*_SERIES, "pairs", "balanced_accuracy", "low", "high", "chance", "accuracy", "majority"]]


def best_headlines(headlines: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the classifier with the highest mean balanced accuracy for each feature set."""
    return headlines.loc[headlines.groupby("features", sort=False)["balanced_accuracy"].idxmax()]


def best_of_all(headlines: pd.DataFrame) -> tuple[str, str] | None:
    """Return the feature set and classifier with the highest mean balanced accuracy; None if nothing was scored."""
    if headlines.empty:
        return None
    best = headlines.iloc[int(headlines["balanced_accuracy"].argmax())]
    return best["features"], best["classifier"]


def best_recall(predictions: pd.DataFrame, headlines: pd.DataFrame) -> pd.DataFrame:
    """Return the recall of each class by the best classifier of each feature set, over the same pairs as the headlines.

    Returns
    -------
    pandas.DataFrame
        A row per ``features``, ``classifier`` and ``label``: ``recall``, the mean over the pairs of domains that score
        the class, and ``pairs``, their number.
    """
    tables = [pd.DataFrame(columns=[*_SERIES, "label", "recall", "pairs"])]
    for best in best_headlines(headlines).itertuples():
        found = select_series(predictions, best.features, best.classifier)
        recall = per_class_recall(found[_headlined(found)]).groupby([*_SERIES, "label"], sort=False)["recall"]
        tables.append(recall.agg(recall="mean", pairs="count").reset_index())
    return pd.concat(tables[1:] or tables, ignore_index=True)


def select_series(table: pd.DataFrame, features: Any, classifier: Any) -> pd.DataFrame:
    """Return the rows of one classifier on one feature set, of predictions or scores."""
    return table[(table["features"] == features) & (table["classifier"] == classifier)]


def _headlined(table: pd.DataFrame) -> pd.Series:
    """Tell which rows the headlines are about: pairs of different domains, or all rows if there is one domain."""
    across = table["train_domain"] != table["test_domain"]
    return across if across.any() else ~across


def _majority_share(predictions: pd.DataFrame) -> float:
    """Return the mean share of the commonest class; all classifiers are scored on the same cells, so one is enough."""
    first = predictions.iloc[0]
    found = select_series(predictions, first["features"], first["classifier"])
    found = found[_headlined(found) & found["known"]]
    counts = found.groupby([*_PAIR, "fold", "label"], sort=False).size()
    fits = counts.groupby(level=[*_PAIR, "fold"], sort=False)
    return float((fits.max() / fits.sum()).groupby(level=_PAIR, sort=False).mean().mean())
