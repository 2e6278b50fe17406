"""Scores of predictions: metrics by pair of domains, recall by class, calibration, intervals and comparisons."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from .checks import METRICS, check_arguments, check_table, seed_of

_BINS = 15
_SCORED = ("classifier", "train_domain", "test_domain")
_PREDICTED = (*_SCORED, "fold", "row", "group", "label", "predicted", "confidence", "known", "n_train")


def score_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Score each fit in each domain.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions` or `leave_one_domain_out_predictions`.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain, test_domain and fold, with the numbers of cells ``n_train``,
        ``n_test`` and ``n_left_out`` (not scored, because their class was not in training), ``n_classes`` among the
        scored cells, ``accuracy``, ``balanced_accuracy`` (mean recall over those classes), ``macro_f1`` (over the same
        classes) and ``ece``, the expected calibration error (Guo et al., ICML 2017; 15 bins of equal width; NaN without
        probabilities). A pair of domains without a common class scores NaN.
    """
    check_predictions(predictions)
    keys = [*_pair_keys(predictions), "fold"]
    fits = predictions.groupby(keys, sort=False)
    scores = pd.DataFrame([{**dict(zip(keys, names, strict=True)), **_score_fit(cells)} for names, cells in fits])
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
        A row per (features,) classifier, train_domain and test_domain: ``accuracy_mean``, ``accuracy_std`` (ddof=1),
        the same of the other metrics, and ``n``, the number of folds with a score.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.evaluation import summarise_scores
    >>> row = {"classifier": "RF", "train_domain": "a", "test_domain": "b", "balanced_accuracy": 0.5, "macro_f1": 0.5}
    >>> float(summarise_scores(pd.DataFrame([row, row]).assign(accuracy=[0.5, 0.7]))["accuracy_mean"].iloc[0])
    0.6
    """
    check_table(scores, "scores", (*_SCORED, *METRICS), "cross_domain_scores")
    groups = scores.groupby(_pair_keys(scores), sort=False)
    columns = {f"{metric}_{name}": groups[metric].agg(name) for metric in METRICS for name in ("mean", "std")}
    return pd.DataFrame({**columns, "n": groups["accuracy"].count()}).reset_index()


def cross_domain_mean(scores: pd.DataFrame, metric: str = "balanced_accuracy") -> pd.Series:
    """Return each classifier's mean over all ordered pairs of different domains.

    Parameters
    ----------
    scores : pandas.DataFrame
        As in `summarise_scores`, with a pair of different domains.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        What to average. Every pair has the same weight; pairs without a common class are skipped.

    Returns
    -------
    pandas.Series
        Indexed by (features,) classifier.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.evaluation import cross_domain_mean
    >>> scores = pd.DataFrame({"train_domain": list("aab"), "test_domain": list("aba"), "accuracy": [1.0, 0.25, 0.75]})
    >>> float(cross_domain_mean(scores.assign(classifier="RF"), "accuracy")["RF"])
    0.5
    """
    check_arguments("cross_domain_mean", metric=metric)
    check_table(scores, "scores", (*_SCORED, metric), "cross_domain_scores")
    keys = _pair_keys(scores)
    return _across(scores).groupby(keys, sort=False)[metric].mean().groupby(level=keys[:-2], sort=False).mean()


def per_class_recall(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the recall of each class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        As in `score_predictions`.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain, test_domain and label: ``recall``, the mean over folds, and
        ``n``, the mean number of cells in a fold.
    """
    check_predictions(predictions)
    keys = [*_pair_keys(predictions), "label"]
    known = predictions[predictions["known"]]
    hits = known.assign(hit=known["label"] == known["predicted"]).groupby([*keys, "fold"], sort=False)["hit"]
    return hits.agg(recall="mean", n="size").groupby(level=keys, sort=False).mean().reset_index()


def confusion_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the confusion matrix of some predictions, as shares of each true class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        The rows that are wanted, as in `score_predictions`.

    Returns
    -------
    pandas.DataFrame
        True classes (rows) by predicted ones; rows sum to 1. Classes that training did not know have a row too.
    """
    check_predictions(predictions, "label", "predicted")
    return pd.crosstab(predictions["label"], predictions["predicted"], normalize="index")


def confidence_intervals(
    predictions: pd.DataFrame, *, metric: str = "balanced_accuracy", by_pair: bool = False, level: float = 0.95,
    n_bootstrap: int = 1000, random_state: Any = None,
) -> pd.DataFrame:  # fmt: skip
    """Return bootstrap intervals of scores across domains.

    Groups of tested cells (patients or slides; single cells, where no groups were given) are drawn with replacement,
    and the models stay as they are: the interval shows the effect of the choice of tested cells, not of training.

    Parameters
    ----------
    predictions : pandas.DataFrame
        As in `score_predictions`, with a pair of different domains unless `by_pair`.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
    by_pair : bool, default=False
        Whether to return a row per pair of domains, instead of the mean over all pairs of different ones.
    level : float, default=0.95
        Share of the draws inside the interval, between 0 and 1.
    n_bootstrap : int, default=1000
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier (and pair): ``score``, ``low``, ``high``.
    """
    options: dict[str, Any] = {"metric": metric, "n_bootstrap": n_bootstrap, "random_state": random_state}
    check_arguments("confidence_intervals", by_pair=by_pair, level=level, **options)
    drawn = _bootstrap(predictions, by_pair=by_pair, **options)
    keys = _pair_keys(predictions) if by_pair else _pair_keys(predictions)[:-2]
    tail = (1 - level) / 2
    rows = [[*names, values[0], *np.nanquantile(values[1:], [tail, 1 - tail])] for names, values in drawn.items()]
    return pd.DataFrame(rows, columns=[*keys, "score", "low", "high"])


def compare_pipelines(
    predictions: pd.DataFrame, baseline: Any = None, *, metric: str = "balanced_accuracy", n_bootstrap: int = 1000,
    random_state: Any = None,
) -> pd.DataFrame:  # fmt: skip
    """Compare classifiers on the same cells: paired bootstrap of the difference of their means across domains.

    Parameters
    ----------
    predictions : pandas.DataFrame
        As in `score_predictions`, of two classifiers or more, with a pair of different domains. Tables of several
        benchmarks may be joined if X was the same.
    baseline : str or (features, classifier), optional
        The one to compare all others with. By default, each pair of classifiers is compared.
    metric, n_bootstrap, random_state
        As in `confidence_intervals`.

    Returns
    -------
    pandas.DataFrame
        ``a``, ``b``, ``difference`` (a minus b), 95 % interval ``low`` and ``high``, two-sided ``p`` and ``p_holm``,
        corrected for the number of comparisons (Holm 1979).
    """
    options: dict[str, Any] = {"metric": metric, "n_bootstrap": n_bootstrap, "random_state": random_state}
    check_arguments("compare_pipelines", **options)
    drawn = _bootstrap(predictions, **options)
    if "features" not in predictions:
        drawn = {classifier: values for (classifier,), values in drawn.items()}
    if baseline is not None and baseline not in drawn:
        names = ", ".join(map(repr, drawn))
        raise ValueError(f"Got baseline={baseline!r} but expected one of {names}. Fix: pass one of these.")
    compared = list(combinations(drawn, 2)) if baseline is None else [(a, baseline) for a in drawn if a != baseline]
    if not compared:
        raise ValueError("Got one classifier but expected at least two to compare. Fix: join the tables of several.")
    rows = []
    for a, b in compared:
        difference, draws = float(drawn[a][0] - drawn[b][0]), drawn[a][1:] - drawn[b][1:]
        low, high = np.quantile(draws, [0.025, 0.975])
        p = np.clip(2 * min((draws <= 0).mean(), (draws >= 0).mean()), 1 / n_bootstrap, 1)
        rows.append({"a": a, "b": b, "difference": difference, "low": low, "high": high, "p": p})
    table = pd.DataFrame(rows)
    ascending = table["p"].sort_values(kind="stable")
    return table.assign(p_holm=(ascending * np.arange(len(table), 0, -1)).cummax().clip(upper=1))


def _score_fit(cells: pd.DataFrame) -> dict[str, float]:
    """Score what one fit predicted in one domain; the columns are those of `score_predictions`."""
    known = cells[cells["known"]]
    counts = {"n_train": int(cells["n_train"].iloc[0]), "n_test": len(known), "n_left_out": len(cells) - len(known)}
    truth, predicted = known["label"].to_numpy(), known["predicted"].to_numpy()
    classes = np.unique(truth)
    if known.empty:
        return {**counts, "n_classes": 0, **dict.fromkeys((*METRICS, "ece"), np.nan)}
    over = {"labels": classes, "average": "macro", "zero_division": 0}
    _, recall, f1, _ = precision_recall_fscore_support(truth, predicted, **over)
    scores = {"accuracy": accuracy_score(truth, predicted), "balanced_accuracy": recall, "macro_f1": f1}
    ece = _calibration_error(truth == predicted, known["confidence"].to_numpy())
    return {**counts, "n_classes": len(classes), **scores, "ece": ece}


def _calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Return the gap between confidence and share of right answers, by bin, weighted by the bin's cells."""
    if np.isnan(confidence).any():
        return float("nan")
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _bootstrap(
    predictions: pd.DataFrame, metric: str, n_bootstrap: int, random_state: Any, by_pair: bool = False
) -> dict[Any, NDArray[np.float64]]:
    """Score the cells as they are, then each draw, (1 + n_bootstrap,); all classifiers are scored on the same draws.

    The keys are (features,) classifier, train_domain and test_domain. Without `by_pair` they are (features,) classifier
    alone, and the values are means over the pairs of different domains.
    """
    check_predictions(predictions)
    cells = predictions if by_pair else _across(predictions)
    cells = cells[cells["known"]]
    rng = np.random.default_rng(seed_of(random_state))
    draws: dict[Any, tuple[pd.Index, NDArray[np.float32]]] = {}
    for domain, tested in cells.groupby("test_domain", sort=False):
        groups = pd.Index(tested["group"].unique())
        n = len(groups)
        times_drawn = rng.multinomial(n, np.full(n, 1 / n), n_bootstrap)
        draws[domain] = groups, np.vstack([np.ones(n), times_drawn]).astype(np.float32)
    scores = {}
    for names, pair in cells.groupby(_pair_keys(predictions), sort=False):
        folds = [_weighted_scores(fold, *draws[names[-1]], metric) for _, fold in pair.groupby("fold", sort=False)]
        scores[tuple(names)] = np.nanmean(folds, axis=0)
    if by_pair:
        return scores
    series = dict.fromkeys(names[:-2] for names in scores)
    return {one: np.mean([scores[names] for names in scores if names[:-2] == one], axis=0) for one in series}


def _weighted_scores(cells: pd.DataFrame, groups: pd.Index, weights: NDArray, metric: str) -> NDArray[np.float64]:
    """Compute the metric of some cells under each row of weights, float32 (n_draws, n_groups)."""
    truth, classes = pd.factorize(cells["label"])
    predicted = classes.get_indexer(pd.Index(cells["predicted"]))  # -1 for a class that is not among the true ones
    group = groups.get_indexer(pd.Index(cells["group"]))
    shape = (len(groups), len(classes))

    def count(rows: NDArray[np.bool_], by: NDArray[np.int_]) -> NDArray[np.float64]:
        """Count these cells by class under each row of weights, (n_draws, n_classes)."""
        counts = np.bincount(group[rows] * shape[1] + by[rows], minlength=shape[0] * shape[1])
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
        raise ValueError("Got scores of one domain but expected at least two. Fix: add another laboratory.")
    return across


def check_predictions(predictions: Any, *columns: str) -> None:
    """Raise unless this is a table of predictions with these columns, by default with all that predictions have."""
    check_table(predictions, "predictions", columns or _PREDICTED, "cross_domain_predictions")


def _pair_keys(table: pd.DataFrame) -> list[str]:
    """Return the columns that name a classifier and, last, those of the pair of domains."""
    return [name for name in ("features", *_SCORED) if name in table]
