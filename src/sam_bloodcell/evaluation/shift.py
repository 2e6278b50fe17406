"""The distance between laboratories in feature space, and pairs of images that look duplicated."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from ..embedding.embeddings import without_domain
from ..exceptions import warn_caller
from .checks import cell_columns, check_arguments, domain_of, seed_of

_MAX_COMPARED = 1000  # cells of a domain in `domain_shift`, where memory grows with the square of their number
_LEAST_CELLS = 5  # of a domain: one for each fold
_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # squared widths of the kernels, in mean squared distances, as in training


def domain_shift(features: Any, domain: Any = None, *, y: Any = None, random_state: Any = None) -> pd.DataFrame:
    """Measure the distance between domains in a feature space.

    If domains have different mixtures of cell types, part of the distance comes from the mixtures.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Features of the cells. The function standardises them and draws at most 1,000 cells of each domain at random.
    domain : array-like of shape (n_samples,), optional
        Laboratory of each cell, by default ``features.domain`` of `CellEmbeddings`. At least two domains must have at
        least 5 cells each. Smaller domains are left out, with a warning if `y` is not passed.
    y : array-like of shape (n_samples,), optional
        Class of each cell. If passed, each class is also measured separately, so that mixtures do not matter.
    random_state : int, RandomState instance or None, default=None
        Seed of the random draw and of the folds.

    Returns
    -------
    pandas.DataFrame
        A row "all" and, with `y`, a row per class that has 5 cells in at least two domains. The columns are:

        - ``mmd``: an unbiased estimate of the squared maximum mean discrepancy under a mean of five Gaussian kernels,
          whose squared widths are 1/4 to 4 times the mean squared distance between cells (Gretton et al., JMLR 2012),
          averaged over the pairs of domains. It is 0 on average if distributions are equal, so single estimates may be
          negative.
        - ``domain_accuracy``: the balanced accuracy of a logistic regression that predicts the domain, in 5 folds.
        - ``chance``: the balanced accuracy of a constant answer.
        - ``n``: the number of cells.

        With `y`, the row "all" is NaN with ``n`` = 0 if fewer than two domains have 5 cells. A class with the name
        "all" has the row "all (class)".

    Raises
    ------
    ValueError
        If `y` is not passed and fewer than two domains have 5 cells, if lengths differ, or if a feature is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.evaluation import domain_shift
    >>> features = np.r_[np.random.default_rng(0).normal(size=(40, 3)), np.full((40, 3), 9.0)]
    >>> domain_shift(features, ["a"] * 40 + ["b"] * 40, random_state=0)["domain_accuracy"].to_dict()
    {'all': 1.0}
    """
    check_arguments("domain_shift", random_state=random_state)
    domain = domain_of(features, domain)
    features = check_array(without_domain(features), dtype=np.float64, input_name="features")
    (domains,) = cell_columns(len(features), domain=domain)
    (labels,) = [None] if y is None else cell_columns(len(features), y=y)
    seed = seed_of(random_state)
    if labels is None:
        _check_sizes(domains)
    rows = {"all": _shift(features, domains, seed)}
    for name in [] if labels is None else np.unique(labels).tolist():
        members = labels == name
        found, n = _shift(features[members], domains[members], seed)
        if n:
            rows["all (class)" if str(name) == "all" else str(name)] = found, n
    return pd.DataFrame({name: {**found, "n": n} for name, (found, n) in rows.items()}).T.astype({"n": int})


def _check_sizes(domains: NDArray) -> None:
    """Raise unless two domains have enough cells, and warn of the others."""
    names, counts = np.unique(domains, return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    small = [f"{name!r} ({n})" for name, n in found.items() if n < _LEAST_CELLS]
    if len(found) - len(small) < 2:
        expected = f"at least two domains of at least {_LEAST_CELLS} cells each"
        raise ValueError(f"Got {found} cells by domain but expected {expected}. Fix: add cells.")
    if small:
        warn_caller(f"Left out domains of fewer than {_LEAST_CELLS} cells: {', '.join(small)}. Fix: add cells of them.")


def _shift(features: NDArray[np.float64], domains: NDArray, seed: int) -> tuple[dict[str, float], int]:
    """Compare the domains that have enough cells, and count their cells; NaN and 0 if there are fewer than two."""
    names, codes, counts = np.unique(domains, return_inverse=True, return_counts=True)
    members = [np.flatnonzero(codes == code) for code in range(len(names)) if counts[code] >= _LEAST_CELLS]
    if len(members) < 2:
        return dict.fromkeys(("mmd", "domain_accuracy", "chance"), np.nan), 0
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(own)[:_MAX_COMPARED] for own in members])
    scaled, codes = StandardScaler().fit_transform(features[rows]), codes[rows]
    guess = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    distance = np.mean([_unbiased_mmd(scaled[codes == a], scaled[codes == b]) for a, b in combinations(set(codes), 2)])
    accuracy = cross_val_score(guess, scaled, codes, cv=folds, scoring="balanced_accuracy").mean()
    found = {"mmd": float(distance), "domain_accuracy": float(accuracy), "chance": 1 / len(members)}
    return found, sum(map(len, members))


def _unbiased_mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Estimate the squared maximum mean discrepancy of samples (n, F) and (m, F) without bias.

    No cell is compared with itself.
    """
    both, n, m = np.concatenate([a, b]), len(a), len(b)
    squared = euclidean_distances(both, squared=True)  # (n + m, n + m); the matrix product needs no array per feature
    unit = max(float(squared.mean()), 1e-12)
    kernel = np.zeros_like(squared)
    for width in _WIDTHS:
        kernel += np.exp(squared / (-width * unit)) / len(_WIDTHS)
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))  # without the diagonal of ones
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())


def near_duplicates(
    embeddings: Any, reference: Any | None = None, *, threshold: float | str = "auto"
) -> pd.DataFrame:  # fmt: skip
    """Find pairs of duplicate images: images that look like scaled or re-encoded versions of each other.

    Duplicates in different folds or laboratories make scores too high. Each cell is compared with its 5 nearest
    neighbours.

    Parameters
    ----------
    embeddings : array-like of shape (n_samples, n_features)
        Embeddings of the cells. The function standardises them.
    reference : array-like of shape (n_reference, n_features), optional
        Other cells, such as training cells. If passed, each cell is compared with these instead of the other cells of
        `embeddings`, and distances are measured on the scale of `reference`.
    threshold : float or "auto", default="auto"
        Greatest distance of a pair, as a share of the median distance between cells; at least 0. "auto" is 0.08 for 16
        features or more: with `vit_tiny`, the closest two of 600 real cells were 0.25 apart, while copies saved again
        as JPEG or halved had a median distance of 0.02 and 0.03. Copies that were turned by 90 degrees were 0.17 apart
        and are not found. With fewer features, different cells are close by chance, so "auto" is 0 and only equal rows
        count.

    Returns
    -------
    pandas.DataFrame
        A row per pair, the closest pair first: ``a`` and ``b``, the row numbers of the two cells, and their
        ``distance``. With `reference`, ``b`` is a row of `reference`.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.evaluation import near_duplicates
    >>> cells = np.random.default_rng(0).normal(size=(20, 32))
    >>> cells[7] = cells[3] + 1e-3
    >>> near_duplicates(cells)[["a", "b"]].to_numpy().tolist()
    [[3, 7]]
    """
    check_arguments("near_duplicates", threshold=threshold)
    embeddings = check_array(embeddings, dtype=np.float64, input_name="embeddings")
    others = embeddings if reference is None else check_array(reference, dtype=np.float64, input_name="reference")
    if embeddings.shape[1] != others.shape[1]:
        fix = "Fix: pass embeddings of the same backbone."
        found = f"embeddings of {embeddings.shape[1]} features and a reference of {others.shape[1]}"
        raise ValueError(f"Got {found} but expected the same number of features. {fix}")
    scaler = StandardScaler().fit(others)
    scaled, others = scaler.transform(embeddings), scaler.transform(others)
    greatest = (0.08 if scaled.shape[1] >= 16 else 0.0) if threshold == "auto" else threshold
    sample = others[np.random.default_rng(0).permutation(len(others))[:_MAX_COMPARED]]
    median = float(np.median(pdist(sample))) if len(sample) > 1 else 0.0
    n_neighbors = min(5 + (reference is None), len(others))  # without a reference, each cell is its own neighbour
    neighbour = NearestNeighbors(n_neighbors=n_neighbors).fit(others).kneighbors(scaled, return_distance=False)
    # Measured again, because the matrix products of the search give equal rows a small distance.
    distance = np.stack([np.linalg.norm(scaled - others[near], axis=1) for near in neighbour.T], axis=1)
    pairs = np.stack([np.repeat(np.arange(len(scaled)), n_neighbors), neighbour.ravel()])
    a, b = np.sort(pairs, axis=0) if reference is None else pairs
    table = pd.DataFrame({"a": a, "b": b, "distance": distance.ravel() / (median or 1.0)})
    itself = (a == b) & (reference is None)
    table = table[~itself & (table["distance"] <= greatest)].drop_duplicates(["a", "b"])
    return table.sort_values("distance", ignore_index=True, kind="stable")
