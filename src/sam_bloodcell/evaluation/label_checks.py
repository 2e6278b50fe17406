"""Labels that look wrong in a benchmark: single cells, and classes that two laboratories seem to mean differently.

The thresholds were chosen on real cells of which 5% had been given a wrong label at random
(`benchmarks/suspected_labels.py`). With them, the functions name few cells, and most of these have a wrong label.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .benchmark import BenchmarkResult
from .checks import class_names
from .headlines import select_series
from .verdict import headlined, recommended

# Several laboratories: share of the answers from other laboratories that must agree; precision of this answer and
# recall of the cell's label that classifiers from elsewhere must reach in the cell's laboratory to count.
_AGREEMENT, _PRECISION, _RECALL = 0.8, 0.7, 0.5
# One laboratory: precision of the answer in the held-out folds, and number of answers without probabilities.
_PRECISION_OF_ONE, _LEAST_ANSWERS = 0.8, 3
# Classes: share of a class that is called by another name, the same share in the other direction, and mean recall of
# the remaining classes, below which the classifiers do not transfer, so that their answers are not evidence about one
# class.
_MOST, _SOME, _CARRIED_OVER = 0.5, 0.3, 0.7


class _Answers(NamedTuple):
    """Answers as numbers: each is an index into ``classes``, or -1 if it is not a class."""

    row: NDArray[np.intp]
    label: NDArray[np.intp]
    predicted: NDArray[np.intp]
    confidence: NDArray[np.float64]
    train: NDArray[np.intp]  # indices into the domains
    test: NDArray[np.intp]
    known: NDArray[np.bool_]
    classes: NDArray
    domains: NDArray

    @classmethod
    def of(cls, predictions: pd.DataFrame, classes: NDArray, domains: NDArray) -> "_Answers":
        codes = [
            pd.Index(values, dtype=object).get_indexer(np.asarray(predictions[name]).astype(object))
            for name, values in (
                ("label", classes), ("predicted", classes), ("train_domain", domains), ("test_domain", domains)
            )
        ]  # fmt: skip
        confidence = predictions["confidence"].to_numpy(np.float64, na_value=np.nan)
        row, known = predictions["row"].to_numpy(np.intp), predictions["known"].to_numpy(bool)
        return cls(row, codes[0], codes[1], confidence, codes[2], codes[3], known, classes, domains)

    def select(self, chosen: NDArray[np.bool_]) -> "_Answers":
        return self._replace(**{name: getattr(self, name)[chosen] for name in self._fields[:-2]})

    def shares(self, by: NDArray[np.intp], size: int) -> NDArray[np.float64]:
        """Return the share of each class among the answers about each unit, (size, n_classes); 0 without answers."""
        n, given = len(self.classes), self.predicted >= 0
        counts = np.bincount(by[given] * n + self.predicted[given], minlength=size * n).reshape(size, n)
        return counts / np.maximum(np.bincount(by, minlength=size), 1)[:, None]


def suspected_labels(result: BenchmarkResult) -> pd.DataFrame:
    """Return the cells whose label looks wrong.

    The recommended classifier, trained in the cell's own laboratory without the cell, predicts another class, and all
    other classifiers on the same features agree. With several laboratories, at least 80% of the answers of classifiers
    that were trained in other laboratories with cells of this label must also agree. These answers count only if they
    are reliable in the cell's laboratory: 70% of the cells that the recommended classifier calls this class have the
    label, and it finds half of the cells that share the suspected cell's label. With one laboratory, 80% of the cells
    that the recommended classifier calls this class must have the label, and its confidence must be at least its mean
    confidence in correct answers of the class. Without probabilities, at least three classifiers must agree.

    On real cells of which 5% had been given a wrong label, 50 to 90% of the cells named had a wrong label, and 12 to
    63% of the wrong labels were found, more of them if the classifiers transfer well (:doc:`/howto/report`). If fewer
    labels are wrong, a smaller share of the cells named is wrong. Look at every cell before you change its label.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    pandas.DataFrame
        One row for each cell, with the most suspicious cells first: ``row``, ``path`` (if cells have paths),
        ``domain``, ``label`` and ``predicted``, the other class. ``confidence`` is the recommended classifier's mean
        for this answer (NaN without probabilities), and ``agreement`` the share of this answer among all classifiers'
        answers about the cell.
    """
    best = recommended(result)
    columns = ["row", "domain", "label", "predicted", "confidence", "agreement"]
    if best is None:
        return _with_paths(pd.DataFrame(columns=columns), result)
    table = result.predictions
    every = _answers(result, table[(table["features"] == best[0]) & table["known"].astype(bool)])
    found = select_series(table, *best)
    one = _answers(result, found[found["known"].astype(bool)])
    n_cells = int(table["row"].max()) + 1
    own = one.select((one.train == one.test) & (one.predicted >= 0) & (one.predicted != one.label))
    if not len(own.row):
        return _with_paths(pd.DataFrame(columns=columns), result)
    at_home = every.train == every.test
    at_home_share = every.select(at_home).shares(every.row[at_home], n_cells)[own.row, own.predicted]
    suspicious = at_home_share == 1
    if (one.train != one.test).any():
        suspicious &= _others_agree(own, one, every, n_cells)
    else:
        n_answers = np.bincount(every.row, minlength=n_cells)[own.row]
        suspicious &= _folds_are_sure(own, one, n_answers)
    own = own.select(suspicious)
    agreement = every.shares(every.row, n_cells)[own.row, own.predicted]
    cells = pd.DataFrame({
        "row": own.row, "domain": own.domains[own.test], "label": own.classes[own.label],
        "predicted": own.classes[own.predicted], "confidence": _mean_confidence(own, one, n_cells),
        "agreement": agreement,
    })  # fmt: skip
    cells = cells.sort_values(["agreement", "confidence"], ascending=False, kind="stable", ignore_index=True)
    return _with_paths(cells.drop_duplicates("row", ignore_index=True), result)


def mistakes(result: BenchmarkResult) -> pd.DataFrame:
    """Return the recommended classifier's wrong answers across laboratories, or within the one laboratory.

    The answer about a cell after training in one laboratory is the answer of most folds (after a tie, the more
    confident one). A cell that is wrong after training in several laboratories is listed once, with the most confident
    answer. Cells whose class was not in the training, and abstentions, do not count as mistakes.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    pandas.DataFrame
        A row per cell, most confident first: ``row``, ``path`` (if cells have paths), ``train_domain``,
        ``test_domain``, ``label``, ``predicted`` and ``confidence``, the mean over the folds that gave the answer.
        Without probabilities, the confidence is NaN, and cells that most folds get wrong come first.
    """
    columns = ["row", "train_domain", "test_domain", "label", "predicted", "confidence"]
    best = recommended(result)
    if best is None:
        return _with_paths(pd.DataFrame(columns=columns), result)
    keys = columns[:4]
    answers = headlined(select_series(result.predictions, *best)).groupby([*keys, "predicted"], sort=False)
    table = answers["confidence"].agg(confidence="mean", folds="size").reset_index()
    table["share"] = table["folds"] / table.groupby(keys, sort=False)["folds"].transform("sum")
    table = table.sort_values(["share", "confidence"], ascending=False, kind="stable").drop_duplicates(keys)
    label, predicted = (np.asarray(table[name]).astype(object) for name in ("label", "predicted"))
    table = table[(label != predicted) & pd.Index(predicted, dtype=object).isin(result.predictions["label"].unique())]
    table = table.sort_values(["confidence", "share", "row"], ascending=[False, False, True], kind="stable")
    return _with_paths(table.drop_duplicates("row")[columns].reset_index(drop=True), result)


def clashing_labels(result: BenchmarkResult) -> pd.DataFrame:
    """Return the classes that two laboratories seem to mean differently, and those that only one laboratory has.

    The function judges by the answers of the recommended classifier. There are three cases:

    - Two names are exchanged if, after training in the other laboratory, most cells of one class are called by the
      other name, and more cells of the other class are called by the first name than by their own.
    - Two laboratories separate two classes differently if most cells of one class are called by the second class's name
      after training in the other laboratory, at least 30% of the second class's cells there are called by the first
      name in the other direction, and the remaining classes have a mean recall of 0.7 or more. With a lower recall,
      training in the other laboratory does not transfer at all, which says nothing about one class.
    - One class has two names if most cells of a class that only one laboratory has are called by the name of a class
      that only the other has, and the same holds in the other direction.

    In the first two cases, the laboratory's own classifiers must find at least half of the cells of the class.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.

    Returns
    -------
    pandas.DataFrame
        A row per finding: ``label``, ``domain``, ``other_domain`` ("" if no other laboratory has the class) and
        ``finding``, which says what was found and what to check. The table is empty with one laboratory.
    """
    best, rows = recommended(result), []
    if best is not None and len(np.unique(np.asarray(result.cells.domain))) > 1:
        found = select_series(result.predictions, *best)
        rows = [*_clashes(_answers(result, found)), *_lonely_classes(result)]
    return pd.DataFrame(rows, columns=["label", "domain", "other_domain", "finding"])


def _answers(result: BenchmarkResult, predictions: pd.DataFrame) -> _Answers:
    table = result.predictions
    domains = pd.unique(pd.concat([table["train_domain"], table["test_domain"]], ignore_index=True))
    return _Answers.of(predictions, np.asarray(table["label"].unique(), object), np.asarray(domains, object))


def _with_paths(table: pd.DataFrame, result: BenchmarkResult) -> pd.DataFrame:
    """Insert the cells' paths, if they have paths, after their rows."""
    paths = result.cells.get("paths")
    if paths is not None:
        paths = list(paths)
        table.insert(1, "path", [str(paths[row]) for row in table["row"]])
    return table


def _others_agree(own: _Answers, one: _Answers, every: _Answers, n_cells: int) -> NDArray[np.bool_]:
    """Tell whether reliable other laboratories also doubt the labels that the cells' own laboratory doubts."""
    abroad, elsewhere = one.select(one.train != one.test), every.select(every.train != every.test)
    agreement = elsewhere.shares(elsewhere.row, n_cells)[own.row, own.predicted]
    right, n = abroad.predicted == abroad.label, len(one.classes)
    size = len(one.domains) * n
    called, labelled = abroad.test * n + abroad.predicted, abroad.test * n + abroad.label
    given = abroad.predicted >= 0
    precision = _rates(called[given], right[given], size)[own.test * n + own.predicted]
    recall = _rates(labelled, right, size)[own.test * n + own.label]
    return (agreement >= _AGREEMENT - 1e-9) & (precision >= _PRECISION) & (recall >= _RECALL)


def _folds_are_sure(own: _Answers, one: _Answers, n_answers: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell whether the folds of the one laboratory doubt a label beyond their usual error."""
    right, given = one.predicted == one.label, one.predicted >= 0
    precision = _rates(one.predicted[given], right[given], len(one.classes))[own.predicted]
    means = pd.Series(one.confidence[right]).groupby(one.predicted[right]).mean()
    usual = means.reindex(own.predicted).to_numpy(np.float64)
    sure = np.where(np.isnan(own.confidence), n_answers >= _LEAST_ANSWERS, own.confidence >= usual)
    return (precision >= _PRECISION_OF_ONE) & sure


def _rates(by: NDArray[np.intp], right: NDArray[np.bool_], size: int) -> NDArray[np.floating]:
    """Return the share of right answers of each unit; 0 if it has none."""
    return np.bincount(by, right, size) / np.maximum(np.bincount(by, minlength=size), 1)


def _mean_confidence(own: _Answers, one: _Answers, n_cells: int) -> NDArray[np.floating]:
    """Return the classifier's mean confidence over all its answers about a cell that are the suspected class."""
    suspected = np.full(n_cells, -2)
    suspected[own.row] = own.predicted
    agreeing = one.select(suspected[one.row] == one.predicted)
    means = pd.Series(agreeing.confidence).groupby(agreeing.row).mean()
    return means.reindex(own.row).to_numpy(np.float64)


def _clashes(answers: _Answers) -> list[tuple[Any, Any, Any, str]]:
    """Return the classes that two laboratories seem to mean differently, the clearest first."""
    n, m = len(answers.classes), len(answers.domains)
    unit = (answers.train * m + answers.test) * n + answers.label
    shares = answers.shares(unit, m * m * n).reshape(m, m, n, n)  # train, test, label, answer
    has = np.bincount(answers.test * n + answers.label, minlength=m * n).reshape(m, n) > 0
    found: dict[Any, tuple[float, tuple[Any, Any, Any, str]]] = {}
    for train, test, a, b in np.argwhere(shares >= _MOST).tolist():
        if train == test or a == b:
            continue
        finding = _finding(answers, shares, has, train, test, a, b)
        key = (frozenset((train, test)), frozenset((a, b)))
        share = float(shares[train, test, a, b])
        if finding and (key not in found or share > found[key][0]):
            found[key] = share, (answers.classes[a], answers.domains[test], answers.domains[train], finding)
    return [row for _, row in sorted(found.values(), key=lambda item: -item[0])]


def _finding(
    answers: _Answers, shares: NDArray, has: NDArray, train: int, test: int, a: int, b: int
) -> str | None:  # fmt: skip
    """Say what it means if most cells of class a are called b after training elsewhere; None if it may be chance."""
    label, other = answers.classes[a], answers.classes[b]
    here, there = answers.domains[test], answers.domains[train]
    back = shares[test, train, b, a]
    most = f"Most {label!r} cells of {here} are called {other!r} by classifiers trained in {there}"
    if not has[train, a] and not has[test, b]:
        both_ways = f"and most {other!r} cells of {there} are called {label!r} in the other direction"
        same = f"{most}, {both_ways}. If both names mean the same class, give them one name."
        return same if back >= _MOST else None
    if not has[train, a] or shares[test, test, a, a] < _MOST or back < _SOME:
        return None
    if has[test, b] and shares[train, test, b, a] > shares[train, test, b, b]:
        return f"{most}, and vice versa. Check whether the two names are exchanged in one of the laboratories."
    rest = [c for c in range(len(answers.classes)) if c not in (a, b) and has[train, c] and has[test, c]]
    if not rest or np.mean([shares[train, test, c, c] for c in rest]) < _CARRIED_OVER:
        return None
    return f"{most}, though other classes transfer well. Check whether both laboratories use the same definition."


def _lonely_classes(result: BenchmarkResult) -> list[tuple[Any, Any, Any, str]]:
    """Return the classes that only one laboratory has."""
    cells = result.cells
    labels = class_names(cells.target, cells.target_names, "target")
    counts = pd.crosstab(labels, np.asarray(cells.domain))
    return [
        (
            label, row.idxmax(), "",
            f"Only {row.idxmax()} has cells of class {label!r} ({row.max()}), so no other laboratory can be tested on "
            "it. Check whether others have it under another name.",
        )
        for label, row in counts[(counts > 0).sum(axis=1) == 1].iterrows()
    ]  # fmt: skip
