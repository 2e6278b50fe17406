"""How far laboratories lie apart, and which cells are copies of one another."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from .checks import check_arguments, check_lengths, label_column, seed_of

_MAX_COMPARED = 1000  # cells a laboratory in `domain_shift`, whose kernels grow with the square


def domain_shift(
    features: Any, domain: Any, *, y: Any = None, random_state: Any = None
) -> dict[str, float] | pd.DataFrame:
    """How far laboratories lie apart in a feature space.

    Laboratories whose mixtures of cell types differ are told apart in part by that, whatever the features.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Standardised here; at most 1,000 cells of each domain are looked at, drawn at random.
    domain : array-like of shape (n_samples,)
        At least two domains, of at least 5 cells each.
    y : array-like of shape (n_samples,), optional
        Class of each cell: look at each class by itself too, so that unlike mixtures of cell types do not count.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    dict of str to float
        ``"mmd"``: squared maximum mean discrepancy (`sam_bloodcell.models.alignment.mmd`), 0 for equal distributions;
        ``"domain_accuracy"``: balanced accuracy of a logistic regression that guesses the domain, 5-fold;
        ``"chance"``: that of a constant answer. With `y` a DataFrame: these, a row for "all" and for every class that
        has 5 cells in at least two domains (domains with fewer are left out of that row), and ``n``, the cells.

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
    import torch

    from ..models.alignment import mmd

    check_arguments("domain_shift", random_state=random_state)
    features = check_array(features, dtype=np.float64, input_name="features")
    labs = label_column(domain, "domain")
    if y is not None:
        return _shift_by_class(features, labs, label_column(y, "y"), random_state)
    check_lengths(len(features), domain=labs)
    names, codes, counts = np.unique(labs, return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.min() < 5:
        raise ValueError(
            f"Got {dict(zip(names.tolist(), counts.tolist(), strict=True))} cells by domain but expected at least two "
            "domains of at least 5 cells each; leave small domains out."
        )
    rng = np.random.default_rng(seed_of(random_state))
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(codes == code))[:_MAX_COMPARED] for code in range(len(names))]
    )
    scaled, codes = StandardScaler().fit_transform(features[rows]), codes[rows]
    guess = LogisticRegression(max_iter=2000, class_weight="balanced")
    folds = StratifiedKFold(5, shuffle=True, random_state=seed_of(random_state))
    accuracy = cross_val_score(
        make_pipeline(StandardScaler(), guess), scaled, codes, cv=folds, scoring="balanced_accuracy"
    )
    return {
        "mmd": float(mmd(torch.from_numpy(scaled), torch.from_numpy(codes))),
        "domain_accuracy": float(accuracy.mean()),
        "chance": 1 / len(names),
    }


def near_duplicates(embeddings: Any, *, threshold: float | str = "auto") -> pd.DataFrame:
    """Find cells whose embeddings all but coincide: copies of an image, scaled, turned or saved again.

    Two copies in different folds or laboratories make scores too good. Each cell is compared with its nearest ones.

    Parameters
    ----------
    embeddings : array-like of shape (n_samples, n_features)
        Standardised here.
    threshold : float or "auto", default="auto"
        Greatest distance that counts, as a share of the median distance between cells. "auto" is 0.08 from 16 features
        on: with `vit_tiny`, of 600 real cells the closest two were 0.12 apart, while copies saved again as JPEG,
        halved or turned were, in the median, 0.03 to 0.07. With fewer features cells come close by chance, and only
        equal rows count.

    Returns
    -------
    pandas.DataFrame
        ``a`` and ``b``, two rows, each couple once, and their ``distance``; the closest first.

    Raises
    ------
    ValueError
        If there is no cell, a feature is missing, or the threshold is negative.

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
    least = (0.08 if scaled.shape[1] >= 16 else 0.0) if threshold == "auto" else threshold
    sample = scaled[np.random.default_rng(0).permutation(len(scaled))[:_MAX_COMPARED]]
    median = float(np.median(pdist(sample))) if len(sample) > 1 else 0.0
    n_neighbors = min(6, len(scaled))
    distance, neighbour = NearestNeighbors(n_neighbors=n_neighbors).fit(scaled).kneighbors(scaled)
    rows = np.repeat(np.arange(len(scaled)), n_neighbors)
    table = pd.DataFrame(
        {
            "a": np.minimum(rows, neighbour.ravel()),
            "b": np.maximum(rows, neighbour.ravel()),
            "distance": distance.ravel() / (median or 1.0),
        }
    )
    table = table[(table["a"] != table["b"]) & (table["distance"] <= least)].drop_duplicates(["a", "b"])
    return table.sort_values("distance", ignore_index=True)


def _shift_by_class(features: np.ndarray, labs: np.ndarray, labels: np.ndarray, random_state: Any) -> pd.DataFrame:
    check_lengths(len(features), domain=labs, y=labels)
    seed = seed_of(random_state)
    rows = {"all": {**domain_shift(features, labs, random_state=seed), "n": len(labs)}}
    for name in np.unique(labels).tolist():
        members = labels == name
        domains, counts = np.unique(labs[members], return_counts=True)
        members &= np.isin(labs, domains[counts >= 5])
        if (counts >= 5).sum() >= 2:
            found = domain_shift(features[members], labs[members], random_state=seed)
            rows[str(name)] = {**found, "n": int(members.sum())}
    return pd.DataFrame(rows).T.astype({"n": int})
