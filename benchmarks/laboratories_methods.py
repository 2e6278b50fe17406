"""Features, classifiers, smoothing and scores of `laboratories.py`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from shared_cells import standardise
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sam_bloodcell import CrossDomainAutoencoder
from sam_bloodcell.cells import FEW_CELLS
from sam_bloodcell.classification.neighbor_smoothing import as_sure_as, nearest_cells, smoothed_logits
from sam_bloodcell.datasets import COMMON_CLASSES
from sam_bloodcell.evaluation import AbstainingClassifier

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
BINS = 15  # of the calibration error, as in the package
NEIGHBOURS = 5
CLUSTERS = 4
NEW = "the tested laboratory"


@dataclass
class Features:
    """One kind of features: those of the training cells with their classes, and how those of tested cells are made.

    `transform` gets the embeddings of the cells that are tested together. With `transductive` its answer for a cell
    depends on the others.
    """

    name: str
    transductive: bool
    train: np.ndarray
    label: np.ndarray
    transform: Callable


def all_features(X, domain, label, seed):
    """Make every kind of features from the embeddings and laboratories of the training cells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got one domain|The domain of .* is unknown")
        autoencoder = CrossDomainAutoencoder(random_state=seed).fit(X, domain=domain)
        inductive = autoencoder.transform(X)
        aligned = autoencoder.transform(X, domain=domain)
    return [
        Features("pooled", False, X, label, as_they_are),
        Features("standardised", True, standardise(X, domain), label, standardised),
        Features("autoencoder", False, inductive, label, lambda tested: _transform(autoencoder, tested, None)),
        Features("autoencoder", True, aligned, label, lambda tested: _transform(autoencoder, tested, NEW)),
    ]


def standardised(tested):
    return StandardScaler().fit_transform(tested)


def as_they_are(tested):
    return tested


def fitted_together(X, domain, label, tested, seed):
    """Return the autoencoder's features of training and tested cells, fitted on both, as in the papers."""
    both, names = np.concatenate([X, tested]), np.concatenate([domain, np.full(len(tested), NEW)])
    autoencoder = CrossDomainAutoencoder(random_state=seed).fit(both, domain=names)
    found = autoencoder.transform(both, domain=names)
    return Features("autoencoder, fitted on both", True, found[: len(X)], label, lambda _: found[len(X) :])


def _transform(autoencoder, tested, lab):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # of few cells, or of an unknown laboratory: this is what is measured
        return autoencoder.transform(tested, domain=None if lab is None else np.full(len(tested), lab))


def fit_classifiers(features, strengths=STRENGTHS):
    """Fit logistic regressions, classes of equal weight, of every strength: a dict by C."""
    scaler = StandardScaler().fit(features.train)
    scaled = scaler.transform(features.train).astype(np.float64)
    found = {}
    for strength in strengths:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
        found[strength] = make_pipeline(scaler, model.fit(scaled, features.label))
    return found


def fit_abstention(features, classifier, seed):
    """Fit the package's limit of novelty, as `CellClassifier` does."""
    return AbstainingClassifier(FrozenEstimator(classifier), random_state=seed).fit(features.train, features.label)


def cluster_shares(clusters, features):
    """Return the share of the cells in each cluster."""
    return np.bincount(clusters.predict(features), minlength=clusters.n_clusters) / len(features)


def neighbours_of(features):
    """Return the neighbours that `NeighborSmoothedClassifier` smooths over, (n, k); None for too few cells."""
    count = min(NEIGHBOURS, len(features) // FEW_CELLS)
    return nearest_cells(features, slice(None), count) if count else None


def smooth(probabilities, near):
    """Smooth as `NeighborSmoothedClassifier` does; the neighbours are the same for every strength of the classifier."""
    return probabilities if near is None else as_sure_as(probabilities, smoothed_logits(probabilities, near))


def score(truth, probabilities, classes, scored, answered):
    """Score the answers to a draw; None where no cell of a scored class is in it.

    Balanced accuracy and macro-F1 are over the scored classes that are present and their cells alone. The calibration
    error and the share of right answers among those given are over all cells: those of a class that training lacks
    cannot be answered right.
    """
    best = probabilities.argmax(1)
    answer, right = classes[best], classes[best] == truth
    present = np.intersect1d(scored, truth)
    if not len(present):
        return None
    inside = np.isin(truth, present)
    recalls, f1 = [], []
    for name in present:
        true, called = truth[inside] == name, answer[inside] == name
        both = (true & called).sum()
        recalls.append(both / true.sum())
        f1.append(2 * both / (true.sum() + called.sum()))
    confidence = probabilities.max(1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return {
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": np.mean(f1),
        "ece": np.abs(gaps).sum() / len(truth),
        "answered": answered.mean(),
        "right_of_answered": right[answered].mean() if answered.any() else np.nan,
        "confidence": confidence.mean(),
        **{f"share_{name}": (answer == name).mean() for name in COMMON_CLASSES},
    }
