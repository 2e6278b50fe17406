"""Novelty: a score for cells unlike the training cells, and a classifier that answers "unknown" for them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .checks import check_arguments

_NEIGHBOURS = 5


class AbstainingClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A classifier that answers "unknown" for cells unlike those it was trained on.

    Parameters
    ----------
    estimator : classifier, default=None
        Classifier of all other cells; None stands for logistic regression on standardised features.
    criterion : {"neighbours", "mahalanobis", "confidence"}, default="neighbours"
        What `novelty` measures: the distance to the fifth nearest training cell; the distance to the nearest class
        centre under the classes' common, shrunk covariance (Lee et al.); or one minus the estimator's highest
        probability.
    coverage : float, default=0.95
        Share of cells like the training ones that get a class. The threshold is set on training cells held out in
        5 folds. Cells of a new laboratory all differ somewhat from the training cells, so fewer of them get a class.
    unknown : object, default="auto"
        The answer for cells above the threshold. "auto" stands for "unknown", or, if classes are numbers, for -1 or
        one less than the smallest class, whichever is lower.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.

    Attributes
    ----------
    classes_ : array
        The training classes; `unknown` is not among them.
    estimator_ : classifier
    threshold_ : float
        A cell whose `novelty` is above it is unknown.

    References
    ----------
    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
    2018; Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.evaluation import AbstainingClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(200, 2)) + np.repeat([[0, 0], [6, 0]], 100, axis=0), np.repeat(["a", "b"], 100)
    >>> AbstainingClassifier(random_state=0).fit(X, y).predict([[0, 0], [6, 0], [3, 30]]).tolist()
    ['a', 'b', 'unknown']
    """

    def __init__(
        self, estimator: Any = None, *, criterion: str = "neighbours", coverage: float = 0.95, unknown: Any = "auto",
        random_state: Any = None,
    ) -> None:  # fmt: skip
        self.estimator = estimator
        self.criterion = criterion
        self.coverage = coverage
        self.unknown = unknown
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "AbstainingClassifier":
        """Fit the classifier, and set the threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, there is one class, or `unknown` is one of the classes.
        """
        if self.criterion not in _CRITERIA:
            names = ", ".join(_CRITERIA)
            raise ValueError(f"Got criterion={self.criterion!r} but expected one of {names}. Fix: pass one of these.")
        check_arguments("AbstainingClassifier", coverage=self.coverage, random_state=self.random_state)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        if len(self.classes_) < 2:
            raise ValueError("Got 1 class but expected at least two. Fix: add cells of another class.")
        if self._answer() in self.classes_.tolist():
            raise ValueError(
                f"Got unknown={self._answer()!r}, which is a class too, but expected another value. Fix: rename it."
            )
        default = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        estimator = default if self.estimator is None else self.estimator
        self.estimator_ = clone(estimator).fit(X, y)
        self._novelty = _CRITERIA[self.criterion](X, y, self.estimator_)
        self.threshold_ = float(np.quantile(self._held_out(X, y, counts, estimator), self.coverage))
        return self

    def novelty(self, X: Any) -> NDArray[np.float64]:
        """Return how unlike the training cells each cell is, (n_samples,); higher means less alike."""
        X = self._checked(X)
        return self._novelty(X)

    def predict(self, X: Any) -> NDArray:
        """Return each cell's class, or `unknown`, (n_samples,)."""
        X = self._checked(X)
        unknown = self._novelty(X) > self.threshold_
        found = np.asarray(self.estimator_.predict(X))
        if not unknown.any():
            return found
        return np.where(unknown, np.asarray(self._answer(), dtype=found.dtype.kind), found)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the classifier's probabilities of `classes_`, (n_samples, n_classes), also for unknown cells."""
        X = self._checked(X)
        return self.estimator_.predict_proba(X)

    def _checked(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64)

    def _answer(self) -> Any:
        if not (isinstance(self.unknown, str) and self.unknown == "auto"):
            return self.unknown
        return "unknown" if self.classes_.dtype.kind in "USO" else min(-1, self.classes_.min() - 1)

    def _held_out(self, X: NDArray, y: NDArray, counts: NDArray, estimator: Any) -> NDArray[np.float64]:
        """Return the novelty of training cells under models that were fitted without them."""
        n_folds = int(min(5, counts.min()))
        if n_folds < 2:
            return self._novelty(X)
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=self.random_state)
        found = np.empty(len(X))
        for train, left in folds.split(X, y):
            fitted = clone(estimator).fit(X[train], y[train]) if self.criterion == "confidence" else None
            found[left] = _CRITERIA[self.criterion](X[train], y[train], fitted)(X[left])
        return found


class _Neighbours:
    def __init__(self, X: NDArray, y: NDArray, estimator: Any) -> None:
        self.scaler = StandardScaler().fit(X)
        self.index = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(X))).fit(self.scaler.transform(X))

    def __call__(self, X: NDArray) -> NDArray[np.float64]:
        return self.index.kneighbors(self.scaler.transform(X))[0][:, -1]


class _Mahalanobis:
    def __init__(self, X: NDArray, y: NDArray, estimator: Any) -> None:
        classes, codes = np.unique(y, return_inverse=True)
        self.centres = np.stack([X[codes == code].mean(0) for code in range(len(classes))])
        self.precision = LedoitWolf(assume_centered=True).fit(X - self.centres[codes]).precision_

    def __call__(self, X: NDArray) -> NDArray[np.float64]:
        offsets = X[:, None] - self.centres  # (n_samples, n_classes, n_features)
        return np.einsum("ncf,fg,ncg->nc", offsets, self.precision, offsets, optimize=True).min(1)


class _Confidence:
    def __init__(self, X: NDArray, y: NDArray, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, X: NDArray) -> NDArray[np.float64]:
        return 1 - self.estimator.predict_proba(X).max(1)


_CRITERIA: dict[str, Any] = {"neighbours": _Neighbours, "mahalanobis": _Mahalanobis, "confidence": _Confidence}
