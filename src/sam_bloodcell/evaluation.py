"""The cross-domain protocol: train in one laboratory, test in it and in every other one."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import _num_samples
from tqdm.auto import tqdm

from ._classifiers import default_classifiers, named_estimators
from ._protocol import METRICS, check_lengths, fit_and_score, label_column, plan_fits, scorable_rows

__all__ = [
    "METRICS",
    "BenchmarkResult",
    "cross_domain_mean",
    "cross_domain_scores",
    "default_classifiers",
    "domain_shift",
    "run_benchmark",
    "summarise_scores",
]

_MAX_SHOWN = 36
_MAX_COMPARED = 1000  # cells a laboratory in `domain_shift`, whose kernels grow with the square


def cross_domain_scores(
    estimators: Any,
    X: Any,
    y: Any,
    *,
    domain: Any,
    cv: int = 5,
    random_state: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Score classifiers within and across domains, as in the BC-SAM and DoRL papers.

    Each domain in turn is the training domain and is cut into `cv` stratified, shuffled folds. A clone is
    fitted on the cells outside a fold, then scored on the fold (``test_domain == train_domain``) and on every
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
    cv : int, default=5
        Number of folds. A class with fewer cells than this in a domain is left out of that domain, in
        training and in scoring, with one warning for all of them.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds. Estimators keep their own.
    n_jobs : int or None, default=None
        Fits run at once, by joblib.
    verbose : int, default=0
        Above 0, a progress bar over all fits.

    Returns
    -------
    pandas.DataFrame
        A row per classifier, train_domain, fold (from 0) and test_domain, with the cells ``n_train`` and
        ``n_test``, ``n_left_out`` (cells of the test domain whose class was not in training, hence not
        scored), ``n_classes`` present among the scored cells, ``accuracy``, ``balanced_accuracy`` (mean
        recall over those classes) and ``macro_f1`` (over the same classes). A pair of domains without a
        common class scores NaN.

    Raises
    ------
    ValueError
        If lengths differ, `y` or `domain` has a missing value, `cv` is below 2, or a domain is left with
        fewer than two classes.

    References
    ----------
    Li et al., "Towards Cross-Domain Single Blood Cell Image Classification via Large-Scale LoRA-based Segment
    Anything Model", ISBI 2024, section 3; balanced accuracy and macro-F1 are added here.

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
    named = named_estimators(estimators)
    labels, labs = label_column(y, "y"), label_column(domain, "domain")
    check_lengths(_num_samples(X), len(labels), len(labs))
    if cv < 2:
        raise ValueError(f"Got cv={cv} but expected at least 2 folds; pass cv=2 or more.")

    rows = scorable_rows(labels, labs, cv)
    fits = list(plan_fits(named, rows, labels, cv, _seed(random_state)))
    results = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(fit_and_score)(clone(named[fit.classifier]), X, labels, rows, fit) for fit in fits
    )
    bar = tqdm(results, total=len(fits), desc="fits", disable=verbose <= 0)
    return pd.DataFrame([row for result in bar for row in result])


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
    if metric not in METRICS:
        raise ValueError(f"Got metric={metric!r} but expected one of {', '.join(METRICS)}.")
    across = scores[scores["train_domain"] != scores["test_domain"]]
    if across.empty:
        raise ValueError("Got scores of one domain but expected at least two; add another laboratory.")
    keys = _series_keys(scores)
    pairs = across.groupby([*keys, "train_domain", "test_domain"], sort=False)[metric].mean()
    return pairs.groupby(level=keys, sort=False).mean()


def domain_shift(features: Any, domain: Any, *, random_state: Any = None) -> dict[str, float]:
    """How far laboratories lie apart in a feature space.

    Laboratories whose mixtures of cell types differ are told apart in part by that, whatever the features.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Standardised here; at most 1,000 cells of each domain are looked at, drawn at random.
    domain : array-like of shape (n_samples,)
        At least two domains, of at least 5 cells each.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    dict of str to float
        ``"mmd"``: squared maximum mean discrepancy (`sam_bloodcell.models.alignment.mmd`), 0 for equal distributions;
        ``"domain_accuracy"``: balanced accuracy of a logistic regression that guesses the domain, 5-fold;
        ``"chance"``: that of a constant answer.

    Raises
    ------
    ValueError
        If there are fewer than two domains, or fewer than 5 cells of one.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.evaluation import domain_shift
    >>> features = np.r_[np.random.default_rng(0).normal(size=(40, 3)), np.full((40, 3), 9.0)]
    >>> domain_shift(features, ["a"] * 40 + ["b"] * 40, random_state=0)["domain_accuracy"]
    1.0
    """
    import torch

    from .models.alignment import mmd

    labs = label_column(domain, "domain")
    matrix = np.asarray(features, dtype=np.float64)
    check_lengths(len(matrix), len(labs), len(labs))
    names, codes, counts = np.unique(labs, return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.min() < 5:
        raise ValueError(
            f"Got {dict(zip(names.tolist(), counts.tolist(), strict=True))} cells by domain but expected at least two "
            "domains of at least 5 cells each; leave small domains out."
        )
    rng = np.random.default_rng(_seed(random_state))
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(codes == code))[:_MAX_COMPARED] for code in range(len(names))]
    )
    scaled, codes = StandardScaler().fit_transform(matrix[rows]), codes[rows]
    guess = LogisticRegression(max_iter=2000, class_weight="balanced")
    folds = StratifiedKFold(5, shuffle=True, random_state=_seed(random_state))
    accuracy = cross_val_score(
        make_pipeline(StandardScaler(), guess), scaled, codes, cv=folds, scoring="balanced_accuracy"
    )
    return {
        "mmd": float(mmd(torch.from_numpy(scaled), torch.from_numpy(codes))),
        "domain_accuracy": float(accuracy.mean()),
        "chance": 1 / len(names),
    }


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """What `run_benchmark` found, with all that a report shows.

    Parameters
    ----------
    scores : pandas.DataFrame
        `cross_domain_scores` of each feature set, its name in the first column, ``features``.
    cells : sklearn.utils.Bunch
        The cells, as given.
    embeddings : CellEmbeddings or ndarray of shape (n_samples, n_channels)
        What the embedder returned.
    features : dict of str to ndarray of shape (n_samples, n_features)
        ``"embeddings"`` and, unless there was no autoencoder, ``"autoencoder"``.
    autoencoder : estimator or None
        The fitted autoencoder.
    reconstructions : ndarray of shape (n_shown, S, S, 3), uint8, or None
        The autoencoder's pictures of the shown cells.
    shown : ndarray of shape (n_shown,), int
        Rows of the cells to show: a few per domain and class.
    shift : pandas.DataFrame
        `domain_shift` of each feature set.
    settings : dict of str to str
        The parts and parameters of the run, readable.
    """

    scores: pd.DataFrame
    cells: Bunch
    embeddings: Any
    features: dict[str, np.ndarray]
    autoencoder: Any
    reconstructions: np.ndarray | None
    shown: np.ndarray
    shift: pd.DataFrame
    settings: dict[str, str] = field(default_factory=dict)


def run_benchmark(
    cells: Bunch,
    embedder: Any,
    autoencoder: Any | None,
    classifiers: Any | None = None,
    *,
    cv: int = 5,
    random_state: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> BenchmarkResult:
    """Embed cells, align the laboratories and score classifiers across them.

    The autoencoder is fitted on the cells of all laboratories together, without any class label, and the
    classifiers on its features. This is the papers' transductive mode: a laboratory's unlabelled images are
    seen before it is tested on, its labels never.

    Parameters
    ----------
    cells : sklearn.utils.Bunch
        ``paths`` or ``images``, ``target`` (n_samples,) ints into ``target_names``, ``domain`` (n_samples,).
    embedder : transformer
        Images to embeddings, such as `SAMLoRAEmbedder`. It is fitted in place.
    autoencoder : transformer or None
        Embeddings to features, with ``fit(X, domain=...)``, such as `CrossDomainAutoencoder`. It is fitted in
        place. None scores the embeddings alone.
    classifiers : estimator or dict of str to estimator, default=None
        None stands for `default_classifiers`.
    cv, random_state, n_jobs, verbose
        As in `cross_domain_scores`; `random_state` also picks the cells to show.

    Returns
    -------
    BenchmarkResult
        Scores of the feature sets ``"embeddings"`` and ``"autoencoder"``, and what a report shows.

    Raises
    ------
    ValueError
        If a target is no index into ``target_names``, or as in `cross_domain_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from sklearn.utils import Bunch
    >>> from sam_bloodcell.evaluation import run_benchmark
    >>> target = np.tile([0, 1], 10)
    >>> cells = Bunch(images=target[:, None], target=target, target_names=["lymphocyte", "monocyte"],
    ...               domain=np.repeat(["a", "b"], 10))
    >>> result = run_benchmark(cells, FunctionTransformer(), None, LogisticRegression(), random_state=0)
    >>> float(result.scores["accuracy"].mean())
    1.0
    """
    labels, labs, seed = _class_names(cells), label_column(cells.domain, "domain"), _seed(random_state)
    X = cells["paths"] if cells.get("paths") is not None else cells["images"]
    check_lengths(_num_samples(X), len(labels), len(labs))
    scorable_rows(labels, labs, cv)  # raises and warns now, before the hours of embedding
    named = named_estimators(default_classifiers(seed) if classifiers is None else classifiers)

    embeddings = embedder.fit_transform(X)
    features = {"embeddings": np.asarray(embeddings)}
    if autoencoder is not None:
        autoencoder.fit(embeddings, domain=labs)
        knows_domains = "domain" in inspect.signature(autoencoder.transform).parameters
        given = {"domain": labs} if knows_domains else {}
        features["autoencoder"] = np.asarray(autoencoder.transform(embeddings, **given))

    tables = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Left out classes", category=UserWarning)
        for name, matrix in features.items():
            table = cross_domain_scores(
                named, matrix, labels, domain=labs, cv=cv, random_state=seed, n_jobs=n_jobs, verbose=verbose
            )
            table.insert(0, "features", name)
            tables.append(table)
    shown = _choose_shown(labels, labs, seed)
    return BenchmarkResult(
        scores=pd.concat(tables, ignore_index=True),
        cells=cells,
        embeddings=embeddings,
        features=features,
        autoencoder=autoencoder,
        reconstructions=_reconstruct(autoencoder, embeddings, shown),
        shown=shown,
        shift=pd.DataFrame(
            {name: domain_shift(matrix, labs, random_state=seed) for name, matrix in features.items()}
        ).T,
        settings={
            "embedder": repr(embedder),
            "autoencoder": repr(autoencoder),
            **{f"classifier {name}": repr(estimator) for name, estimator in named.items()},
            "cv": str(cv),
            "random_state": str(seed),
        },
    )


def _class_names(cells: Bunch) -> np.ndarray:
    target, names = np.asarray(cells.target), np.asarray(cells.target_names)
    outside = np.flatnonzero((target < 0) | (target >= len(names)))
    if len(outside):
        raise ValueError(
            f"Got target={target[outside[0]]} in row {outside[0]} but expected an index into the "
            f"{len(names)} target_names; drop unlabelled cells."
        )
    return names[target]


def _choose_shown(labels: np.ndarray, labs: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero((labs == a) & (labels == b)) for a in np.unique(labs) for b in np.unique(labels)]
    groups = [rng.permutation(group) for group in groups if len(group)]
    per_group = 2 if 2 * len(groups) <= _MAX_SHOWN else 1
    if len(groups) > _MAX_SHOWN:
        groups = [groups[i] for i in np.sort(rng.choice(len(groups), _MAX_SHOWN, replace=False))]
    return np.concatenate([group[:per_group] for group in groups])


def _reconstruct(autoencoder: Any | None, embeddings: Any, shown: np.ndarray) -> np.ndarray | None:
    """Pictures of the shown cells; None where the autoencoder was fitted on plain features, not on crops."""
    if autoencoder is None or not hasattr(autoencoder, "reconstruct") or not hasattr(embeddings, "crops"):
        return None
    pictures = np.asarray(autoencoder.reconstruct(embeddings[shown]))
    return pictures if pictures.ndim == 4 else None


def _series_keys(scores: pd.DataFrame) -> list[str]:
    return ["features", "classifier"] if "features" in scores else ["classifier"]


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
