"""What predictions are worth: scores, recall by class, calibration, intervals, comparisons."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score

from .checks import METRICS, check_arguments, check_table, seed_of

_BINS = 15
_PREDICTED = (
    "classifier", "train_domain", "test_domain", "fold", "row", "group", "label", "predicted", "confidence", "known",
    "n_train",
)  # fmt: skip


def score_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Score each fit in each domain.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions` or `leave_one_domain_out_predictions`.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain, fold and test_domain, with the cells ``n_train`` and
        ``n_test``, ``n_left_out`` (cells of the test domain whose class was not in training, hence not
        scored), ``n_classes`` present among the scored cells, ``accuracy``, ``balanced_accuracy`` (mean
        recall over those classes), ``macro_f1`` (over the same classes) and ``ece``, the expected calibration error
        (15 bins of equal width; NaN without probabilities). A pair of domains without a common class scores NaN.

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration error).
    """
    check_predictions(predictions)
    keys = [*_series_keys(predictions), "train_domain", "fold", "test_domain"]
    rows = []
    for names, cells in predictions.groupby(keys, sort=False):
        known = cells[cells["known"]]
        rows.append(
            {
                **dict(zip(keys, names, strict=True)),
                "n_train": int(cells["n_train"].iloc[0]),
                "n_test": len(known),
                "n_left_out": len(cells) - len(known),
                "n_classes": known["label"].nunique(),
                **_metrics(known),
            }
        )
    first = [*_series_keys(predictions), "train_domain", "test_domain", "fold"]
    scores = pd.DataFrame(rows)
    scores = scores[[*first, *(name for name in scores if name not in first)]]
    scores.attrs.update(predictions.attrs)
    return scores


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and spread over folds of each classifier and pair of domains.

    Parameters
    ----------
    scores : pandas.DataFrame
        From `cross_domain_scores`, or a benchmark's (with a ``features`` column).

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain and test_domain; columns ``accuracy_mean``,
        ``accuracy_std`` (ddof=1), the same of the other metrics, and ``n``, the number of folds with a score.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.evaluation import summarise_scores
    >>> row = {"classifier": "RF", "train_domain": "a", "test_domain": "b"}
    >>> scores = pd.DataFrame([row, row]).assign(accuracy=[0.5, 0.7], balanced_accuracy=0.5, macro_f1=0.5)
    >>> float(summarise_scores(scores)["accuracy_mean"].iloc[0])
    0.6
    """
    _check_scores(scores, *METRICS)
    keys = [*_series_keys(scores), "train_domain", "test_domain"]
    groups = scores.groupby(keys, sort=False)
    columns = {f"{metric}_{name}": groups[metric].agg(name) for metric in METRICS for name in ("mean", "std")}
    return pd.DataFrame({**columns, "n": groups["accuracy"].count()}).reset_index()


def cross_domain_mean(scores: pd.DataFrame, metric: str = "balanced_accuracy") -> pd.Series:
    """Return each classifier's mean over all ordered pairs of different domains.

    Parameters
    ----------
    scores : pandas.DataFrame
        From `cross_domain_scores`, or a benchmark's (with a ``features`` column).
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        What to average. Every pair weighs the same; pairs without a common class are passed over.

    Returns
    -------
    pandas.Series
        Indexed by classifier, or by (features, classifier).

    Raises
    ------
    ValueError
        If `metric` is unknown, or no pair of different domains was scored.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.evaluation import cross_domain_mean
    >>> scores = pd.DataFrame({"classifier": "RF", "train_domain": ["a", "a", "b"],
    ...                        "test_domain": ["a", "b", "a"], "accuracy": [1.0, 0.25, 0.75]})
    >>> float(cross_domain_mean(scores, "accuracy")["RF"])
    0.5
    """
    check_arguments("cross_domain_mean", metric=metric)
    _check_scores(scores, metric)
    keys = _series_keys(scores)
    pairs = _across(scores).groupby([*keys, "train_domain", "test_domain"], sort=False)[metric].mean()
    return pairs.groupby(level=keys, sort=False).mean()


def per_class_recall(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the recall of each class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions`.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain, test_domain and label: ``recall``, the mean over folds, and
        ``n``, the cells of a fold on average.
    """
    check_predictions(predictions)
    keys = [*_series_keys(predictions), "train_domain", "test_domain", "label"]
    known = predictions[predictions["known"]]
    hits = (known["label"] == known["predicted"]).astype(float)
    folds = hits.groupby([known[key] for key in [*keys, "fold"]], sort=False).agg(["mean", "size"])
    means = folds.groupby(level=keys, sort=False).mean()
    return means.rename(columns={"mean": "recall", "size": "n"}).reset_index()


def confusion_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the confusion matrix of some predictions, as shares of each true class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions`, the rows that are wanted.

    Returns
    -------
    pandas.DataFrame
        True classes (rows) by predicted ones; rows sum to 1. Classes that training did not know have a row too.
    """
    check_predictions(predictions, "label", "predicted")
    counts = pd.crosstab(predictions["label"], predictions["predicted"])
    return counts.div(counts.sum(axis=1), axis=0)


def confidence_intervals(
    predictions: pd.DataFrame,
    *,
    metric: str = "balanced_accuracy",
    by_pair: bool = False,
    level: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Any = None,
) -> pd.DataFrame:
    """Return bootstrap intervals of scores across domains, over groups of the tested cells.

    The tested domains' groups (patients or slides; cells, where no groups were given) are drawn again with
    replacement, the models stay as they are: the interval says how much the choice of tested cells matters, not how
    much another training would.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions` or `leave_one_domain_out_predictions`.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
    by_pair : bool, default=False
        A row per pair of domains, instead of the mean over all pairs of different ones.
    level : float, default=0.95
    n_bootstrap : int, default=1000
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier (and pair): ``score``, ``low``, ``high``.

    Raises
    ------
    ValueError
        If `metric` is unknown or no pair of different domains was predicted.
    """
    check_arguments(
        "confidence_intervals", metric=metric, by_pair=by_pair, level=level, n_bootstrap=n_bootstrap,
        random_state=random_state,
    )  # fmt: skip
    drawn: dict[tuple, dict[Any, NDArray[np.float64]]] = dict(
        _bootstrap(predictions, metric, n_bootstrap, random_state, within=by_pair)
    )
    if not by_pair:
        drawn = {series: {"": np.mean(list(pairs.values()), axis=0)} for series, pairs in drawn.items()}
    tail = (1 - level) / 2
    rows = []
    for series, pairs in drawn.items():
        for pair, values in pairs.items():
            names = dict(zip(_series_keys(predictions), series, strict=True))
            if by_pair:
                names |= dict(zip(("train_domain", "test_domain"), pair, strict=True))
            low, high = np.nanquantile(values[1:], [tail, 1 - tail])
            rows.append({**names, "score": float(values[0]), "low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


def compare_pipelines(
    predictions: pd.DataFrame,
    baseline: Any = None,
    *,
    metric: str = "balanced_accuracy",
    n_bootstrap: int = 1000,
    random_state: Any = None,
) -> pd.DataFrame:
    """Compare classifiers on the same cells: paired bootstrap of the difference of their means across domains.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions`; several benchmarks' may be joined if X was the same.
    baseline : str or (features, classifier), optional
        Compare all others with this one; default every two.
    metric, n_bootstrap, random_state
        As in `confidence_intervals`.

    Returns
    -------
    pandas.DataFrame
        ``a``, ``b``, ``difference`` (a minus b), 95 % interval ``low`` and ``high``, two-sided ``p`` and ``p_holm``,
        corrected for the number of comparisons (Holm 1979).

    Raises
    ------
    ValueError
        If the baseline or metric is unknown, or there is nothing to compare.
    """
    check_arguments("compare_pipelines", metric=metric, n_bootstrap=n_bootstrap, random_state=random_state)
    drawn: dict[Any, Any] = {
        (series if len(series) > 1 else series[0]): np.mean(list(pairs.values()), axis=0)
        for series, pairs in _bootstrap(predictions, metric, n_bootstrap, random_state).items()
    }
    if baseline is not None and baseline not in drawn:
        raise ValueError(f"Got baseline={baseline!r} but expected one of {', '.join(map(repr, drawn))}.")
    couples = list(combinations(drawn, 2)) if baseline is None else [(a, baseline) for a in drawn if a != baseline]
    if not couples:
        raise ValueError("Got one classifier but expected at least two to compare.")
    rows = []
    for a, b in couples:
        difference = drawn[a] - drawn[b]
        low, high = np.quantile(difference[1:], [0.025, 0.975])
        p = 2 * min((difference[1:] <= 0).mean(), (difference[1:] >= 0).mean())
        p = min(1.0, max(p, 1 / n_bootstrap))
        rows.append({"a": a, "b": b, "difference": float(difference[0]), "low": low, "high": high, "p": p})
    table = pd.DataFrame(rows)
    order = np.argsort(table["p"].to_numpy(), kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1, np.maximum.accumulate(table["p"].to_numpy()[order] * factors))
    return table.assign(p_holm=corrected)


def _metrics(known: pd.DataFrame) -> dict[str, float]:
    if known.empty:
        return dict.fromkeys((*METRICS, "ece"), np.nan)
    truth, predicted = known["label"].to_numpy(), known["predicted"].to_numpy()
    over = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall_score(truth, predicted, **over)),
        "macro_f1": float(f1_score(truth, predicted, **over)),
        "ece": _calibration_error(truth == predicted, known["confidence"].to_numpy()),
    }


def _calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Gap between confidence and share of right answers, by bin, weighted by the bin's cells."""
    if np.isnan(confidence).any():
        return float("nan")
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _bootstrap(
    predictions: pd.DataFrame, metric: str, n_bootstrap: int, random_state: Any, within: bool = False
) -> dict[tuple, dict[tuple, NDArray[np.float64]]]:
    """Scores by series and pair: of the cells as they are, then of each draw; all series see the same draws."""
    check_predictions(predictions)
    cells = predictions if within else _across(predictions)
    cells = cells[cells["known"]]
    rng = np.random.default_rng(seed_of(random_state))
    weights: dict[Any, NDArray[np.float32]] = {}
    places: dict[Any, dict[Any, int]] = {}
    for lab in cells["test_domain"].unique().tolist():
        groups = cells.loc[cells["test_domain"] == lab, "group"]
        places[lab] = {name: at for at, name in enumerate(groups.unique())}
        n = len(places[lab])
        draws = rng.multinomial(n, np.full(n, 1 / n), n_bootstrap)
        weights[lab] = np.vstack([np.ones(n), draws]).astype(np.float32)
    keys = [*_series_keys(predictions), "train_domain", "test_domain"]
    found: dict[tuple, dict[tuple, NDArray]] = {}
    for names, pair in cells.groupby(keys, sort=False):
        lab = names[-1]
        folds = [_weighted(fold, places[lab], weights[lab], metric) for _, fold in pair.groupby("fold", sort=False)]
        found.setdefault(tuple(names[:-2]), {})[tuple(names[-2:])] = np.nanmean(folds, axis=0)
    return found


def _weighted(cells: pd.DataFrame, places: dict, weights: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """Compute the metric under each row of weights, one weight a group."""
    classes = {name: at for at, name in enumerate(cells["label"].unique())}
    unit = cells["group"].map(places).to_numpy()
    truth = cells["label"].map(classes).to_numpy()
    predicted = cells["predicted"].map(classes).fillna(-1).to_numpy(int)
    shape = (len(places), len(classes))

    def count(rows: NDArray, by: NDArray) -> NDArray[np.float64]:
        counts = np.bincount(unit[rows] * shape[1] + by[rows], minlength=shape[0] * shape[1])
        return (weights @ counts.reshape(shape).astype(np.float32)).astype(np.float64)

    hits, true = count(truth == predicted, truth), count(truth >= 0, truth)
    if metric == "accuracy":
        return hits.sum(1) / true.sum(1)
    drawn = np.where(true > 0, 1.0, np.nan)  # a class that was not drawn does not count
    if metric == "balanced_accuracy":
        return np.nanmean(drawn * hits / np.maximum(true, 1), axis=1)
    answered = count(predicted >= 0, predicted)
    return np.nanmean(drawn * 2 * hits / np.maximum(true + answered, 1), axis=1)


def _across(table: pd.DataFrame) -> pd.DataFrame:
    across = table[table["train_domain"] != table["test_domain"]]
    if across.empty:
        raise ValueError("Got scores of one domain but expected at least two; add another laboratory.")
    return across


def check_predictions(predictions: Any, *columns: str) -> None:
    """Raise unless this is a table of predictions, with all their columns unless told which."""
    check_table(predictions, "predictions", columns or _PREDICTED, "cross_domain_predictions")


def _check_scores(scores: Any, *metrics: str) -> None:
    check_table(scores, "scores", ("classifier", "train_domain", "test_domain", *metrics), "cross_domain_scores")


def _series_keys(scores: pd.DataFrame) -> list[str]:
    return ["features", "classifier"] if "features" in scores else ["classifier"]
