"""Novelty: a score for cells unlike the training cells, and a classifier that answers "unknown" for such cells."""

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
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .checks import check_arguments, values_of_cells

_CRITERIA = ("neighbours", "mahalanobis", "confidence")


def _gives_probabilities(classifier: "AbstainingClassifier") -> bool:
    estimator = getattr(classifier, "estimator_", classifier.estimator)
    return estimator is None or hasattr(estimator, "predict_proba")


class AbstainingClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Classify cells, and answer "unknown" for cells that are unlike the training cells.

    Parameters
    ----------
    estimator : classifier, default=None
        Classifier of all other cells. None stands for logistic regression on standardised features.
    criterion : {"neighbours", "mahalanobis", "confidence"}, default="neighbours"
        Measure of `novelty`: the distance to the fifth nearest training cell (Sun et al., ICML 2022); the distance to
        the nearest class centre under the classes' common, shrunk covariance (Lee et al., NeurIPS 2018); or one minus
        the estimator's highest probability.
    coverage : float, default=0.95
        Share of cells like the training cells that get a class, between 0 and 1. The threshold is set on training cells
        that are held out in 5 folds, or in as many as the rarest class has cells. With one cell in a class, nothing is
        held out, and the threshold is too low. Cells of a new laboratory differ from the training cells, so fewer of
        them get a class.
    unknown : object, default="auto"
        Answer for cells above the threshold. It must not be a class. "auto" stands for "unknown" or, if classes are
        numbers or booleans, for -1 or one less than the smallest class, whichever is lower. If the answer and the
        classes have different types, `predict` returns an array of objects. `cross_domain_predictions` encodes the
        classes as 0, 1, ..., so use text or a negative number there.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.

    Attributes
    ----------
    classes_ : array
        The training classes, without `unknown`.
    estimator_ : classifier
        The fitted estimator.
    threshold_ : float
        A cell whose `novelty` is above this value is unknown.

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
            Features of the training cells.
        y : array-like of shape (n_samples,)
            Class of each cell, with at least two classes.

        Returns
        -------
        self : object
            The fitted classifier.
        """
        if self.criterion not in _CRITERIA:
            names = ", ".join(_CRITERIA)
            raise ValueError(f"Got criterion={self.criterion!r} but expected one of {names}. Fix: pass one of these.")
        check_arguments("AbstainingClassifier", coverage=self.coverage, random_state=self.random_state)
        if self.criterion == "confidence" and not _gives_probabilities(clone(self)):
            found = f"criterion='confidence' with {self.estimator!r}, which has no predict_proba"
            fix = "Fix: pass another criterion, or a classifier with probabilities (CalibratedClassifierCV)."
            raise ValueError(f"Got {found}, but expected probabilities. {fix}")
        if getattr(y, "ndim", int(isinstance(y, list))) == 1:
            y = values_of_cells(y, "y")
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        if len(self.classes_) < 2:
            raise ValueError("Got 1 class but expected at least two. Fix: add cells of another class.")
        if (unknown := self._answer()) in self.classes_.tolist():
            fix = "Fix: pass another value as unknown."
            raise ValueError(f"Got unknown={unknown!r}, which is a class, but expected another answer. {fix}")
        default = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        estimator = default if self.estimator is None else self.estimator
        self.estimator_ = clone(estimator).fit(X, y)
        self._fitted_measure = _fit_measure(self.criterion, X, y, self.estimator_)
        self.threshold_ = float(np.quantile(self._held_out(X, y, counts, estimator), self.coverage))
        return self

    def novelty(self, X: Any) -> NDArray[np.float64]:
        """Return how much each cell differs from the training cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features of the cells.

        Returns
        -------
        ndarray of shape (n_samples,)
            The novelty. It is higher for cells that differ more.
        """
        X = self._checked(X)
        return _measure(self._fitted_measure, X)

    def predict(self, X: Any) -> NDArray:
        """Return the class of each cell, or `unknown`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features of the cells.

        Returns
        -------
        ndarray of shape (n_samples,)
            The answers.
        """
        X = self._checked(X)
        unknown = _measure(self._fitted_measure, X) > self.threshold_
        found = np.asarray(self.estimator_.predict(X))
        if not unknown.any():
            return found
        answer = np.asarray(self._answer())
        if found.dtype.kind in "bu":  # a type with a sign, for -1
            found = found.astype(np.int64)
        kinds = {"number" if array.dtype.kind in "if" else array.dtype.kind for array in (answer, found)}
        return np.where(unknown, answer if len(kinds) == 1 else answer.astype(object), found)

    @available_if(_gives_probabilities)
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the classifier's probabilities, including those of unknown cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features of the cells.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`.
        """
        X = self._checked(X)
        found = self.estimator_.predict_proba(X)
        order = np.asarray(getattr(self.estimator_, "classes_", self.classes_)).tolist()
        return found[:, [order.index(name) for name in self.classes_.tolist()]]

    def _checked(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64)

    def _answer(self) -> Any:
        if not (isinstance(self.unknown, str) and self.unknown == "auto"):
            return self.unknown
        if self.classes_.dtype.kind in "USO":
            return "unknown"
        return min(-1, self.classes_.min().item() - 1)  # as a Python number: the smallest uint8 less 1 would be 255

    def _held_out(self, X: NDArray, y: NDArray, counts: NDArray, estimator: Any) -> NDArray[np.float64]:
        """Return the novelty of training cells under models that were fitted without them."""
        n_folds = int(min(5, counts.min()))
        if n_folds < 2:
            return _measure(self._fitted_measure, X)
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=self.random_state)
        found = np.empty(len(X))
        for train, left in folds.split(X, y):
            fitted = clone(estimator).fit(X[train], y[train]) if self.criterion == "confidence" else None
            found[left] = _measure(_fit_measure(self.criterion, X[train], y[train], fitted), X[left])
        return found


def _fit_measure(criterion: str, X: NDArray, y: NDArray, estimator: Any) -> tuple[Any, ...]:
    """Return the criterion and the fitted models that `_measure` needs; "confidence" needs only the estimator."""
    if criterion == "confidence":
        return criterion, estimator
    if criterion == "neighbours":
        scaler = StandardScaler().fit(X)
        return criterion, scaler, NearestNeighbors(n_neighbors=min(5, len(X))).fit(scaler.transform(X))
    classes, codes = np.unique(y, return_inverse=True)
    centres = np.stack([X[codes == code].mean(0) for code in range(len(classes))])
    return criterion, centres, LedoitWolf(assume_centered=True).fit(X - centres[codes]).precision_


def _measure(fitted: tuple[Any, ...], X: NDArray) -> NDArray[np.float64]:
    """Return the novelty of cells, (n_samples,), with what `_fit_measure` returned."""
    criterion, *models = fitted
    if criterion == "confidence":
        return 1 - models[0].predict_proba(X).max(1)
    if criterion == "neighbours":
        scaler, index = models
        return index.kneighbors(scaler.transform(X))[0][:, -1]
    centres, precision = models
    nearest = np.full(len(X), np.inf)
    for centre in centres:  # one by one: all offsets together would be n_samples x n_classes x n_features numbers
        offsets = X - centre
        nearest = np.minimum(nearest, np.einsum("nf,nf->n", offsets @ precision, offsets))
    return nearest
