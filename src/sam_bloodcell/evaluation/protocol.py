"""The evaluation protocol: train in some laboratories, predict in others, and return a row per predicted cell."""

import hashlib
import importlib.metadata
import inspect
import itertools
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, has_fit_parameter

from ..embedding.embeddings import without_domain
from ..exceptions import warn_caller
from ..extras import tqdm
from .checks import cell_columns, check_arguments, check_shared_class, domain_of, scorable_rows, seed_of
from .classifiers import check_early_stopping, named_estimators
from .scores import score_predictions


def cross_domain_predictions(
    estimators: Any, X: Any, y: Any, *, domain: Any = None, groups: Any = None, cv: Any = 5, mode: str = "inductive",
    random_state: Any = None, n_jobs: int | None = None, verbose: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Predict within and across domains, as in the BC-SAM (Li et al., ISBI 2024, section 3) and DoRL papers.

    Each domain in turn is the training domain and is cut into `cv` stratified, shuffled folds, which are the same for
    all estimators. A clone is fitted on the cells outside a fold. It then predicts the fold (``test_domain ==
    train_domain``) and every cell of each other domain, whose labels are never used in a fit.

    Parameters
    ----------
    estimators : estimator or dict of str to estimator
        Classifiers, or pipelines that end in one. They stay unfitted. A classifier that may abstain
        (`AbstainingClassifier`) abstains with an answer that is not the code of a class, such as -1.
    X : array-like, CellEmbeddings or list of paths, of length n_samples
        Cells, as anything that can be indexed by row and that the estimators accept.
    y : array-like of shape (n_samples,)
        Class of each cell, strings or ints. Each fit sees it encoded as 0..k-1, as XGBoost requires.
    domain : array-like of shape (n_samples,), optional
        Laboratory of each cell, strings or ints. By default, it is taken from X: ``X.domain`` of `CellEmbeddings`, or a
        table's column domain.
    groups : array-like of shape (n_samples,), optional
        Patient or slide of each cell. No fold splits a group. A warning names groups that occur in several domains.
    cv : int or splitter, default=5
        Number of folds, at least 2. Each domain needs at least this many groups. A class with fewer cells than `cv` in
        a domain is left out of that domain, in training and in scoring, with one warning for all such classes. Two
        classes must remain. Another warning names the classes that a fold's training lacks because few groups contain
        them. A scikit-learn splitter splits every domain separately, and a warning says whether it splits `groups`.
    mode : {"inductive", "transductive"}, default="inductive"
        Cells on which the pipeline steps that take ``domain`` (`CrossDomainAutoencoder`) are fitted. `mode` has no
        effect on estimators without such a step. "inductive" uses only the training cells, and such steps transform
        row by row. "transductive", as in the papers, fits such steps and all steps before them once on the images of
        all domains, without any label.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds. Estimators keep their own seeds.
    n_jobs : int or None, default=None
        Number of fits that joblib runs in parallel.
    verbose : int, default=0
        If above 0, show a progress bar over all fits.

    Returns
    -------
    pandas.DataFrame
        A row per classifier, train_domain, fold (from 0) and predicted cell: ``test_domain``, ``row`` of the cell in
        X, ``group`` (without `groups`, the row), ``label``, ``predicted``, ``confidence`` (highest ``predict_proba``;
        NaN if the classifier has none, gives NaN, or abstains), ``known`` (whether its class was in training) and
        ``n_train``. If a classifier abstains, ``predicted`` is not a class of `y`: for string classes it is the
        classifier's own answer if that is text, or "unknown"; for numbers, it is -1 or one less than the smallest.
        ``.attrs["provenance"]`` holds the settings, estimators, versions, and a digest of the labels and domains.

    Raises
    ------
    ValueError
        If lengths differ, a label, domain or group is missing, a domain has fewer groups than folds, a domain or a
        fold's training has fewer than two classes, a parameter is out of range, or an estimator answers with fractions,
        as a regressor does.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sam_bloodcell.evaluation import cross_domain_predictions
    >>> y, domain = np.tile(["x", "y"], 10), np.repeat(["a", "b"], 10)
    >>> found = cross_domain_predictions(LogisticRegression(), np.eye(20), y, domain=domain, random_state=0)
    >>> len(found), found["test_domain"].value_counts().to_dict()  # each cell once within, five times across
    (120, {'a': 60, 'b': 60})
    """
    options = {"mode": mode, "random_state": random_state, "n_jobs": n_jobs, "verbose": verbose}
    check_arguments("cross_domain_predictions", cv=cv, **options)
    data = _Data.checked(X, y, domain, groups, cv)
    seed = seed_of(random_state)
    settings = {"design": "pairs", "cv": str(cv), "mode": mode, "random_state": seed}
    return _run(estimators, data, list(data.folds(cv, seed)), settings, n_jobs, verbose)


def leave_one_domain_out_predictions(
    estimators: Any, X: Any, y: Any, *, domain: Any = None, groups: Any = None, min_cells: int = 5,
    mode: str = "inductive", random_state: Any = None, n_jobs: int | None = None, verbose: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Predict each of two or more domains with estimators that were fitted on all others together.

    Parameters
    ----------
    estimators : estimator or dict of str to estimator
        Classifiers, as in `cross_domain_predictions`.
    X : array-like, CellEmbeddings or list of paths, of length n_samples
        Cells, as in `cross_domain_predictions`.
    y : array-like of shape (n_samples,)
        Class of each cell, strings or ints.
    domain : array-like of shape (n_samples,), optional
        Laboratory of each cell, strings or ints. By default, it is taken from X.
    groups : array-like of shape (n_samples,), optional
        Patient or slide of each cell. A warning names groups that occur in several domains.
    min_cells : int, default=5
        A class with fewer cells in a domain is left out there, with one warning for all such classes.
    mode : {"inductive", "transductive"}, default="inductive"
        Cells on which the steps that take ``domain`` are fitted, as in `cross_domain_predictions`.
    random_state : int, RandomState instance or None, default=None
        Seed that is only recorded with the predictions, because nothing is drawn. Estimators keep their own seeds.
    n_jobs : int or None, default=None
        Number of fits that joblib runs in parallel.
    verbose : int, default=0
        If above 0, show a progress bar over all fits.

    Returns
    -------
    pandas.DataFrame
        A table as that of `cross_domain_predictions`. ``train_domain`` is "others" (or, if a domain has this name,
        "others (all but the tested)"), and ``fold`` is 0.

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
    options = {"mode": mode, "random_state": random_state, "n_jobs": n_jobs, "verbose": verbose}
    check_arguments("leave_one_domain_out_predictions", min_cells=min_cells, **options)
    data = _Data.checked(X, y, domain, groups, min_cells, "min_cells")
    if len(data.rows) < 2:
        raise ValueError("Got cells of one domain but expected at least two. Fix: add another laboratory.")
    check_shared_class(data.labels, data.rows)
    name = "others" if "others" not in data.rows else "others (all but the tested)"
    fits = [
        Fit(name, 0, np.concatenate([data.rows[other] for other in data.rows if other != tested]), {tested: rows})
        for tested, rows in data.rows.items()
    ]
    seed = None if random_state is None else seed_of(random_state)
    settings = {"design": "leave one domain out", "mode": mode, "random_state": seed}
    return _run(estimators, data, fits, settings, n_jobs, verbose)


def cross_domain_scores(estimators: Any, X: Any, y: Any, *, domain: Any = None, **options: Any) -> pd.DataFrame:
    """Score classifiers within and across domains: `score_predictions` of `cross_domain_predictions`.

    Parameters
    ----------
    estimators : estimator or dict of str to estimator
        Classifiers, as in `cross_domain_predictions`.
    X : array-like, CellEmbeddings or list of paths, of length n_samples
        Cells, as in `cross_domain_predictions`.
    y : array-like of shape (n_samples,)
        Class of each cell, strings or ints.
    domain : array-like of shape (n_samples,), optional
        Laboratory of each cell, strings or ints. By default, it is taken from X.
    **options : dict
        Further arguments of `cross_domain_predictions`: groups, cv, mode, random_state, n_jobs and verbose.

    Returns
    -------
    pandas.DataFrame
        The table of `score_predictions`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sam_bloodcell.evaluation import cross_domain_scores
    >>> y, domain = np.tile([0, 1], 10), np.repeat(["a", "b"], 10)
    >>> float(cross_domain_scores(LogisticRegression(), y[:, None], y, domain=domain)["accuracy"].min())
    1.0
    """
    return score_predictions(cross_domain_predictions(estimators, X, y, domain=domain, **options))


class Fit(NamedTuple):
    """One fit: the rows to train on, and those to predict in each domain."""

    train_domain: Any
    fold: int
    train: NDArray[np.intp]
    test: Mapping[Any, NDArray[np.intp]]


class _Data(NamedTuple):
    X: Any
    labels: NDArray
    domains: NDArray
    groups: NDArray | None
    rows: dict[Any, NDArray[np.intp]]  # those of each domain that are trained on and predicted

    @classmethod
    def checked(cls, X: Any, y: Any, domain: Any, groups: Any, least: Any, argument: str = "cv") -> "_Data":
        domain = domain_of(X, domain, "a table with the columns path and domain as X")
        labels, domains = cell_columns(_num_samples(X), y=y, domain=domain)
        if groups is not None:
            (groups,) = cell_columns(len(labels), groups=groups)
            n_domains = pd.Series(domains).groupby(groups).nunique()
            shared = n_domains.index[n_domains > 1].astype(str)
            if len(shared):
                found = f"{len(shared)} group(s) occur in several domains, such as {min(shared)}"
                fix = "Fix: give groups of different domains different names, or leave shared patients out."
                warn_caller(f"{found}: scores across them will be too high. {fix}")
        return cls(X, labels, domains, groups, scorable_rows(labels, domains, least, argument))

    def folds(self, cv: Any, seed: int) -> Iterator[Fit]:
        """Yield a fit for each fold of each domain; its rows depend only on the seed and the domain."""
        own = isinstance(cv, Integral)
        cut: set[str] = set()
        absent: dict[str, int] = {}
        for domain, members in self.rows.items():
            groups = None if self.groups is None else self.groups[members]
            if own and groups is not None and (n_groups := len(np.unique(groups))) < cv:
                found = f"{n_groups} group(s) in domain {domain!r}"
                raise ValueError(f"Got {found} but expected at least cv={cv}. Fix: lower cv, or leave the domain out.")
            kind = StratifiedKFold if groups is None else StratifiedGroupKFold
            splitter = kind(cv, shuffle=True, random_state=seed) if own else cv
            if getattr(splitter, "shuffle", False) and splitter.random_state is None:
                splitter = copy(splitter)
                splitter.random_state = seed  # the same folds for every feature set and in every run
            for fold, (train, held_out) in enumerate(splitter.split(members, self.labels[members], groups)):
                if groups is not None:
                    cut |= set(map(str, np.intersect1d(groups[train], groups[held_out])))
                for name in self._classes_without_training(domain, members, train):
                    absent[name] = absent.get(name, 0) + 1
                tested = {**self.rows, domain: members[held_out]}
                yield Fit(domain, fold, members[train], {name: rows for name, rows in tested.items() if len(rows)})
        if absent:
            found = ", ".join(f"{name} in {times} fold(s)" for name, times in absent.items())
            effect = "Cells of such a class are not scored in that fold."
            fix = "Fix: add groups with these classes, or raise cv."
            warn_caller(f"Left out classes that the training cells of a fold lack: {found}. {effect} {fix}")
        if cut:
            found = f"{len(cut)} group(s) are cut by a fold, such as {min(cut)}"
            fix = "Fix: pass cv as a number, or a splitter that keeps groups together."
            warn_caller(f"{found}: scores within a domain will be too high. {fix}")

    def _classes_without_training(self, domain: Any, members: NDArray, train: NDArray) -> list[str]:
        """Describe the domain's classes that these training cells lack; raise unless two classes are left."""
        labels = self.labels[members]
        lacking = np.setdiff1d(labels, labels[train]).tolist()
        if len(left := np.unique(labels[train]).tolist()) < 2:
            found = (
                f"a fold of domain {domain!r} whose training has {len(left)} class(es) ({', '.join(map(repr, left))})"
            )
            fix = "Fix: add groups or cells of the other classes, change cv, or leave the domain out."
            raise ValueError(f"Got {found} but expected at least 2. {fix}")
        if self.groups is None:
            return [f"{name!r} of domain {domain!r}" for name in lacking]
        counts = {name: len(np.unique(self.groups[members][labels == name])) for name in lacking}
        return [f"{name!r} of domain {domain!r} ({count} group(s))" for name, count in counts.items()]


def check_plan(named: Mapping[str, Any], labels: NDArray, domains: NDArray, groups: Any, cv: Any, seed: int) -> None:
    """Raise now if `cross_domain_predictions` of these cells cannot succeed, or cannot score a pair of domains.

    It warns now of classes that are left out. Warnings about groups follow later, with the predictions.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ group\(s\)", category=UserWarning)
        data = _Data.checked(labels, labels, domains, groups, cv)
        if len(data.rows) > 1:
            check_shared_class(labels, data.rows)
        for fit in data.folds(cv, seed):
            for name, estimator in named.items():
                check_early_stopping(name, estimator, labels[fit.train], f"a fold of domain {fit.train_domain!r}")


def _run(
    estimators: Any, data: _Data, fits: Sequence[Fit], settings: dict[str, Any], n_jobs: int | None, verbose: int
) -> pd.DataFrame:
    named = named_estimators(estimators)
    for name, estimator in named.items():
        _refuse_nested(name, estimator)
    prepared = {}
    for name, estimator in named.items():
        # The transductive mode fits the head once, on the images of all domains; the tail is fitted in each fold.
        head, tail = _head_and_tail(estimator) if settings["mode"] == "transductive" else ([], estimator)
        X = data.X
        for step in map(clone, head):
            fitted = call_with_domain(step.fit, X, data.domains)
            X = call_with_domain(fitted.transform, X, data.domains)
        prepared[name] = tail, X
    fit_and_predict = delayed(_fit_and_predict_quietly)
    fits = [fit for fit in fits if fit.test]
    tasks = [fit_and_predict(name, *prepared[name], data.labels, data.domains, fit) for name in named for fit in fits]
    results = Parallel(n_jobs=n_jobs, return_as="generator")(tasks)
    table = pd.concat(tqdm(results, total=len(tasks), desc="fits", disable=verbose <= 0), ignore_index=True)
    table.insert(5, "group", table["row"] if data.groups is None else data.groups[table["row"]])
    table.attrs["provenance"] = _provenance(named, data.labels, data.domains, settings)
    return table


def _provenance(named: dict[str, Any], labels: NDArray, domains: NDArray, settings: dict[str, Any]) -> dict[str, Any]:
    """Return plain values: settings, named estimators, a digest of the cells' labels and domains, versions."""
    cells = repr(list(zip(domains.tolist(), labels.tolist(), strict=True)))
    versions = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for package in ("sam-bloodcell", "torch", "scikit-learn", "numpy", "pandas", "xgboost"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    digest = hashlib.sha256(cells.encode()).hexdigest()
    texts = {name: " ".join(repr(estimator).split()) for name, estimator in named.items()}
    return {**settings, "n_cells": len(labels), "cells_sha256": digest, "estimators": texts, "versions": versions}


def _head_and_tail(estimator: Any) -> tuple[list[Any], Any]:
    """Split a pipeline after its last step that takes a domain; for other estimators, the head is empty."""
    steps = [step for _, step in estimator.steps[:-1]] if isinstance(estimator, Pipeline) else []
    aware = [at for at, step in enumerate(steps) if has_fit_parameter(step, "domain")]
    if not aware:
        return [], estimator
    head = [step for step in steps[: aware[-1] + 1] if step not in (None, "passthrough")]
    return head, Pipeline(estimator.steps[aware[-1] + 1 :])


def _refuse_nested(name: str, estimator: Any) -> None:
    """Raise if a step that takes a domain is nested in a search, a union or the like, where it would not get one."""
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else []
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        return  # clone raises for anything that is not an estimator
    for key, value in estimator.get_params(deep=True).items():
        part = next((part for part in _estimators_in(value) if has_fit_parameter(part, "domain")), None)
        if part is not None and not any(part is step for step in steps):
            raise ValueError(
                f"Got {key}={type(part).__name__} inside the estimator {name!r} but expected it as a step of the "
                "pipeline itself, because only such a step is fitted with the domains. Fix: make_pipeline("
                f"SAMLoRAEmbedder(), {type(part).__name__}(), GridSearchCV(classifier, ...))."
            )


def _estimators_in(value: Any) -> Iterator[Any]:
    """Yield a parameter's value, or the items of its lists and dicts, such as the grid of a search."""
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _estimators_in(part)
    else:
        yield value


def call_with_domain(method: Any, X: Any, domain: NDArray) -> Any:
    """Call a step's fit or transform, and pass the domains if it takes them."""
    takes_domain = "domain" in inspect.signature(method).parameters
    return method(X, domain=domain) if takes_domain else method(X)


def _fit_and_predict_quietly(*args: Any) -> pd.DataFrame:
    # These warnings are expected: in inductive mode, steps learn from few laboratories and the tested one is unknown.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The domain of .* is unknown|Got one domain")
        return _fit_and_predict(*args)


def _fit_and_predict(name: str, estimator: Any, X: Any, labels: NDArray, domains: NDArray, fit: Fit) -> pd.DataFrame:
    classes, encoded = np.unique(labels[fit.train], return_inverse=True)
    head, tail = _head_and_tail(clone(estimator))
    X = without_domain(X)
    features = _safe_indexing(X, fit.train)
    for step in head:
        features = call_with_domain(step.fit, features, domains[fit.train]).transform(features)
    tail.fit(features, encoded)
    parts = []
    for domain, rows in fit.test.items():
        cells = _safe_indexing(X, rows)
        for step in head:
            cells = step.transform(cells)
        answers = np.asarray(tail.predict(cells)).ravel().tolist()
        predicted, abstained = _decoded(answers, classes, labels, name)
        confidence = np.full(len(rows), np.nan)
        if hasattr(tail, "predict_proba"):
            highest = np.asarray(tail.predict_proba(cells), np.float64).max(1)
            confidence = np.where(abstained, np.nan, highest)
        keys = {"classifier": name, "train_domain": fit.train_domain, "test_domain": domain, "fold": fit.fold}
        found = {"row": rows, "label": labels[rows], "predicted": predicted, "confidence": confidence}
        training = {"known": np.isin(labels[rows], classes), "n_train": len(fit.train)}
        parts.append(pd.DataFrame({**keys, **found, **training}))
    return pd.concat(parts)


def _decoded(answers: list[Any], classes: NDArray, labels: NDArray, name: str) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return the class of each answer, and whether the classifier abstained, which is an answer without a class.

    Abstentions must not be used as an index, because -1 would be the last class.
    """
    # numpy turns codes into text if an abstention is text; an estimator that was fitted before answers with names.
    names = classes.tolist() if set(answers) <= set(classes.tolist()) else range(len(classes))
    codes_of = {str(name): code for code, name in enumerate(names)}
    codes = np.array(
        [answer if isinstance(answer, Real) else codes_of.get(answer, np.nan) for answer in answers], np.float64
    )
    abstained = ~((codes >= 0) & (codes < len(classes)))
    if (fractions := codes % 1 > 0).any():
        found = f"{codes[fractions][0]:.4g} as an answer of {name!r}"
        fix = "Fix: pass a classifier, because a regressor does not answer with classes."
        raise ValueError(f"Got {found} but expected a class or an abstention. {fix}")
    predicted = classes[np.where(abstained, 0, codes).astype(int)]
    if not abstained.any():
        return predicted, abstained
    if labels.dtype.kind in "biuf":
        return np.where(abstained, min(-1, int(np.floor(labels.min())) - 1), predicted), abstained
    texts = [answer if isinstance(answer, str) else "unknown" for answer in itertools.compress(answers, abstained)]
    taken = set(labels.tolist())
    predicted = predicted.astype(object)
    predicted[abstained] = [f"{text} (no class)" if text in taken else text for text in texts]
    return np.array(predicted.tolist()), abstained
