"""The distance between laboratories in feature space, and pairs of images that look duplicated."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from .checks import cell_columns, check_arguments, seed_of

_MAX_COMPARED = 1000  # cells of a domain in `domain_shift`, where memory grows with the square of their number
_LEAST_CELLS = 5  # of a domain: one for each fold


def domain_shift(
    features: Any, domain: Any, *, y: Any = None, random_state: Any = None
) -> dict[str, float] | pd.DataFrame:
    """Measure how far domains lie apart in a feature space.

    Where domains hold different mixtures of cell types, a part of the distance comes from that, whatever the features.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Standardised here; at most 1,000 cells of each domain are used, drawn at random.
    domain : array-like of shape (n_samples,)
        At least two domains, of at least 5 cells each.
    y : array-like of shape (n_samples,), optional
        Class of each cell. If passed, each class is also measured by itself, where mixtures play no part.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    dict of str to float
        ``"mmd"``: squared maximum mean discrepancy (`sam_bloodcell.models.alignment.mmd`), 0 for equal distributions;
        ``"domain_accuracy"``: balanced accuracy of a logistic regression that predicts the domain, 5-fold;
        ``"chance"``: that of a constant answer. With `y` a DataFrame of these and ``n``, the cells: a row for "all"
        and for every class that has 5 cells in at least two domains (domains with fewer are left out of that row).

    Raises
    ------
    ValueError
        If there are fewer than two domains or 5 cells of one, lengths differ, or a feature is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.evaluation import domain_shift
    >>> features = np.r_[np.random.default_rng(0).normal(size=(40, 3)), np.full((40, 3), 9.0)]
    >>> domain_shift(features, ["a"] * 40 + ["b"] * 40, random_state=0)["domain_accuracy"]
    1.0
    """
    check_arguments("domain_shift", random_state=random_state)
    features = check_array(features, dtype=np.float64, input_name="features")
    (domains,) = cell_columns(len(features), domain=domain)
    seed = seed_of(random_state)
    if y is None:
        return _shift(features, domains, seed)
    domains, labels = cell_columns(len(features), domain=domains, y=y)
    rows = {"all": {**_shift(features, domains, seed), "n": len(domains)}}
    for name in np.unique(labels).tolist():
        members = labels == name
        present, counts = np.unique(domains[members], return_counts=True)
        members &= np.isin(domains, present[counts >= _LEAST_CELLS])
        if (counts >= _LEAST_CELLS).sum() >= 2:
            rows[str(name)] = {**_shift(features[members], domains[members], seed), "n": int(members.sum())}
    return pd.DataFrame(rows).T.astype({"n": int})


def _shift(features: NDArray[np.float64], domains: NDArray, seed: int) -> dict[str, float]:
    import torch

    from ..models.alignment import mmd

    names, codes, counts = np.unique(domains, return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.min() < _LEAST_CELLS:
        found = dict(zip(names.tolist(), counts.tolist(), strict=True))
        expected = f"at least two domains of at least {_LEAST_CELLS} cells each"
        raise ValueError(f"Got {found} cells by domain but expected {expected}. Fix: leave small domains out.")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    rows = np.concatenate([rng.permutation(own)[:_MAX_COMPARED] for own in members])
    scaled, codes = StandardScaler().fit_transform(features[rows]), codes[rows]
    guess = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    distance = float(mmd(torch.from_numpy(scaled), torch.from_numpy(codes)))
    accuracy = float(cross_val_score(guess, scaled, codes, cv=folds, scoring="balanced_accuracy").mean())
    return {"mmd": distance, "domain_accuracy": accuracy, "chance": 1 / len(names)}


def near_duplicates(embeddings: Any, *, threshold: float | str = "auto") -> pd.DataFrame:
    """Find pairs of images that look duplicated: one is the other scaled, turned or saved again.

    Copies in different folds or laboratories make scores too good. Each cell is compared with its 5 nearest neighbours.

    Parameters
    ----------
    embeddings : array-like of shape (n_samples, n_features)
        Standardised here.
    threshold : float or "auto", default="auto"
        Greatest distance of a pair, as a share of the median distance between cells; at least 0. "auto" is 0.08 for 16
        features or more: with `vit_tiny`, the closest two of 600 real cells were 0.12 apart, while copies saved again
        as JPEG, halved or turned were, in the median, 0.03 to 0.07 apart. With fewer features cells come close by
        chance, so "auto" is 0 and only equal rows count.

    Returns
    -------
    pandas.DataFrame
        ``a`` and ``b``, the row numbers of a pair, each pair once, and their ``distance``; the closest pair first.

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
    scaled = StandardScaler().fit_transform(embeddings)
    greatest = (0.08 if scaled.shape[1] >= 16 else 0.0) if threshold == "auto" else threshold
    sample = scaled[np.random.default_rng(0).permutation(len(scaled))[:_MAX_COMPARED]]
    median = float(np.median(pdist(sample))) if len(sample) > 1 else 0.0
    n_neighbors = min(6, len(scaled))
    distance, neighbour = NearestNeighbors(n_neighbors=n_neighbors).fit(scaled).kneighbors(scaled)
    a, b = np.sort([np.repeat(np.arange(len(scaled)), n_neighbors), neighbour.ravel()], axis=0)
    table = pd.DataFrame({"a": a, "b": b, "distance": distance.ravel() / (median or 1.0)})
    table = table[(a != b) & (table["distance"] <= greatest)].drop_duplicates(["a", "b"])
    return table.sort_values("distance", ignore_index=True)
