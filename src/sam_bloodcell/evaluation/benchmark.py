"""The whole run at once: embed, align, predict across laboratories, and all that a report shows."""

import inspect
import warnings
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils.validation import _num_samples

from ..datasets.cells import check_cells
from .checks import check_arguments, check_lengths, label_column, seed_of
from .classifiers import default_classifiers, named_estimators
from .protocol import cross_domain_predictions, scorable_rows
from .provenance import versions, weights_of
from .scores import confidence_intervals, score_predictions
from .shift import domain_shift, near_duplicates

_MAX_SHOWN = 36


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """What `run_benchmark` found, with all that a report shows.

    Parameters
    ----------
    predictions : pandas.DataFrame
        `cross_domain_predictions` of each feature set, its name in the first column, ``features``.
    scores : pandas.DataFrame
        `score_predictions` of them.
    intervals : pandas.DataFrame or None
        `confidence_intervals` of the mean balanced accuracy across laboratories; None with one laboratory.
    duplicates : pandas.DataFrame
        `near_duplicates` of the embeddings.
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
    shift_by_class : pandas.DataFrame
        `domain_shift` of all cells ("all") and of each class by itself, indexed by feature set and class.
    settings : dict of str to str
        The parts and parameters of the run, readable.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    intervals: pd.DataFrame | None
    duplicates: pd.DataFrame
    cells: Bunch
    embeddings: Any
    features: dict[str, np.ndarray]
    autoencoder: Any
    reconstructions: np.ndarray | None
    shown: np.ndarray
    shift_by_class: pd.DataFrame
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def shift(self) -> pd.DataFrame:
        """`domain_shift` of each feature set, over all cells."""
        of_all = self.shift_by_class[self.shift_by_class.index.get_level_values(1) == "all"]
        return of_all.droplevel(1)[["mmd", "domain_accuracy", "chance"]]


def run_benchmark(
    cells: Bunch,
    embedder: Any,
    autoencoder: Any | None,
    classifiers: Any | None = None,
    *,
    cv: Any = 5,
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
        ``paths`` or ``images``, ``target`` (n_samples,) ints into ``target_names``, ``domain`` (n_samples,), and
        optionally ``group`` (n_samples,), patient or slide, which folds then keep together.
    embedder : transformer
        Images to embeddings, such as `SAMLoRAEmbedder`. It is fitted in place.
    autoencoder : transformer or None
        Embeddings to features, with ``fit(X, domain=...)``, such as `CrossDomainAutoencoder`. It is fitted in
        place. None scores the embeddings alone.
    classifiers : estimator or dict of str to estimator, default=None
        None stands for `default_classifiers`.
    cv, random_state, n_jobs, verbose
        As in `cross_domain_predictions`; `random_state` also picks the cells to show.

    Returns
    -------
    BenchmarkResult
        Scores of the feature sets ``"embeddings"`` and ``"autoencoder"``, and what a report shows.

    Raises
    ------
    ValueError
        If cells are not what a loader returns, a target is no index into ``target_names``, or as in
        `cross_domain_predictions`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from sklearn.utils import Bunch
    >>> from sam_bloodcell.evaluation import run_benchmark
    >>> target = np.tile([0, 1], 10)
    >>> features = np.random.default_rng(0).normal(size=(20, 4)) + 9 * target[:, None]
    >>> cells = Bunch(images=features, target=target, target_names=["lymphocyte", "monocyte"],
    ...               domain=np.repeat(["a", "b"], 10))
    >>> result = run_benchmark(cells, FunctionTransformer(), None, LogisticRegression(), random_state=0)
    >>> float(result.scores["accuracy"].mean())
    1.0
    """
    check_arguments(
        "run_benchmark", embedder=embedder, autoencoder=autoencoder, cv=cv, random_state=random_state, n_jobs=n_jobs,
        verbose=verbose,
    )  # fmt: skip
    check_cells(cells, "target", "target_names", "domain")
    check_cells(cells, "images" if cells.get("paths") is None else "paths")
    labels, labs, seed = _class_names(cells), label_column(cells.domain, "domain"), seed_of(random_state)
    X = cells["paths"] if cells.get("paths") is not None else cells["images"]
    check_lengths(_num_samples(X), y=labels, domain=labs)
    # Raises and warns now, before the hours of embedding.
    scorable_rows(labels, labs, int(cv) if isinstance(cv, Integral) else 2)
    named = named_estimators(default_classifiers(seed) if classifiers is None else classifiers)

    embeddings = embedder.fit_transform(X)
    features = {"embeddings": np.asarray(embeddings)}
    if autoencoder is not None:
        autoencoder.fit(embeddings, domain=labs)
        knows_domains = "domain" in inspect.signature(autoencoder.transform).parameters
        given = {"domain": labs} if knows_domains else {}
        features["autoencoder"] = np.asarray(autoencoder.transform(embeddings, **given))

    duplicates = near_duplicates(features["embeddings"])
    if len(duplicates):
        warnings.warn(
            f"{len(duplicates)} couple(s) of cells look like copies of one another, such as rows "
            f"{duplicates['a'][0]} and {duplicates['b'][0]}; across folds they make scores too good. Fix: look at them "
            "in the report, and give copies one group.",
            stacklevel=2,
        )
    tables = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Left out classes", category=UserWarning)
        for name, matrix in features.items():
            table = cross_domain_predictions(
                named, matrix, labels, domain=labs, groups=cells.get("group"), cv=cv, random_state=seed,
                n_jobs=n_jobs, verbose=verbose,
            )  # fmt: skip
            table.insert(0, "features", name)
            tables.append(table)
    predictions = pd.concat(tables, ignore_index=True)
    by_class: pd.DataFrame = pd.concat(
        [domain_shift(matrix, labs, y=labels, random_state=seed) for matrix in features.values()],  # type: ignore[misc]
        keys=list(features),
    )
    several = len(np.unique(labs)) > 1
    shown = _choose_shown(labels, labs, seed)
    return BenchmarkResult(
        predictions=predictions,
        scores=score_predictions(predictions),
        intervals=confidence_intervals(predictions, random_state=seed) if several else None,
        duplicates=duplicates,
        cells=cells,
        embeddings=embeddings,
        features=features,
        autoencoder=autoencoder,
        reconstructions=_reconstruct(autoencoder, embeddings, shown),
        shown=shown,
        shift_by_class=by_class,
        settings={
            "embedder": repr(embedder),
            **{name.replace("_", " "): str(value) for name, value in weights_of(embedder).items()},
            "autoencoder": repr(autoencoder),
            **{f"classifier {name}": repr(estimator) for name, estimator in named.items()},
            "cv": str(cv),
            "folds keep together": "groups" if cells.get("group") is not None else "nothing",
            "random_state": str(seed),
            "cells SHA-256": tables[0].attrs["provenance"]["cells_sha256"],
            **versions(),
        },
    )


def _class_names(cells: Bunch) -> np.ndarray:
    target, names = np.asarray(cells.target), np.asarray(cells.target_names)
    if target.dtype.kind not in "iu":
        raise ValueError(f"Got target of dtype {target.dtype} but expected integers, indices into target_names.")
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
