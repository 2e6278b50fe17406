"""A few labelled cells of a new laboratory: their choice, training with them, and the gain in scores."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.validation import _num_samples

from ..cells import some_of_each
from ..embedding.embeddings import without_domain
from .checks import cell_columns, check_arguments, domain_of, seed_of
from .classifiers import balanced_regression
from .scores import scores_of_cells

# With fewer labelled cells, no temperature is fitted. On the three laboratories on which this number was chosen, a
# temperature raised the calibration error with 8 and 16 labelled cells, and lowered it with 32 or more.
ENOUGH_FOR_TEMPERATURE = 30
# Least weight of a labelled cell of the new laboratory, in training cells.
_LEAST_WEIGHT = 10
# Standard deviation of the normal prior of a laboratory's log temperature, which has mean 0. It was chosen on the same
# three laboratories: without it, the temperature of a few easy cells fell to the lowest value allowed.
_SPREAD_OF_TEMPERATURE = 0.25
_LEAST_OTHERS = 20  # cells that are left to test on
_LEAST_OF_A_CLASS = 5  # cells of a class for it to be trained on, and in the new laboratory to be scored
_MOST_OF_A_CLASS = 150  # training cells of a class and laboratory in a curve; more change it little and take longer
_COLUMNS = ["test_domain", "chosen", "n_labels", "draw", "n_test", "balanced_accuracy", "ece"]


class Labelled(NamedTuple):
    """Features (n, n_features) and labels (n,) of cells, and their patients (n,) where these are known."""

    features: NDArray[Any]
    labels: NDArray[Any]
    groups: NDArray[Any] | None = None

    def take(self, rows: NDArray[np.intp]) -> "Labelled":
        """Return the cells of these rows."""
        groups = None if self.groups is None else self.groups[rows]
        return Labelled(self.features[rows], self.labels[rows], groups)


def label_curve(
    X: Any, y: Any, *, domain: Any = None, groups: Any = None, classifier: Any = None, new: Sequence[Any] | None = None,
    n_labels: Sequence[int] = (0, 8, 16, 32, 100), n_draws: int = 3, random_state: Any = None,
) -> pd.DataFrame:  # fmt: skip
    """Measure how much a few labelled cells of a new laboratory would help.

    Each laboratory in turn is the new one. The classifier is fitted on the cells of all others (at most 150 per class
    and laboratory) together with `n_labels` labelled cells of the new laboratory, and is scored on its other cells. The
    labelled cells weigh more than the training cells. With 30 or more, the temperature of the probabilities is fitted,
    as in `CellClassifier.adapt`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Features, such as `CellEmbeddings`, or those of a `CrossDomainAutoencoder` that was fitted on the images of all
        laboratories.
    y : array-like of shape (n_samples,)
        Class of each cell. A class with fewer than 5 training cells is left out. A class with fewer than 5 cells in the
        new laboratory is used for training, but neither labelled nor scored there.
    domain : array-like of shape (n_samples,), optional
        Laboratory of each cell, strings or ints. By default, it is taken from X, as in `cross_domain_predictions`.
    groups : array-like of shape (n_samples,), optional
        Patient or slide of each cell. The labelled cells are then chosen among those of half of the patients, or of as
        many as have enough cells, and no cell of a patient with a labelled cell is scored. A patient of several
        laboratories counts as one in each.
    classifier : classifier, default=None
        Classifier with ``predict_proba``. None stands for "LR balanced" of `default_classifiers`.
    new : sequence, optional
        Laboratories to test, each as the new one. By default, all are tested.
    n_labels : sequence of int, default=(0, 8, 16, 32, 100)
        Numbers of labelled cells. A number is skipped if it leaves fewer than 20 cells to score.
    n_draws : int, default=3
        Number of times that cells are chosen, at least 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the choices.

    Returns
    -------
    pandas.DataFrame
        A row per ``test_domain``, ``chosen`` (how the labelled cells were chosen: "random", or "informative" as in
        `cells_to_label`, or "none" without labels), ``n_labels`` and ``draw``. ``n_test`` is the number of other cells,
        on which ``balanced_accuracy`` and ``ece`` (expected calibration error) are measured.

    Raises
    ------
    ValueError, TypeError
        If lengths differ, a label, domain or group is missing, or a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.evaluation import label_curve
    >>> rng = np.random.default_rng(0)
    >>> y, domain = np.tile(["x", "y"], 60), np.repeat(["a", "b"], 60)
    >>> X = rng.normal(size=(120, 2)) + 8 * (y == "x")[:, None] + 8 * (domain == "b")[:, None]
    >>> curve = label_curve(X, y, domain=domain, n_labels=(0, 16), random_state=0)
    >>> curve.groupby(["test_domain", "n_labels"])["balanced_accuracy"].mean().round(1).to_dict()
    {('a', 0): 0.5, ('a', 16): 1.0, ('b', 0): 0.5, ('b', 16): 1.0}
    """
    check_arguments("label_curve", n_draws=n_draws, random_state=random_state)
    numbers = _checked_numbers(n_labels)
    labels, domains = cell_columns(_num_samples(X), y=y, domain=domain_of(X, domain))
    features = np.asarray(without_domain(X))
    if groups is not None:
        (groups,) = cell_columns(len(labels), groups=groups)
    seed = seed_of(random_state)
    classifier = balanced_regression() if classifier is None else classifier
    cells = Labelled(features, labels, groups)
    rows = [
        row
        for name in _checked_names(new, np.unique(domains).tolist())
        for row in _curve_of(classifier, cells, domains, name, numbers, n_draws, seed)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def summarise_curve(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and the spread over draws of a `label_curve`.

    Returns
    -------
    pandas.DataFrame
        A row per ``test_domain``, ``n_labels`` and ``chosen``: ``balanced_accuracy`` and ``ece``, and their standard
        deviations ``balanced_accuracy_std`` and ``ece_std``, NaN for one draw.
    """
    if curve.empty:
        return pd.DataFrame(columns=["test_domain", "n_labels", "chosen", "balanced_accuracy", "ece"])
    draws = curve.groupby(["test_domain", "n_labels", "chosen"], observed=True)[["balanced_accuracy", "ece"]]
    return draws.mean().join(draws.std(), rsuffix="_std").reset_index()


def cells_to_label(
    features: NDArray[Any], probabilities: NDArray[np.float64], n: int, *, random_state: Any = None
) -> NDArray[np.intp]:
    """Return the rows of the n cells whose labels would help most, the most doubtful first, shape (n,).

    The cells are clustered, each weighted by the entropy of its probabilities, and the cell nearest to the centre of
    each cluster is chosen (Prabhu et al., "Active domain adaptation via clustering uncertainty-weighted embeddings",
    ICCV 2021). The chosen cells are therefore doubtful, but differ from each other.

    Parameters
    ----------
    features : array of shape (n_cells, n_features)
    probabilities : array of shape (n_cells, n_classes)
    n : int
        At most n_cells.
    random_state : int, RandomState instance or None, default=None
    """
    check_number_to_label(n, len(features))
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(1)
    doubtful_first = np.argsort(-entropy, kind="stable")
    if n == len(features):
        return doubtful_first
    weights = entropy + 1e-6  # if no cell is doubtful, all count alike
    seed = seed_of(random_state)
    with warnings.catch_warnings():  # duplicate cells leave clusters empty, which is handled below
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(n, n_init=1, random_state=seed).fit(features, sample_weight=weights)
    distances = ((features - clusters.cluster_centers_[clusters.labels_]) ** 2).sum(1)
    nearest = pd.Series(distances).groupby(clusters.labels_).idxmin().to_numpy()
    order = np.argsort(-entropy[nearest], kind="stable")
    more = doubtful_first[~np.isin(doubtful_first, nearest)]
    return np.concatenate([nearest[order], more[: n - len(nearest)]])


def check_number_to_label(n: Any, n_cells: int) -> None:
    """Raise unless n cells can be chosen from n_cells."""
    if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= int(n) <= n_cells:
        found = f"n={n!r} for {n_cells} cells"
        raise ValueError(f"Got {found} but expected a number from 1 to {n_cells}. Fix: n={min(32, n_cells)}.")


def fit_with_few(
    classifier: Any, training: Labelled, n_laboratories: int, few: Sequence[Labelled], *,
    unsmoothed: Any = None, seed: int = 0,
) -> tuple[Any, list[float]]:  # fmt: skip
    """Fit a clone on training cells and on a few labelled cells of each new laboratory.

    The labelled cells of a laboratory together weigh as much as the training cells of a laboratory, but each weighs at
    least as much as 10 training cells. They are repeated, which works with any classifier.

    Parameters
    ----------
    classifier : classifier
    training : Labelled
    n_laboratories : int
        Number of laboratories from which the training cells come.
    few : sequence of Labelled
    unsmoothed : classifier, optional
        The classifier on whose probabilities the temperatures are fitted (default: `classifier`). For a
        `NeighborSmoothedClassifier` it is the wrapped one, because a fold of a few labelled cells cannot be smoothed.
    seed : int

    Returns
    -------
    classifier : fitted estimator
    temperatures : list of float
        Temperature of the probabilities in each new laboratory; 1.0 if it has too few labelled cells to fit one.
    """

    def fit(estimator: Any, new: Sequence[Labelled]) -> Any:
        parts = [training, *(_weighted(cells, len(training.labels) / max(n_laboratories, 1)) for cells in new)]
        features, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "labels"))
        return clone(estimator).fit(features, labels)

    def temperature(place: int) -> float:
        others = [cells for other, cells in enumerate(few) if other != place]
        return _temperature(lambda cells: fit(unsmoothed, [*others, cells]), few[place], seed)

    unsmoothed = classifier if unsmoothed is None else unsmoothed
    return fit(classifier, few), [temperature(place) for place in range(len(few))]


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return probabilities at another temperature. Above 1 they are less confident; their order stays the same."""
    if temperature == 1:
        return probabilities
    return softmax(np.log(np.maximum(probabilities, 1e-300)) / temperature, axis=1)


def _checked_numbers(n_labels: Any) -> list[int]:
    numbers = list(n_labels) if hasattr(n_labels, "__iter__") and not isinstance(n_labels, str) else [n_labels]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            fix = "Fix: n_labels=(0, 8, 16, 32, 100)."
            raise ValueError(f"Got n_labels={n_labels!r} but expected numbers of cells. {fix}")
    return [int(number) for number in numbers]


def _checked_names(new: Sequence[Any] | None, names: list[Any]) -> list[Any]:
    if new is None:
        return names
    if isinstance(new, str) or not hasattr(new, "__iter__") or any(name not in names for name in new):
        raise ValueError(f"Got new={new!r} but expected some of {names!r}. Fix: pass a list of laboratories of domain.")
    return list(new)


def _curve_of(
    classifier: Any, cells: Labelled, domains: NDArray, name: Any, numbers: list[int], n_draws: int, seed: int
) -> Iterator[list[Any]]:
    """Yield the rows of one tested laboratory."""
    new, labels = domains == name, cells.labels
    known = _frequent(labels[~new])
    scored = np.intersect1d(known, _frequent(labels[new]))
    tested = np.flatnonzero(new & np.isin(labels, scored))
    numbers = [number for number in numbers if len(tested) >= number + _LEAST_OTHERS]
    if len(scored) < 2 or not numbers:
        return
    rng = np.random.default_rng(seed)
    cells = cells._replace(labels=np.searchsorted(known, labels))
    trained = np.flatnonzero(~new & np.isin(labels, known))
    trained = trained[some_of_each(labels[trained], domains[trained], _MOST_OF_A_CLASS, rng)]
    training, n_others = cells.take(trained), len(np.unique(domains[trained]))
    cells = cells.take(tested)
    plain = clone(classifier).fit(training.features, training.labels).predict_proba(cells.features)
    for number in numbers:
        for chosen in ("random", "informative") if number else ("none",):
            for draw in range(n_draws if number else 1):
                pool = _to_choose_from(cells, number, rng)
                rows = rng.permutation(pool)[:number]
                if chosen == "informative":
                    rows = pool[cells_to_label(cells.features[pool], plain[pool], number, random_state=seed + draw)]
                others = _cells_of_others(cells, rows)
                if len(others) < _LEAST_OTHERS:
                    continue
                answers = plain[others]
                if number:
                    few = [cells.take(rows)]
                    fitted, (temperature,) = fit_with_few(classifier, training, n_others, few, seed=seed + draw)
                    answers = tempered(fitted.predict_proba(cells.features[others]), temperature)
                told = {"label": cells.labels[others], "predicted": answers.argmax(1), "confidence": answers.max(1)}
                scores = scores_of_cells(pd.DataFrame(told).assign(known=True))
                yield [name, chosen, number, draw, len(others), scores["balanced_accuracy"], scores["ece"]]


def _frequent(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the classes that have enough cells to take part."""
    classes, counts = np.unique(labels, return_counts=True)
    return classes[counts >= _LEAST_OF_A_CLASS]


def _to_choose_from(cells: Labelled, number: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the rows of half of the patients, or of as many as have enough cells; all rows if none is known."""
    if cells.groups is None:
        return np.arange(len(cells.labels))
    names = rng.permutation(np.unique(cells.groups))
    n_cells = pd.Series(cells.groups).value_counts()[names].cumsum()
    n = max(len(names) // 2, int(np.searchsorted(n_cells, number)) + 1)
    return np.flatnonzero(np.isin(cells.groups, names[:n]))


def _cells_of_others(cells: Labelled, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return all rows except these and those of the same patients."""
    if cells.groups is None:
        return np.setdiff1d(np.arange(len(cells.labels)), rows)
    return np.flatnonzero(~np.isin(cells.groups, cells.groups[rows]))


def _weighted(few: Labelled, n_of_a_laboratory: float) -> Labelled:
    """Return the labelled cells of a new laboratory, each repeated by its weight."""
    times = max(_LEAST_WEIGHT, round(n_of_a_laboratory / len(few.labels)))
    return Labelled(np.repeat(few.features, times, axis=0), np.repeat(few.labels, times))


def _temperature(fit: Callable[[Labelled], Any], few: Labelled, seed: int) -> float:
    """Return the temperature with the highest likelihood of held-out labelled cells (Guo et al., ICML 2017).

    Each fold of them is answered by a classifier that was fitted on the others. No fold splits a patient.
    `CalibratedClassifierCV` would also hold out training cells, which outnumber the labelled cells.

    A few cells say little about the temperature, so a normal prior keeps its logarithm near 0, and nearer with fewer
    cells. Otherwise a few cells that are all classified correctly would make every answer nearly certain.
    """
    n = len(few.labels)
    n_folds = 5 if few.groups is None else min(5, len(np.unique(few.groups)))
    if n < ENOUGH_FOR_TEMPERATURE or n_folds < 2:
        return 1.0
    folds = KFold(n_folds, shuffle=True, random_state=seed) if few.groups is None else GroupKFold(n_folds)
    held_out = np.empty((n, 0))
    for kept, left in folds.split(few.features, groups=few.groups):
        fitted = fit(few.take(kept))
        if not held_out.size:
            held_out = np.empty((n, len(fitted.classes_)))
        held_out[left] = fitted.predict_proba(few.features[left])
    places = np.searchsorted(fitted.classes_, few.labels)

    def unlikelihood(log_temperature: float) -> float:
        found = tempered(held_out, float(np.exp(log_temperature)))[np.arange(n), places]
        prior = (log_temperature / _SPREAD_OF_TEMPERATURE) ** 2 / 2
        return float(prior - np.log(np.maximum(found, 1e-12)).sum())

    return float(np.exp(minimize_scalar(unlikelihood, bounds=(np.log(0.25), np.log(4)), method="bounded").x))
