"""The benchmark: embed, align, predict across laboratories, and collect what a report shows."""

import hashlib
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import Bunch
from sklearn.utils.validation import _num_samples

from ..datasets.cells import check_cells
from ..exceptions import ImageReadError, warn_caller
from ..images.collections import name_rows
from ..images.reading import read_content
from .checks import cell_columns, check_arguments, class_names, seed_of
from .classifiers import default_classifiers, named_estimators
from .few_labels import label_curve
from .headlines import best_recall, headline_scores
from .protocol import call_with_domain, check_plan, cross_domain_predictions
from .scores import confidence_intervals, score_predictions
from .shift import domain_shift, near_duplicates

_MAX_SHOWN = 36  # cells


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """The result of `run_benchmark`, with everything that a report shows.

    Parameters
    ----------
    predictions : pandas.DataFrame
        The `cross_domain_predictions` of each feature set, with its name in the first column, ``features``.
    scores : pandas.DataFrame
        The `score_predictions` of the predictions.
    intervals : pandas.DataFrame or None
        The `confidence_intervals` of the mean balanced accuracy across domains, or None if there is one domain.
    duplicates : pandas.DataFrame
        The `near_duplicates` of the embeddings.
    cells : sklearn.utils.Bunch
        The cells that `run_benchmark` was given.
    embeddings : CellEmbeddings or ndarray of shape (n_samples, n_channels)
        The output of the embedder.
    features : dict of str to ndarray of shape (n_samples, n_features)
        Feature sets by name: ``"embeddings"`` and, if there was an autoencoder, ``"autoencoder"``.
    autoencoder : fitted estimator or None
        The autoencoder, or None if there was none.
    reconstructions : ndarray of shape (n_shown, S, S, 3), uint8, or None
        The shown cells as the autoencoder reconstructs them, or None if it reconstructs no pictures, for example from
        embeddings without token maps.
    shown : ndarray of shape (n_shown,), int
        Rows of the cells to show: a few per domain and class.
    shift_by_class : pandas.DataFrame
        The `domain_shift` of all cells ("all") and of each class, indexed by feature set and class.
    settings : dict of str to str
        The estimators and parameters of the run, as text.
    label_curve : pandas.DataFrame
        The `label_curve` of the autoencoder's features, or of the embeddings if there is no autoencoder. It is empty if
        no laboratory has enough cells.
    encoders : pandas.DataFrame
        The `compare_encoders` of this benchmark and those of other encoders, or an empty table.
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
    label_curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    encoders: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def shift(self) -> pd.DataFrame:
        """Return the `domain_shift` of each feature set, over all cells."""
        table = self.shift_by_class
        of_all = table[table.index.get_level_values(-1) == "all"].droplevel(-1) if len(table) else table
        return pd.DataFrame(of_all, columns=["mmd", "domain_accuracy", "chance"])

    @cached_property
    def headlines(self) -> pd.DataFrame:
        """Return the mean scores of each feature set and classifier, with intervals and chance.

        The table has a row per ``features`` and ``classifier``: the number of ``pairs`` of different domains (with one
        domain, 1 for that domain), the mean ``balanced_accuracy`` over them, its interval from ``low`` to ``high`` and
        its ``chance`` level, the mean ``accuracy``, and ``majority``, the share of the commonest class.
        """
        return headline_scores(self.predictions, self.scores, self.intervals)

    @cached_property
    def recall(self) -> pd.DataFrame:
        """Return the recall of each class by the best classifier of each feature set, over the pairs of `headlines`."""
        return best_recall(self.predictions, self.headlines)


def run_benchmark(
    cells: Bunch, embedder: Any, autoencoder: Any | None, classifiers: Any | None = None, *, cv: Any = 5,
    random_state: Any = None, n_jobs: int | None = None, verbose: int = 0,
) -> BenchmarkResult:  # fmt: skip
    """Embed cells, align the laboratories and score classifiers across laboratories.

    The autoencoder is fitted on the unlabelled cells of all laboratories together, and the classifiers on its features.
    This is the papers' transductive mode: training uses the images of a tested laboratory, but never its labels.

    Parameters
    ----------
    cells : sklearn.utils.Bunch
        Cells from a loader: ``paths`` or ``images``, ``target`` (n_samples,) as indices into ``target_names``,
        ``domain`` (n_samples,), and optionally ``group`` (n_samples,), the patient or slide. No fold splits a group.
    embedder : transformer
        Transformer from images to embeddings, such as `SAMLoRAEmbedder`. It is fitted in place.
    autoencoder : transformer or None
        Transformer from embeddings to features, with ``fit(X, domain=...)``, such as `CrossDomainAutoencoder`. It is
        fitted in place. With None, only the embeddings are scored.
    classifiers : estimator or dict of str to estimator, default=None
        Classifiers to score. None stands for `default_classifiers`.
    cv : int or splitter, default=5
        Number of folds, at least 2, or a splitter, as in `cross_domain_predictions`.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds and of the choice of cells to show.
    n_jobs : int or None, default=None
        Number of fits that joblib runs in parallel, as in `joblib.Parallel`.
    verbose : int, default=0
        If above 0, show progress bars.

    Returns
    -------
    BenchmarkResult
        Predictions, scores, features and findings of the run.

    Raises
    ------
    ValueError
        If `cells` do not have the columns that a loader returns, or as in `cross_domain_predictions`. The error is
        raised before anything is embedded.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> from sam_bloodcell import SAMLoRAEmbedder
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> from sam_bloodcell.evaluation import run_benchmark
    >>> cells = make_blood_cells(5, classes=["eosinophil", "lymphocyte"], random_state=0)
    >>> result = run_benchmark(cells, SAMLoRAEmbedder("vit_tiny"), None, SVC(), cv=2, random_state=0)
    >>> float(result.scores["accuracy"].mean())
    1.0
    """
    options = {"cv": cv, "n_jobs": n_jobs, "verbose": verbose}
    check_arguments("run_benchmark", embedder=embedder, autoencoder=autoencoder, random_state=random_state, **options)
    check_cells(cells, "target", "target_names", "domain")
    images, labels = images_of(cells), class_names(cells.target, cells.target_names, "target")
    labels, domains = cell_columns(_num_samples(images), y=labels, domain=cells.domain)
    seed = seed_of(random_state)
    named = named_estimators(default_classifiers(seed) if classifiers is None else classifiers)
    check_plan(named, labels, domains, cells.get("group"), cv, seed)  # raises and warns now, before hours of embedding
    _check_parameters(autoencoder, *named.values())
    digest = _digest(images, labels, domains, cells.get("group"))
    embeddings = embedder.fit_transform(images)
    features = {"embeddings": np.asarray(embeddings)}
    _refuse_gaps(features["embeddings"])
    if autoencoder is not None:
        autoencoder.fit(embeddings, domain=domains)
        features["autoencoder"] = np.asarray(call_with_domain(autoencoder.transform, embeddings, domains))
    duplicates = near_duplicates(features["embeddings"])
    if len(duplicates):
        found = f"{len(duplicates)}, such as rows {duplicates['a'][0]} and {duplicates['b'][0]}"
        fix = "Fix: look at them in the report, and give copies the same group."
        warn_caller(f"Pairs of images that look duplicated: {found}. Copies across folds make scores too high. {fix}")
    options |= {"domain": domains, "groups": cells.get("group"), "random_state": seed}
    with warnings.catch_warnings():  # rare classes were warned of before the embedding
        warnings.filterwarnings("ignore", message="Left out classes", category=UserWarning)
        tables = {name: cross_domain_predictions(named, matrix, labels, **options) for name, matrix in features.items()}
    predictions = pd.concat(tables, names=["features"]).reset_index("features").reset_index(drop=True)
    shown = _choose_shown(labels, domains, seed)
    shifts = {name: domain_shift(matrix, domains, y=labels, random_state=seed) for name, matrix in features.items()}
    return BenchmarkResult(
        predictions=predictions, scores=score_predictions(predictions), duplicates=duplicates,
        intervals=confidence_intervals(predictions, random_state=seed) if len(np.unique(domains)) > 1 else None,
        cells=cells, embeddings=embeddings, features=features, autoencoder=autoencoder,
        reconstructions=_reconstruct(autoencoder, embeddings, domains, shown), shown=shown,
        shift_by_class=pd.concat(shifts),
        settings=_settings(embedder, autoencoder, named, predictions, cells.get("group") is not None, digest),
        label_curve=label_curve(
            list(features.values())[-1], labels, domain=domains, groups=cells.get("group"), random_state=seed
        ),
    )  # fmt: skip


def images_of(cells: Bunch) -> Any:
    """Return the cells' paths, or their images if there are no paths."""
    source = "images" if cells.get("paths") is None else "paths"
    check_cells(cells, source)
    return cells[source]


def _choose_shown(labels: NDArray, domains: NDArray, seed: int) -> NDArray[np.intp]:
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero((domains == a) & (labels == b)) for a in np.unique(domains) for b in np.unique(labels)]
    groups = [rng.permutation(group) for group in groups if len(group)]
    per_group = 2 if 2 * len(groups) <= _MAX_SHOWN else 1
    if len(groups) > _MAX_SHOWN:
        groups = [groups[i] for i in np.sort(rng.choice(len(groups), _MAX_SHOWN, replace=False))]
    return np.concatenate([group[:per_group] for group in groups])


def _check_parameters(*estimators: Any) -> None:
    """Raise for a wrong parameter of an estimator or of its steps, before hours of embedding and not only in `fit`."""
    for estimator in estimators:
        parts = list(estimator.get_params().values()) if hasattr(estimator, "get_params") else []
        for part in (estimator, *parts):
            if hasattr(part, "_parameter_constraints") and not isinstance(part, type):
                part._validate_params()


def _digest(images: Any, labels: NDArray, domains: NDArray, groups: Any) -> str:
    """Return the SHA-256 of each cell's content (a file's bytes, or pixels), label, domain and group."""
    digest = hashlib.sha256()
    columns = [
        labels.tolist(),
        domains.tolist(),
        [None] * len(labels) if groups is None else np.asarray(groups).tolist(),
    ]
    images = images.to_numpy() if hasattr(images, "to_numpy") else images  # a table would be iterated by its columns
    for row, (image, *texts) in enumerate(zip(images, *columns, strict=True)):
        if isinstance(image, np.ndarray) and image.ndim == 1:  # a row of features
            content = repr((image.dtype.str, image.tolist())).encode()
        else:
            try:
                content = read_content(image, row).digest()
            except ImageReadError:  # the embedder decides what to do with such an image; the digest uses its name
                content = repr(image).encode()
        digest.update(hashlib.sha256(content).digest() + hashlib.sha256(repr(texts).encode()).digest())
    return digest.hexdigest()


def _refuse_gaps(embeddings: NDArray) -> None:
    """Raise if an embedding is not finite, before anything is fitted on it."""
    rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=tuple(range(1, embeddings.ndim))))
    if len(rows):
        found = f"embeddings that are not finite in {name_rows(rows)}, as of images that cannot be read"
        raise ValueError(f"Got {found}, but expected numbers. Fix: leave these cells out with drop_unreadable(cells).")


def _reconstruct(
    autoencoder: Any, embeddings: Any, domains: NDArray, shown: NDArray[np.intp]
) -> NDArray[np.uint8] | None:
    """Return pictures of the shown cells, or None if the autoencoder makes none from these embeddings."""
    if not hasattr(autoencoder, "reconstruct") or not hasattr(embeddings, "tokens"):
        return None
    pictures = np.asarray(call_with_domain(autoencoder.reconstruct, embeddings[shown], domains[shown]))
    return pictures if pictures.ndim == 4 else None  # an autoencoder of vectors reconstructs vectors


def _settings(
    embedder: Any, autoencoder: Any, named: dict, predictions: pd.DataFrame, grouped: bool, digest: str
) -> dict[str, str]:
    provenance = predictions.attrs["provenance"]
    return {
        "embedder": repr(embedder),
        **_weights_of(embedder),
        "autoencoder": repr(autoencoder),
        **{f"classifier {name}": repr(estimator) for name, estimator in named.items()},
        "cv": provenance["cv"],
        "folds keep together": "groups" if grouped else "nothing",
        "random_state": str(provenance["random_state"]),
        "cells SHA-256 of image contents, labels, laboratories and groups": digest,
        **provenance["versions"],
    }


def _weights_of(embedder: Any) -> dict[str, str]:
    """Return name, revision and digests of the weights that a fitted embedder used, if it has them."""
    encoder = getattr(embedder, "encoder_", None)
    if encoder is None:
        return {}
    recipe, finder = encoder.recipe, encoder.recipe.network.backbone
    backbone = getattr(embedder, "backbone_", None)
    weights = {} if backbone is None else _named_weights("backbone", backbone)
    if recipe.features is not None:
        weights |= _named_weights("segmenter", finder)
    return {**weights, "adapter digest": str(recipe.network.adapter), "recipe digest": recipe.digest}


def _named_weights(kind: str, backbone: Any) -> dict[str, str]:
    revision = "revision" if kind == "backbone" else f"{kind} revision"
    return {kind: backbone.name, revision: str(backbone.revision), f"{kind} digest": str(backbone.digest)}
