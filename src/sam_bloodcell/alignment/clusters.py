"""Moving the features of each domain, cluster by cluster, onto those of the others."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from .scaling import rows_by_domain


class ClusterShifts:
    """Subtract, cluster by cluster, how far each domain's cells lie from those of the others.

    Domains differ in how many cells of each type they hold, and then their means should differ. k-means over the cells
    of all domains, each domain weighing the same, finds clusters of like cells without a label. In every cluster, each
    domain's mean is moved to the mean over the domains. Cells belong to clusters softly, and a domain with few cells in
    a cluster is moved little.

    Parameters
    ----------
    centres : array of shape (K, F)
        Centres of the clusters.
    temperature : float
        Squared distance from a centre over which membership falls by a factor of e.
    means : array of shape (K, F)
        Mean of each cluster, each domain weighing the same.
    shifts : mapping of domain to array of shape (K, F)
        How far each domain's cells lie from the means.

    References
    ----------
    After Korsunsky et al., "Fast, sensitive and accurate integration of single-cell data with Harmony", Nature Methods
    2019: one round of it, without the diversity penalty.
    """

    N_CLUSTERS = 4
    PRIOR_CELLS = 10.0

    def __init__(
        self, centres: NDArray, temperature: float, means: NDArray, shifts: Mapping[Hashable, NDArray]
    ) -> None:
        self.centres = np.asarray(centres, np.float64)
        self.temperature = temperature
        self.means = np.asarray(means, np.float64)
        self.shifts = {name: np.asarray(shift, np.float64) for name, shift in shifts.items()}

    @classmethod
    def fit(cls, features: NDArray, domain: NDArray, seed: int) -> "ClusterShifts":
        """Find the clusters and shifts of (n, F) features of at least two domains."""
        features = features.astype(np.float64)
        groups = rows_by_domain(domain, len(features))
        weight = np.empty(len(features))
        for _, rows in groups:
            weight[rows] = 1 / len(rows)
        count = min(cls.N_CLUSTERS, len(np.unique(features, axis=0)))
        clusters = KMeans(count, n_init=4, random_state=seed).fit(features, sample_weight=weight)
        nearest = np.square(features - clusters.cluster_centers_[clusters.labels_]).sum(1)
        found = cls(clusters.cluster_centers_, max(nearest.mean() / 2, 1e-12), clusters.cluster_centers_, {})
        parts = [found._mass_and_sum(features[rows]) for _, rows in groups]
        found.means = np.mean([total / (mass + 1e-9) for mass, total in parts], axis=0)
        found.shifts = {name: found._shift(*part) for (name, _), part in zip(groups, parts, strict=True)}
        return found

    def correct(self, features: NDArray[np.float32], domain: NDArray) -> NDArray[np.float32]:
        """Return (n, F) features after the move; a domain that was not in the fit is moved by its rows given here."""
        corrected = features.copy()
        for name, rows in rows_by_domain(domain, len(features)):
            shift = self.shifts.get(name)
            if shift is None:
                shift = self._shift(*self._mass_and_sum(features[rows]))
            corrected[rows] -= (self._membership(features[rows]) @ shift).astype(np.float32)
        return corrected

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and arrays."""
        shifts = [{"domain": name, "shift": shift} for name, shift in self.shifts.items()]
        return vars(self) | {"shifts": shifts}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ClusterShifts":
        """Undo `to_plain`."""
        return cls(**dict(plain) | {"shifts": {part["domain"]: part["shift"] for part in plain["shifts"]}})

    def _membership(self, features: NDArray) -> NDArray[np.float64]:
        """Share (n, K) of each cell in each cluster; the shares of a cell add up to 1."""
        squared = np.stack([np.square(features - centre).sum(1) for centre in self.centres], axis=1)
        share = np.exp((squared.min(1, keepdims=True) - squared) / self.temperature)
        return share / share.sum(1, keepdims=True)

    def _mass_and_sum(self, features: NDArray) -> tuple[NDArray, NDArray]:
        """Sum of the shares (K, 1) and of the features weighted by them (K, F)."""
        membership = self._membership(features)
        return membership.sum(0)[:, None], membership.T @ features

    def _shift(self, mass: NDArray, total: NDArray) -> NDArray:
        return (total - mass * self.means) / (mass + self.PRIOR_CELLS)
