"""The classifier that a benchmark recommends, fitted on all its cells."""

import warnings
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ..evaluation import BenchmarkResult
from ..evaluation.classifiers import default_classifiers
from ..evaluation.findings import recommended
from .cell_classifier import CellClassifier


def fit_recommended(
    result: BenchmarkResult, cells: Bunch, autoencoder: Any, *, random_state: int, **options: Any
) -> CellClassifier | None:
    """Fit the features and classifier that did best in a benchmark of the `default_classifiers` on all its cells.

    Parameters
    ----------
    result : BenchmarkResult
    cells : Cells
        The cells of the benchmark, with paths. Cells of a class that was too rare to be scored anywhere are left out.
    autoencoder : estimator or None
        The autoencoder of the benchmark, fitted or not. It is not used if the embeddings alone scored better.
    random_state : int
        The seed of the benchmark.
    **options
        Parameters of `CellClassifier`: backbone, adapter, cache_dir and so on.

    Returns
    -------
    classifier : CellClassifier or None
        The fitted classifier, or None if nothing was scored.
    """
    best = recommended(result)
    if best is None:
        return None
    features, name = best
    classifier = CellClassifier(
        classifier=default_classifiers(random_state)[name],
        autoencoder=autoencoder if features == "autoencoder" else None,
        random_state=random_state,
        **options,
    )
    scored = np.isin(cells.labels, result.predictions["label"].unique())
    with warnings.catch_warnings():  # the benchmark already named the classes with too few cells
        warnings.filterwarnings("ignore", message="Classes of fewer than", category=UserWarning)
        return classifier.fit(cells.frame[scored], cells.labels[scored])
