"""Scores of predictions: metrics by pair of domains, recall by class, calibration, intervals and comparisons."""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..exceptions import warn_caller
from .checks import METRICS, check_arguments, check_table, equal_values, seed_of

_BINS = 15
_SCORED = ("classifier", "train_domain", "test_domain")
_ALL = tuple(f"{metric}_all" for metric in METRICS)  # over every cell, including those of unknown classes
_PREDICTED = (*_SCORED, "fold", "row", "group", "label", "predicted", "confidence", "known", "n_train")


def score_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Score each fit in each domain.

    Parameters
    ----------
    predictions : pandas.DataFrame
        The result of `cross_domain_predictions` or `leave_one_domain_out_predictions`.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain, test_domain and fold, with the numbers of cells ``n_train``,
        ``n_test`` and ``n_left_out`` (their class was not in training), and ``n_classes`` among the ``n_test`` cells.

        These scores are over the ``n_test`` cells: ``accuracy``, ``balanced_accuracy`` (mean recall over the classes),
        ``macro_f1`` (over the same classes) and ``ece``, the expected calibration error (Guo et al., ICML 2017; 15 bins
        of equal width). ``accuracy_all``, ``balanced_accuracy_all``, ``macro_f1_all`` and ``ece_all`` are over all
        cells, and cells of a class that training lacks count as wrong. ``chance`` and ``majority`` are the balanced
        accuracy and the accuracy of the best constant answer, over the ``n_test`` cells.

        A pair of domains without a common class scores NaN, and 0 over all cells. The calibration errors ignore
        abstentions, which have no confidence. They are NaN without probabilities.
    """
    check_predictions(predictions)
    keys = [*_pair_keys(predictions), "fold"]
    fits = predictions.groupby(keys, sort=False, observed=True)
    scores = pd.DataFrame([{**dict(zip(keys, names, strict=True)), **_score_fit(cells)} for names, cells in fits])
    scores.attrs.update(predictions.attrs)
    return scores


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and spread over folds of each classifier and pair of domains.

    Parameters
    ----------
    scores : pandas.DataFrame
        The result of `cross_domain_scores`, or the scores of a benchmark (with a ``features`` column).

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain and test_domain: ``accuracy_mean``, ``accuracy_std`` (ddof=1),
        the same for every other metric that the scores have, ``chance`` and ``majority`` (means over folds), and ``n``,
        the number of folds with a score.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.evaluation import summarise_scores
    >>> row = {"classifier": "RF", "train_domain": "a", "test_domain": "b", "balanced_accuracy": 0.5, "macro_f1": 0.5}
    >>> float(summarise_scores(pd.DataFrame([row, row]).assign(accuracy=[0.5, 0.7]))["accuracy_mean"].iloc[0])
    0.6
    """
    check_table(scores, "scores", (*_SCORED, *METRICS), "cross_domain_scores")
    groups = scores.groupby(_pair_keys(scores), sort=False, observed=True)
    metrics = [metric for metric in (*METRICS, *_ALL, "ece", "ece_all") if metric in scores]
    columns = {f"{metric}_{name}": groups[metric].agg(name) for metric in metrics for name in ("mean", "std")}
    columns |= {name: groups[name].mean() for name in ("chance", "majority") if name in scores}
    return pd.DataFrame({**columns, "n": groups["accuracy"].count()}).reset_index()


def cross_domain_mean(scores: pd.DataFrame, metric: str = "balanced_accuracy") -> pd.Series:
    """Return each classifier's mean over all ordered pairs of different domains.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scores, as in `summarise_scores`, with a pair of different domains.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        Metric to average. Every pair has the same weight. Pairs without a common class are skipped.

    Returns
    -------
    pandas.Series
        The mean of each classifier, indexed by (features,) classifier.

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
    return (
        _across(scores)
        .groupby(keys, sort=False, observed=True)[metric]
        .mean()
        .groupby(level=keys[:-2], sort=False, observed=True)
        .mean()
    )


def per_class_recall(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the recall of each class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Predictions, as in `score_predictions`.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier, train_domain, test_domain and label. ``recall`` is the mean over the folds
        whose training knew the class (NaN if none did), and ``n`` the mean number of its cells in such a fold.
        ``recall_all`` and ``n_all`` are over all folds, with a recall of 0 in folds whose training lacks the class.
    """
    check_predictions(predictions)
    keys = [*_pair_keys(predictions), "label"]
    known = predictions["known"].astype(bool)
    cells = predictions.assign(known=known, hit=known & equal_values(predictions["label"], predictions["predicted"]))
    folds = (
        cells.groupby([*keys, "fold", "known"], sort=False, observed=True)["hit"]
        .agg(recall="mean", n="size")
        .reset_index()
    )
    table = (
        folds.groupby(keys, sort=False, observed=True)[["recall", "n"]].mean().add_suffix("_all")
    )  # in a fold, a class is known or not
    return (
        folds[folds["known"]]
        .groupby(keys, sort=False, observed=True)[["recall", "n"]]
        .mean()
        .reindex(table.index)
        .join(table)
        .reset_index()
    )


def confusion_shares(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the confusion matrix of predictions as shares of each true class; each row sums to 1.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Predictions, as in `score_predictions`.

    Returns
    -------
    pandas.DataFrame
        True classes (rows) by predicted classes (columns). Classes that training lacks also have a row.
    """
    check_predictions(predictions, "label", "predicted")
    return pd.crosstab(predictions["label"], predictions["predicted"], normalize="index")


def confidence_intervals(
    predictions: pd.DataFrame, *, metric: str = "balanced_accuracy", by_pair: bool = False, level: float = 0.95,
    n_bootstrap: int = 1000, random_state: Any = None,
) -> pd.DataFrame:  # fmt: skip
    """Return bootstrap intervals of scores across domains.

    Groups of tested cells (patients or slides, or single cells if no groups were given) are drawn with replacement. The
    models stay the same, so the interval shows the effect of the choice of tested cells, not of training. It is too
    narrow if several cells come from one patient and no groups were given. The bootstrap ignores cells of classes that
    training lacks, and draws in which a pair of domains cannot be scored.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Predictions, as in `score_predictions`, with a pair of different domains unless `by_pair`.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        Score to compute.
    by_pair : bool, default=False
        Whether to return a row per pair of domains, instead of the mean over all pairs of different domains.
    level : float, default=0.95
        Share of the draws inside the interval, between 0 and 1.
    n_bootstrap : int, default=1000
        Number of bootstrap draws, at least 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.

    Returns
    -------
    pandas.DataFrame
        A row per (features,) classifier (and pair): ``score``, ``low``, ``high``, and ``chance``, the score of the best
        constant answer in each fold.
    """
    options: dict[str, Any] = {"metric": metric, "n_bootstrap": n_bootstrap, "random_state": random_state}
    check_arguments("confidence_intervals", by_pair=by_pair, level=level, **options)
    drawn = bootstrap_scores(predictions, by_pair=by_pair, **options)
    chance = bootstrap_scores(_constant_answers(predictions), by_pair=by_pair, **{**options, "n_bootstrap": 1})
    keys = _pair_keys(predictions) if by_pair else _pair_keys(predictions)[:-2]
    tail = (1 - level) / 2
    rows = [
        [*names, values[0], *quantiles(values[1:], tail), float(chance[names][0])] for names, values in drawn.items()
    ]
    return pd.DataFrame(rows, columns=[*keys, "score", "low", "high", "chance"])


def compare_pipelines(
    predictions: pd.DataFrame, baseline: Any = None, *, metric: str = "balanced_accuracy", n_bootstrap: int = 1000,
    random_state: Any = None,
) -> pd.DataFrame:  # fmt: skip
    """Compare classifiers on the same cells by a paired bootstrap of the difference of their means across domains.

    Groups are drawn as in `confidence_intervals`. The function warns if every group is one cell, because p-values
    without groups are too small if several cells come from one patient.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Predictions, as in `score_predictions`, of two classifiers or more, with a pair of different domains. Tables of
        several benchmarks may be joined if X was the same.
    baseline : str or (features, classifier), optional
        Classifier to compare all others with. By default, each pair of classifiers is compared.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        Score to compare.
    n_bootstrap : int, default=1000
        Number of bootstrap draws, at least 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.

    Returns
    -------
    pandas.DataFrame
        ``a``, ``b``, ``difference`` (a minus b), 95% interval ``low`` and ``high``, two-sided ``p`` and ``p_holm``,
        corrected for the number of comparisons (Holm 1979). If k of B draws lie on the rarer side of 0, p is
        2 (k + 1) / (B + 1): it cannot be smaller than 2 / (B + 1), so many comparisons need a larger `n_bootstrap`.

    Raises
    ------
    ValueError
        If the classifiers did not all predict the same cells once, or `baseline` is not one of the classifiers.
    """
    options: dict[str, Any] = {"metric": metric, "n_bootstrap": n_bootstrap, "random_state": random_state}
    check_arguments("compare_pipelines", **options)
    drawn = bootstrap_scores(predictions, **options)
    if "features" not in predictions:
        drawn = {classifier: values for (classifier,), values in drawn.items()}
    if baseline is not None and baseline not in drawn:
        names = ", ".join(map(repr, drawn))
        raise ValueError(f"Got baseline={baseline!r} but expected one of {names}. Fix: pass one of these.")
    compared = list(combinations(drawn, 2)) if baseline is None else [(a, baseline) for a in drawn if a != baseline]
    if not compared:
        raise ValueError("Got one classifier but expected at least two to compare. Fix: join the tables of several.")
    _check_same_cells(_across(predictions))
    rows = []
    for a, b in compared:
        difference, draws = float(drawn[a][0] - drawn[b][0]), drawn[a][1:] - drawn[b][1:]
        draws = draws[~np.isnan(draws)]
        low, high = quantiles(draws, 0.025)
        rarer = min((draws <= 0).sum(), (draws >= 0).sum())
        p = min(2 * (rarer + 1) / (len(draws) + 1), 1.0)
        rows.append({"a": a, "b": b, "difference": difference, "low": low, "high": high, "p": p})
    table = pd.DataFrame(rows)
    ascending = table["p"].sort_values(kind="stable")
    return table.assign(p_holm=(ascending * np.arange(len(table), 0, -1)).cummax().clip(upper=1))


def _score_fit(cells: pd.DataFrame) -> dict[str, float]:
    """Score what one fit predicted in one domain; the columns are those of `score_predictions`."""
    known = cells[cells["known"].astype(bool)]
    counts = {"n_train": int(cells["n_train"].iloc[0]), "n_test": len(known), "n_left_out": len(cells) - len(known)}
    scores, of_all = scores_of_cells(known), scores_of_cells(cells)
    shares = known["label"].value_counts(normalize=True)
    constant = {"chance": 1 / len(shares), "majority": shares.max()} if len(shares) else {}
    constant = constant or {"chance": np.nan, "majority": np.nan}
    every = {f"{name}_all": value for name, value in of_all.items()}
    return {**counts, "n_classes": len(shares), **scores, **every, **constant}


def scores_of_cells(cells: pd.DataFrame) -> dict[str, float]:
    """Score cells; those of a class that training lacks count as wrong."""
    if cells.empty:
        return dict.fromkeys((*METRICS, "ece"), np.nan)
    codes = _Codes.of(cells)
    one = np.ones((1, 1), np.float32)
    scores = {metric: float(_weighted_scores(codes, np.zeros(len(cells), int), one, metric)[0]) for metric in METRICS}
    return {**scores, "ece": _calibration_error(codes.hit, cells["confidence"].to_numpy(np.float64, na_value=np.nan))}


def _calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Return the mean gap between confidence and share of right answers over bins, weighted by the bins' cells."""
    given = ~np.isnan(confidence)
    right, confidence = right[given], confidence[given]
    if not len(right):
        return float("nan")
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(right))


def quantiles(draws: NDArray[np.float64], tail: float) -> tuple[float, float]:
    """Return the limits of the interval of the draws that are not NaN; NaN if there are none."""
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [tail, 1 - tail]) if len(draws) else (np.nan, np.nan)
    return float(low), float(high)


def _constant_answers(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions with the commonest known class of each fold, the best constant answer."""
    known = predictions[predictions["known"].astype(bool)]
    keys = [*_pair_keys(predictions), "fold"]
    answers = known.groupby(keys, sort=False, observed=True)["label"].transform(
        lambda labels: labels.value_counts().index[0]
    )
    return known.assign(predicted=answers)


def _check_same_cells(predictions: pd.DataFrame) -> None:
    """Raise unless all classifiers predicted the same cells; warn if no group has several cells."""
    series = _pair_keys(predictions)[:-2]
    cell = [*_SCORED[1:], "row", "group", "label"]
    once = predictions[[*series, *cell]].drop_duplicates()
    names = once[series].drop_duplicates().itertuples(index=False, name=None)
    lacking = once[once.groupby(cell, sort=False, observed=True)[series[-1]].transform("size") < len(list(names))]
    if len(lacking):
        row = lacking.iloc[0]
        found = f"row {row['row']} of {row['test_domain']!r} after {row['train_domain']!r}"
        name, fix = ", ".join(map(str, row[series])), "Fix: predict the same X, y, domain and groups with each."
        raise ValueError(f"Got {found} of {name}, but expected the same cells of each classifier. {fix}")
    sizes = predictions.groupby("test_domain", observed=True)[["group", "row"]].nunique()
    if (sizes["group"] == sizes["row"]).all():
        warn_caller(
            "Every group is one cell. If several cells come from one patient, p-values are too small and intervals "
            "too narrow. Fix: pass groups=... (patient or slide) to cross_domain_predictions."
        )


def bootstrap_scores(
    predictions: pd.DataFrame, metric: str, n_bootstrap: int, random_state: Any, by_pair: bool = False
) -> dict[Any, NDArray[np.float64]]:
    """Score the cells as they are, then each draw: (1 + n_bootstrap,). All classifiers are scored on the same draws.

    The keys are (features,) classifier, train_domain and test_domain. Without `by_pair` they are (features,) classifier
    alone, and the values are means over the pairs of different domains.
    """
    check_predictions(predictions)
    cells = predictions if by_pair else _across(predictions)
    cells = cells[cells["known"].astype(bool)]
    if cells.empty:
        raise ValueError(
            "Got no cell whose class was in training but expected some. Fix: give the same classes the same names in "
            "all laboratories."
        )
    rng = np.random.default_rng(seed_of(random_state))
    draws: dict[Any, tuple[pd.Index, NDArray[np.float32]]] = {}
    for domain, tested in cells.groupby("test_domain", sort=False, observed=True):
        groups = pd.Index(tested["group"].unique())
        n = len(groups)
        times_drawn = rng.multinomial(n, np.full(n, 1 / n), n_bootstrap)
        draws[domain] = groups, np.vstack([np.ones(n), times_drawn]).astype(np.float32)
    scores = {}
    for names, pair in cells.groupby(_pair_keys(predictions), sort=False, observed=True):
        groups, weights = draws[names[-1]]
        folds = [
            _weighted_scores(_Codes.of(fold), groups.get_indexer(pd.Index(fold["group"])), weights, metric)
            for _, fold in pair.groupby("fold", sort=False, observed=True)
        ]
        scores[tuple(names)] = _mean(np.array(folds), axis=0)
    if by_pair:
        return scores
    series = dict.fromkeys(names[:-2] for names in scores)
    return {one: np.mean([scores[names] for names in scores if names[:-2] == one], axis=0) for one in series}


class _Codes(NamedTuple):
    truth: NDArray[np.intp]
    predicted: NDArray[np.intp]  # -1 for a class that is not a true class, and for an abstention
    hit: NDArray[np.bool_]
    n_classes: int

    @classmethod
    def of(cls, cells: pd.DataFrame) -> "_Codes":
        """Return codes of the true classes, by value and not by type, since columns may be categories."""
        truth, classes = pd.factorize(np.asarray(cells["label"]).astype(object))
        predicted = pd.Index(classes, dtype=object).get_indexer(np.asarray(cells["predicted"]).astype(object))
        return cls(truth, predicted, (truth == predicted) & cells["known"].to_numpy(bool), len(classes))


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the mean of the values that are not NaN; NaN, without a warning, if there are none."""
    given = ~np.isnan(values)
    n = given.sum(axis)
    return np.where(n > 0, np.where(given, values, 0).sum(axis) / np.maximum(n, 1), np.nan)


def _weighted_scores(
    codes: _Codes, group: NDArray[np.intp], weights: NDArray[np.float32], metric: str
) -> NDArray[np.float64]:
    """Compute the metric of some cells, each in a group, under each row of weights (n_draws, n_groups)."""
    shape = (weights.shape[1], codes.n_classes)

    def count(rows: NDArray[np.bool_], by: NDArray[np.intp]) -> NDArray[np.float64]:
        """Count these cells by class under each row of weights, (n_draws, n_classes)."""
        counts = np.bincount(group[rows] * shape[1] + by[rows], minlength=shape[0] * shape[1])
        return (weights @ counts.reshape(shape).astype(np.float32)).astype(np.float64)

    hits, true = count(codes.hit, codes.truth), count(codes.truth >= 0, codes.truth)
    if metric == "accuracy":
        n = true.sum(1)
        return np.where(n > 0, hits.sum(1) / np.maximum(n, 1), np.nan)
    drawn = np.where(true > 0, 1.0, np.nan)  # classes that were not drawn do not count
    if metric == "balanced_accuracy":
        return _mean(drawn * hits / np.maximum(true, 1), axis=1)
    answered = count(codes.predicted >= 0, codes.predicted)
    return _mean(drawn * 2 * hits / np.maximum(true + answered, 1), axis=1)


def _across(table: pd.DataFrame) -> pd.DataFrame:
    across = table[~equal_values(table["train_domain"], table["test_domain"])]
    if across.empty:
        raise ValueError("Got scores of one domain but expected at least two. Fix: add another laboratory.")
    return across


def check_predictions(predictions: Any, *columns: str) -> None:
    """Raise unless this is a table of predictions with these columns (by default, with all columns of predictions)."""
    check_table(predictions, "predictions", columns or _PREDICTED, "cross_domain_predictions")
    if not columns:
        _check_once(predictions)


def _check_once(predictions: pd.DataFrame) -> None:
    """Raise if a classifier predicted a cell twice, for example if joined tables give two classifiers one name."""
    series = _pair_keys(predictions)[:-2]
    twice = predictions.duplicated([*series, *_SCORED[1:], "fold", "row"])
    if twice.any():
        name = ", ".join(map(str, predictions.loc[twice, series].iloc[0]))
        found = f"{name} twice for row {predictions.loc[twice, 'row'].iloc[0]} of one fold"
        raise ValueError(f"Got {found} but expected each cell once. Fix: name each classifier differently.")


def _pair_keys(table: pd.DataFrame) -> list[str]:
    """Return the columns that name a classifier and, last, those of the pair of domains."""
    return [name for name in ("features", *_SCORED) if name in table]
