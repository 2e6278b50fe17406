"""Train in some laboratories, predict in others: rows, folds, fits, and a row for each predicted cell."""

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples
from tqdm.auto import tqdm

from .checks import check_arguments, check_lengths, label_column, seed_of
from .classifiers import named_estimators
from .provenance import provenance
from .scores import score_predictions

# What stands in train_domain where all laboratories but the tested one trained.
OTHERS = "others"


def cross_domain_predictions(
    estimators: Any,
    X: Any,
    y: Any,
    *,
    domain: Any,
    groups: Any = None,
    cv: Any = 5,
    mode: str = "inductive",
    random_state: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Predict within and across domains, as in the BC-SAM and DoRL papers.

    Each domain in turn is the training domain and is cut into `cv` stratified, shuffled folds. A clone is
    fitted on the cells outside a fold, then predicts the fold (``test_domain == train_domain``) and every
    cell of each other domain, whose labels no fit ever sees. All estimators get the same folds.

    Parameters
    ----------
    estimators : estimator or dict of str to estimator
        Classifiers, or pipelines that end in one. They are cloned, never fitted themselves.
    X : array-like, CellEmbeddings or list of paths, of length n_samples
        Anything that can be indexed by row and that the estimators accept.
    y : array-like of shape (n_samples,)
        Class of each cell, strings or ints. Each fit sees it encoded as 0..k-1, as XGBoost demands.
    domain : array-like of shape (n_samples,)
        Laboratory of each cell, strings or ints.
    groups : array-like of shape (n_samples,), optional
        Patient or slide of each cell: no group is ever cut by a fold. One that occurs in several domains is warned of.
    cv : int or splitter, default=5
        Number of folds. A class with fewer cells than this in a domain is left out of that domain, in
        training and in scoring, with one warning for all of them. A scikit-learn splitter is asked in every domain;
        if it cuts `groups`, that is warned of.
    mode : {"inductive", "transductive"}, default="inductive"
        What pipelines with steps that take ``domain`` (`CrossDomainAutoencoder`) may see. Inductive: such steps are
        fitted on the training cells alone, and transform row by row. Transductive, as in the papers: they and all
        steps before them are fitted once on the images of all domains, without any label. Other estimators are the
        same in both.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds. Estimators keep their own.
    n_jobs : int or None, default=None
        Fits run at once, by joblib.
    verbose : int, default=0
        Above 0, a progress bar over all fits.

    Returns
    -------
    pandas.DataFrame
        A row per classifier, train_domain, fold (from 0) and predicted cell: ``test_domain``, ``row`` of the cell in
        X, ``group`` (the cell itself without `groups`), ``label``, ``predicted``, ``confidence`` (highest
        ``predict_proba``; NaN without), ``known`` (whether its class was in training), ``n_train``.
        ``.attrs["provenance"]`` says what it was made with.

    Raises
    ------
    ValueError
        If lengths differ, a label, domain or group is missing, `cv` is below 2, a domain has fewer groups than folds
        or is left with fewer than two classes, or `mode` is unknown.

    References
    ----------
    Li et al., "Towards Cross-Domain Single Blood Cell Image Classification via Large-Scale LoRA-based Segment
    Anything Model", ISBI 2024, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sam_bloodcell.evaluation import cross_domain_predictions
    >>> y, domain = np.tile(["x", "y"], 10), np.repeat(["a", "b"], 10)
    >>> found = cross_domain_predictions(LogisticRegression(), np.eye(20), y, domain=domain, random_state=0)
    >>> len(found), found["test_domain"].value_counts().to_dict()  # each cell once at home, five times abroad
    (120, {'a': 60, 'b': 60})
    """
    check_arguments(
        "cross_domain_predictions", cv=cv, mode=mode, random_state=random_state, n_jobs=n_jobs, verbose=verbose
    )
    data = _Data.checked(X, y, domain, groups, int(cv) if isinstance(cv, int | np.integer) else None)
    seed = seed_of(random_state)
    named = named_estimators(estimators)
    plan = list(data.folds(cv, seed))
    fits = [
        Fit(name, lab, fold, train, {other: held_out if other == lab else rows for other, rows in data.rows.items()})
        for name in named
        for lab, fold, train, held_out in plan
    ]
    settings = {"design": "pairs", "cv": str(cv), "mode": mode, "random_state": seed}
    return _run(named, data, fits, mode, settings, n_jobs, verbose)


def leave_one_domain_out_predictions(
    estimators: Any,
    X: Any,
    y: Any,
    *,
    domain: Any,
    groups: Any = None,
    min_cells: int = 5,
    mode: str = "inductive",
    random_state: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Predict each domain by estimators that were fitted on all others together.

    Parameters
    ----------
    estimators, X, y, domain, groups, mode, random_state, n_jobs, verbose
        As in `cross_domain_predictions`.
    min_cells : int, default=5
        A class with fewer cells in a domain is left out there, with one warning for all of them.

    Returns
    -------
    pandas.DataFrame
        As `cross_domain_predictions`; ``train_domain`` is "others" and ``fold`` 0.

    Raises
    ------
    ValueError
        As `cross_domain_predictions`; or if there is one domain only.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sam_bloodcell.evaluation import leave_one_domain_out_predictions
    >>> y, domain = np.tile([0, 1], 15), np.repeat(["a", "b", "c"], 10)
    >>> found = leave_one_domain_out_predictions(LogisticRegression(), y[:, None], y, domain=domain)
    >>> len(found), found["n_train"].unique().tolist()
    (30, [20])
    """
    check_arguments(
        "leave_one_domain_out_predictions", min_cells=min_cells, mode=mode, random_state=random_state, n_jobs=n_jobs,
        verbose=verbose,
    )  # fmt: skip
    data = _Data.checked(X, y, domain, groups, min_cells)
    if len(data.rows) < 2:
        raise ValueError("Got cells of one domain but expected at least two; add another laboratory.")
    named = named_estimators(estimators)
    fits = [
        Fit(name, OTHERS, 0, np.concatenate([data.rows[other] for other in data.rows if other != lab]), {lab: rows})
        for name in named
        for lab, rows in data.rows.items()
    ]
    settings = {"design": "leave one domain out", "mode": mode, "random_state": seed_of(random_state)}
    return _run(named, data, fits, mode, settings, n_jobs, verbose)


def cross_domain_scores(estimators: Any, X: Any, y: Any, *, domain: Any, **options: Any) -> pd.DataFrame:
    """Score classifiers within and across domains: `score_predictions` of `cross_domain_predictions`.

    Parameters
    ----------
    estimators, X, y, domain
        As in `cross_domain_predictions`.
    **options
        Its other parameters: groups, cv, mode, random_state, n_jobs, verbose.

    Returns
    -------
    pandas.DataFrame
        As `score_predictions`.

    Raises
    ------
    ValueError
        As `cross_domain_predictions`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sam_bloodcell.evaluation import cross_domain_scores
    >>> y, domain = np.tile([0, 1], 10), np.repeat(["a", "b"], 10)
    >>> scores = cross_domain_scores(LogisticRegression(), y[:, None], y, domain=domain, random_state=0)
    >>> float(scores["accuracy"].min()), len(scores)
    (1.0, 20)
    """
    return score_predictions(cross_domain_predictions(estimators, X, y, domain=domain, **options))


class Fit(NamedTuple):
    """One fit: these rows train, those of each domain are predicted."""

    classifier: str
    train_domain: Any
    fold: int
    train: np.ndarray
    test: Mapping[Any, np.ndarray]


class _Data(NamedTuple):
    X: Any
    labels: np.ndarray
    labs: np.ndarray
    groups: np.ndarray | None
    rows: dict[Any, np.ndarray]

    @classmethod
    def checked(cls, X: Any, y: Any, domain: Any, groups: Any, min_cells: int | None) -> "_Data":
        labels, labs = label_column(y, "y"), label_column(domain, "domain")
        named = None if groups is None else label_column(groups, "groups")
        columns = {"y": labels, "domain": labs} | ({} if named is None else {"groups": named})
        check_lengths(_num_samples(X), **columns)
        if min_cells is not None and min_cells < 2:
            raise ValueError(f"Got cv={min_cells} but expected at least 2 folds; pass cv=2 or more.")
        if named is not None:
            _warn_of_shared_groups(named, labs)
        return cls(X, labels, labs, named, scorable_rows(labels, labs, min_cells or 2))

    def folds(self, cv: Any, seed: int) -> Iterator[tuple[Any, int, np.ndarray, np.ndarray]]:
        """Yield domain, fold, training and held-out rows; they depend on seed and domain alone."""
        own = isinstance(cv, int | np.integer)
        cut: set[str] = set()
        for lab, members in self.rows.items():
            groups = None if self.groups is None else self.groups[members]
            if own and groups is not None and len(np.unique(groups)) < cv:
                raise ValueError(
                    f"Got {len(np.unique(groups))} group(s) in domain {lab!r} but expected at least cv={cv}; lower cv."
                )
            kind = StratifiedKFold if groups is None else StratifiedGroupKFold
            splitter = kind(cv, shuffle=True, random_state=seed) if own else cv
            for fold, (train, held_out) in enumerate(splitter.split(members, self.labels[members], groups)):
                if groups is not None:
                    cut |= set(map(str, np.intersect1d(groups[train], groups[held_out])))
                yield lab, fold, members[train], members[held_out]
        if cut:
            warnings.warn(
                f"{len(cut)} group(s) are cut by a fold, such as {min(cut)}: scores at home will be too good. Fix: "
                "pass cv as a number, or a splitter that keeps groups together.",
                stacklevel=4,
            )


def scorable_rows(labels: np.ndarray, labs: np.ndarray, least: int) -> dict[Any, np.ndarray]:
    """Rows of each domain whose class has at least `least` cells there; warns once of the others."""
    rows: dict[Any, np.ndarray] = {}
    rare: list[str] = []
    for lab in np.unique(labs).tolist():
        members = np.flatnonzero(labs == lab)
        classes, counts = np.unique(labels[members], return_counts=True)
        kept = classes[counts >= least]
        rare += [
            f"{name!r} of domain {lab!r} ({count} cell{'s' if count > 1 else ''})"
            for name, count in zip(classes.tolist(), counts.tolist(), strict=True)
            if count < least
        ]
        if len(kept) < 2:
            raise ValueError(
                f"Got {len(kept)} class(es) of at least cv={least} cells in domain {lab!r} but expected two "
                "or more; add cells, lower cv, or leave this domain out."
            )
        rows[lab] = members[np.isin(labels[members], kept)]
    if rare:
        message = f"Left out classes with fewer than cv={least} cells in a domain: {', '.join(rare)}."
        warnings.warn(message, stacklevel=_outside())
    return rows


def _outside() -> int:
    """Return the stack level of the caller outside this package."""
    own = __name__.rpartition(".")[0]
    depth = 2
    for depth, frame in enumerate(inspect.stack()[1:], start=1):  # noqa: B007
        if not frame.frame.f_globals.get("__name__", "").startswith(own):
            break
    return depth


def _warn_of_shared_groups(groups: np.ndarray, labs: np.ndarray) -> None:
    owners = pd.DataFrame({"group": groups, "lab": labs}).drop_duplicates()["group"].value_counts()
    shared = owners[owners > 1].index.astype(str)
    if len(shared):
        warnings.warn(
            f"{len(shared)} group(s) occur in several domains, such as {min(shared)}: scores across them will be too "
            "good. Fix: give groups of different domains different names, or leave shared patients out.",
            stacklevel=4,
        )


def _run(
    named: Mapping[str, Any], data: _Data, fits: Iterable[Fit], mode: str, settings: dict, n_jobs: Any, verbose: int
) -> pd.DataFrame:
    fits = list(fits)
    ready = {name: (estimator, data.X) for name, estimator in named.items()}
    if mode == "transductive":
        ready = {name: _see_all(estimator, data) for name, estimator in named.items()}
    results = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_fit_and_predict)(*ready[fit.classifier], data.labels, data.labs, fit) for fit in fits
    )
    parts = list(tqdm(results, total=len(fits), desc="fits", disable=verbose <= 0))
    table = pd.concat(parts, ignore_index=True)
    table.insert(5, "group", table["row"] if data.groups is None else data.groups[table["row"]])
    table.attrs["provenance"] = provenance(named, data.labels, data.labs, settings)
    return table


def _head_and_tail(estimator: Any) -> tuple[list[Any], Any]:
    """Split a pipeline behind its last step that takes a domain; all else is tail."""
    if not isinstance(estimator, Pipeline):
        return [], estimator
    steps = [step for _, step in estimator.steps]
    aware = [at for at, step in enumerate(steps[:-1]) if _takes_domain(getattr(step, "fit", None))]
    if not aware:
        return [], estimator
    head = [step for step in steps[: aware[-1] + 1] if step not in (None, "passthrough")]
    return head, Pipeline(estimator.steps[aware[-1] + 1 :])


def _takes_domain(method: Any) -> bool:
    return callable(method) and "domain" in inspect.signature(method).parameters


def _told(method: Any, X: Any, domain: Any) -> Any:
    return method(X, domain=domain) if domain is not None and _takes_domain(method) else method(X)


def _see_all(estimator: Any, data: _Data) -> tuple[Any, Any]:
    """Fit the head on the images of all domains; return the tail and what it sees."""
    head, tail = _head_and_tail(estimator)
    X = data.X
    for step in map(clone, head):
        X = _told(_told(step.fit, X, data.labs).transform, X, data.labs)
    return tail, X


def _confidence(classifier: Any, X: Any) -> np.ndarray:
    if not hasattr(classifier, "predict_proba"):
        return np.full(_num_samples(X), np.nan)
    return np.asarray(classifier.predict_proba(X), np.float64).max(1)


def _fit_and_predict(estimator: Any, X: Any, labels: np.ndarray, labs: np.ndarray, task: Fit) -> pd.DataFrame:
    """Fit on the training rows, then predict those of each domain."""
    classes, encoded = np.unique(labels[task.train], return_inverse=True)
    head, tail = _head_and_tail(estimator)
    head, tail = [clone(step) for step in head], clone(tail)
    features = _safe_indexing(X, task.train)
    for step in head:  # fitted with domains, yet row by row, as a new laboratory's cells will be
        features = _told(step.fit, features, labs[task.train]).transform(features)
    tail.fit(features, encoded)
    parts = []
    for lab, rows in task.test.items():
        cells = _safe_indexing(X, rows)
        for step in head:
            cells = step.transform(cells)
        parts.append(
            pd.DataFrame(
                {
                    "classifier": task.classifier,
                    "train_domain": task.train_domain,
                    "test_domain": lab,
                    "fold": task.fold,
                    "row": rows,
                    "label": labels[rows],
                    "predicted": classes[np.asarray(tail.predict(cells)).astype(int)],
                    "confidence": _confidence(tail, cells),
                    "known": np.isin(labels[rows], classes),
                    "n_train": len(task.train),
                }
            )
        )
    return pd.concat(parts)
