"""The verdict of a benchmark: its recommended classifier, how well it works and where, and whether alignment helps."""

import warnings
from dataclasses import dataclass, field
from math import erfc, hypot, sqrt
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from .benchmark import BenchmarkResult
from .headlines import best_of_all, select_series
from .scores import bootstrap_scores, compare_pipelines, per_class_recall, quantiles, summarise_scores

# Percentile bootstrap intervals of fewer independent cells or patients are too narrow for a decision.
_LEAST_GROUPS = 30
_NORMAL = 1.96  # half the width of a normal 95% interval, in standard errors


@dataclass(frozen=True)
class Interval:
    """A mean balanced accuracy with its 95% bootstrap interval.

    Parameters
    ----------
    value : float
        Mean balanced accuracy, from 0 to 1.
    low, high : float
        Limits of the 95% interval; NaN if there is no interval.
    chance : float
        Score of a classifier that always answers the same class.
    n : int
        Number of laboratories, or of ordered pairs of laboratories, over which the mean is taken.
    """

    value: float
    low: float
    high: float
    chance: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """The mean balanced accuracy with the autoencoder minus that without, across laboratories, on the same cells.

    The interval and the p-value cover the choice of the tested cells, by the paired bootstrap, and the choice of the
    training cells: each fold of a laboratory is trained on all but one part of its cells, so the jackknife variance of
    the differences is added. They do not cover how much another training of the autoencoder would change.

    Parameters
    ----------
    difference : float
        Mean balanced accuracy with the autoencoder minus that without.
    low, high : float
        Limits of the 95% interval of the difference.
    p : float
        Two-sided p-value of a difference of 0.
    helps : {"yes", "no", "unclear"}
        "yes" or "no" if the interval excludes 0, at least 30 independent cells (or patients) were tested, and there are
        at least two folds. Otherwise "unclear", which with few cells is often the answer despite a true gain.
    """

    difference: float
    low: float
    high: float
    p: float
    helps: Literal["yes", "no", "unclear"]


@dataclass(frozen=True)
class Verdict:
    """The conclusions of a benchmark, as returned by `verdict`.

    Parameters
    ----------
    features, classifier : str or None
        The `recommended` feature set and classifier. They are None if nothing was scored, and all other fields are then
        also None.
    within : Interval or None
        Mean over laboratories, each tested on the folds that its training left out.
    across : Interval or None
        Mean over ordered pairs of different laboratories; None with one laboratory.
    weakest_pair : tuple or None
        The pair of different laboratories with the lowest mean balanced accuracy over folds, as (train_domain,
        test_domain, balanced accuracy, number of cells tested).
    weakest_class : tuple or None
        The class with the lowest recall, as (label, recall, number of cells tested). The recall is a mean over the
        pairs of different laboratories that score the class, or over the folds if there is one laboratory.
    autoencoder : Comparison or None
        The recommended kind of classifier on "autoencoder" and on "embeddings"; None without an autoencoder and with
        one laboratory.
    calibration : dict of str to float
        The mean expected calibration error ``"within"`` and ``"across"`` laboratories, over the same laboratories and
        pairs; NaN if the classifier gives no probabilities.
    """

    features: str | None
    classifier: str | None
    within: Interval | None = None
    across: Interval | None = None
    weakest_pair: tuple[Any, Any, float, int] | None = None
    weakest_class: tuple[Any, float, int] | None = None
    autoencoder: Comparison | None = None
    calibration: dict[str, float] = field(default_factory=lambda: {"within": np.nan, "across": np.nan})


_VERDICTS: WeakKeyDictionary[BenchmarkResult, Verdict] = WeakKeyDictionary()


def recommended(result: BenchmarkResult) -> tuple[str, str] | None:
    """Return the feature set and the classifier with the best mean balanced accuracy.

    The mean is over all pairs of different laboratories, or over the folds if there is one laboratory. The choice is
    made by the same scores that are shown, so the best score is somewhat too high. Classifiers without probabilities
    are recommended only if there are no others, because their answers have no confidence.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    tuple of str or None
        Feature set and classifier, or None if nothing was scored.
    """
    return best_of_all(candidates(result))


def candidates(result: BenchmarkResult) -> pd.DataFrame:
    """Return the rows of the headlines that the `recommended` one was chosen from."""
    sure = result.predictions.groupby(["features", "classifier"], sort=False)["confidence"].count()
    kept = pd.MultiIndex.from_frame(result.headlines[["features", "classifier"]]).isin(sure.index[sure > 0])
    return result.headlines[kept] if kept.any() else result.headlines


def verdict(result: BenchmarkResult) -> Verdict:
    """Return the conclusions of the benchmark about the recommended classifier.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    Verdict
        Scores within and across laboratories, the weakest pair and class, the effect of the autoencoder, and the
        calibration error.
    """
    if result not in _VERDICTS:  # cached, because the bootstraps take seconds and several parts of a report need it
        _VERDICTS[result] = _verdict(result)
    return _VERDICTS[result]


def _verdict(result: BenchmarkResult) -> Verdict:
    best = recommended(result)
    if best is None:
        return Verdict(None, None)
    found, scores = select_series(result.predictions, *best), select_series(result.scores, *best)
    scores = scores[scores["n_classes"] > 0]
    across = scores["train_domain"] != scores["test_domain"]
    return Verdict(
        *best,
        within=_within(found, scores[~across], _seed(result)),
        across=_across(result.headlines, *best) if across.any() else None,
        weakest_pair=_weakest_pair(scores[across]) if across.any() else None,
        weakest_class=_weakest_class(found),
        autoencoder=_compare_features(result, best[1]) if across.any() else None,
        calibration={
            "within": _mean_over_pairs(scores[~across], "ece"),
            "across": _mean_over_pairs(scores[across], "ece"),
        },
    )


def recall_by_direction(result: BenchmarkResult) -> pd.DataFrame:
    """Return the recommended classifier's recall of each class, by pair of laboratories.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    pandas.DataFrame
        A row per ``label``, ``train_domain`` and ``test_domain`` if training knew the class: its ``recall``, a mean
        over the folds, and ``n``, the mean number of its cells that a fold tested. Empty if nothing was scored.
    """
    columns = ["label", "train_domain", "test_domain", "recall", "n"]
    best = recommended(result)
    if best is None:
        return pd.DataFrame(columns=columns)
    table = per_class_recall(select_series(result.predictions, *best))
    return table.loc[table["recall"].notna(), columns].reset_index(drop=True)


def recommended_predictions(result: BenchmarkResult) -> pd.DataFrame | None:
    """Return all answers of the recommended classifier, or None if nothing was scored.

    Returns
    -------
    pandas.DataFrame
        A row per training laboratory, fold and tested cell: ``path`` of the cell (or its row number if cells have no
        paths), ``domain`` and ``label`` as given, ``group`` if cells have groups, ``train_domain`` and ``fold`` of the
        training, ``predicted`` and ``confidence``, and ``known``, whether the label was in training.
    """
    best = recommended(result)
    if best is None:
        return None
    found = select_series(result.predictions, *best).rename(columns={"test_domain": "domain", "row": "path"})
    paths = result.cells.get("paths")
    if paths is not None:
        names = list(map(str, paths))
        found = found.assign(path=[names[row] for row in found["path"]])
    group = [] if result.cells.get("group") is None else ["group"]
    columns = ["path", "domain", "label", *group, "train_domain", "fold", "predicted", "confidence", "known"]
    return found[columns].reset_index(drop=True)


def verdict_lines(result: BenchmarkResult) -> list[str]:
    """Return the verdict as short lines of text, for a terminal."""
    told = verdict(result)
    if told.classifier is None:
        return ["No two laboratories share a class, so nothing was scored."]
    n, sure = len(candidates(result)), "" if len(candidates(result)) == len(result.headlines) else " with probabilities"
    chosen = f", the best of {n}{sure} by these same scores, which are therefore somewhat too high" if n > 1 else ""
    lines = [f"Recommended: {told.classifier} on the features {told.features!r}{chosen}."]
    for where, units, found in (
        ("Within laboratories", "laborator", told.within), ("Across laboratories", "pair", told.across)
    ):  # fmt: skip
        if found is not None:
            plural = {"laborator": ("y", "ies"), "pair": ("", "s")}[units][found.n > 1]
            interval = f"95% interval {found.low:.3f} to {found.high:.3f}; chance {found.chance:.3f}"
            lines.append(
                f"{where}: balanced accuracy {found.value:.3f} ({interval}), mean over {found.n} {units}{plural}."
            )
    if told.weakest_pair is not None:
        train, test, lowest, cells = told.weakest_pair
        lines.append(f"Weakest direction: {lowest:.3f} when trained in {train} and tested in {test} ({cells} cells).")
    if told.weakest_class is not None:
        label, recall, cells = told.weakest_class
        where = "" if told.across is None else " across laboratories"
        if recall < 1:
            lines.append(f"Weakest class: {label}, with a recall of {recall:.3f}{where} ({cells} cells).")
        else:
            lines.append(f"No class is weak: each has a recall of 1.000{where}.")
    if told.autoencoder is not None:
        gain = told.autoencoder
        helps = {"yes": "it helps", "no": "it harms", "unclear": "it is unclear whether it helps"}
        change = f"{gain.difference:+.3f} (95% interval {gain.low:+.3f} to {gain.high:+.3f})"
        lines.append(f"Autoencoder: {helps[gain.helps]} {told.classifier} across laboratories: {change}.")
    return lines


def headlined(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of known classes across laboratories, or all rows of known classes if there is one laboratory."""
    known = found[found["known"].astype(bool)]
    across = known["train_domain"] != known["test_domain"]
    return known[across] if across.any() else known


def _seed(result: BenchmarkResult) -> int:
    return int(result.settings.get("random_state", 0))


def _within(found: pd.DataFrame, scores: pd.DataFrame, seed: int) -> Interval | None:
    """Bootstrap the tested groups of each laboratory, as `confidence_intervals` does across laboratories."""
    own = found[(found["train_domain"] == found["test_domain"]) & found["known"].astype(bool)]
    if own.empty:
        return None
    drawn = bootstrap_scores(own, "balanced_accuracy", 1000, seed, by_pair=True)
    draws = np.mean(list(drawn.values()), axis=0)
    low, high = quantiles(draws[1:], 0.025)
    return Interval(float(draws[0]), low, high, _mean_over_pairs(scores, "chance"), len(drawn))


def _across(headlines: pd.DataFrame, features: str, classifier: str) -> Interval:
    row = select_series(headlines, features, classifier).iloc[0]
    value, low, high, chance = (float(row[name]) for name in ("balanced_accuracy", "low", "high", "chance"))
    return Interval(value, low, high, chance, int(row["pairs"]))


def _weakest_pair(scores: pd.DataFrame) -> tuple[Any, Any, float, int]:
    means = summarise_scores(scores)
    row = means.iloc[int(means["balanced_accuracy_mean"].argmin())]
    train, test = row["train_domain"], row["test_domain"]
    tested = scores.loc[(scores["train_domain"] == train) & (scores["test_domain"] == test), "n_test"]
    return train, test, float(row["balanced_accuracy_mean"]), int(tested.max())


def _weakest_class(found: pd.DataFrame) -> tuple[Any, float, int] | None:
    tested = headlined(found)
    if tested.empty:
        return None
    recall = per_class_recall(tested).groupby("label", sort=False, observed=True)["recall"].mean()
    label = recall.index[int(recall.argmin())]
    return label, float(recall.min()), int(tested.loc[tested["label"] == label, "row"].nunique())


def _compare_features(result: BenchmarkResult, classifier: str) -> Comparison | None:
    """Compare one kind of classifier on the autoencoder's features and on the embeddings, across laboratories."""
    names = ("autoencoder", "embeddings")
    table = result.predictions[result.predictions["classifier"] == classifier]
    table = table[table["features"].isin(names)]
    if table["features"].nunique() < len(names):
        return None
    with warnings.catch_warnings():  # the advice already says whether cells have patients
        warnings.filterwarnings("ignore", message="Every group is one cell", category=UserWarning)
        row = compare_pipelines(table, (names[1], classifier), random_state=_seed(result)).iloc[0]
    tested = table[(table["train_domain"] != table["test_domain"]) & table["known"].astype(bool)]
    enough = len(tested[["test_domain", "group"]].drop_duplicates()) >= _LEAST_GROUPS
    difference, low, high, p = (float(row[name]) for name in ("difference", "low", "high", "p"))
    variance, n_folds = _training_variance(result.scores[result.scores["classifier"] == classifier])
    if variance > 0:
        below, above = difference - low, high - difference
        error = hypot((high - low) / (2 * _NORMAL), sqrt(variance))
        more = _NORMAL * sqrt(variance)
        low, high = difference - hypot(below, more), difference + hypot(above, more)
        p = erfc(abs(difference) / error / sqrt(2))
    helps: Literal["yes", "no", "unclear"] = "unclear"
    if enough and n_folds > 1 and (low > 0 or high < 0):
        helps = "yes" if low > 0 else "no"
    return Comparison(difference, low, high, p, helps)


def _training_variance(scores: pd.DataFrame) -> tuple[float, int]:
    """Return the variance of the autoencoder's mean gain that comes from the training cells, and the fewest folds.

    Each fit of a laboratory's folds leaves out one part of its cells, so the fits are a jackknife of these cells.
    """
    scores = scores[(scores["train_domain"] != scores["test_domain"]) & (scores["n_classes"] > 0)]
    folds = scores.groupby(["features", "train_domain", "fold"], observed=True)["balanced_accuracy"].mean()
    by_domain = (folds["autoencoder"] - folds["embeddings"]).groupby(level="train_domain")
    n_folds = by_domain.size()
    variances = (n_folds - 1) * by_domain.var(ddof=0)
    n_pairs = scores.groupby("train_domain", observed=True)["test_domain"].nunique()
    weights = n_pairs / n_pairs.sum()
    return float((weights**2 * variances).sum()), int(n_folds.min())


def _mean_over_pairs(scores: pd.DataFrame, column: str) -> float:
    """Return the mean over pairs of laboratories of the mean over folds; NaN if there is no value."""
    return float(scores.groupby(["train_domain", "test_domain"], sort=False)[column].mean().mean())
