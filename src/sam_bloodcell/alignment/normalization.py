"""Normalisation by domain without labels: statistics of the inputs, and shifts of clusters of features."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight


@dataclass
class DomainScaler:
    """Standardise channels by the statistics of each row's domain, or by the `overall` statistics without a domain.

    A domain of None is unknown, for a row or for all rows.
    """

    statistics: dict[Hashable, StandardScaler] = field(default_factory=dict)
    added: set[Hashable] = field(default_factory=set)  # domains that were not in the fit

    def update(self, values: NDArray, domain: NDArray | None) -> None:
        """Add (n, C) or (n, C, h, w) rows to the statistics; without `domain`, they all belong to domain None."""
        for name, rows in rows_by_domain(domain, len(values)):
            # Every token of a token map is a sample. StandardScaler sums in float64 for every type of values.
            samples = np.moveaxis(values[rows], 1, -1).reshape(-1, values.shape[1])
            self.statistics.setdefault(name, StandardScaler()).partial_fit(samples)

    def overall(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and variance of each channel, as averages over the domains of the fit with equal weights."""
        known = [part for name, part in self.statistics.items() if name not in self.added]
        return np.mean([part.mean_ for part in known], axis=0), np.mean([part.var_ for part in known], axis=0)

    def spread(self, name: Hashable) -> float:
        """Return a domain's variance divided by that of a domain of the fit, as a mean over channels that vary."""
        variance = self.overall()[1]
        varies = variance > 0
        return float(np.mean(self.statistics[name].var_[varies] / variance[varies])) if varies.any() else 1.0

    def including(self, parts: Iterable[tuple[NDArray, NDArray]]) -> "DomainScaler":
        """Return a scaler that also knows the new domains in `parts` of (values, domain).

        The statistics of a new domain are those of its rows, combined with the overall statistics at the weight of one
        row, so that even a domain of a single row has a variance.
        """
        added = DomainScaler()
        overall = self.overall()
        for values, domain in parts:
            for name, rows in rows_by_domain(domain, len(values)):
                if name is not None and name not in self.statistics:
                    added.statistics.setdefault(name, _known_statistics(values[0, 0].size, *overall))
                    added.update(values[rows], domain[rows])
        return DomainScaler(self.statistics | added.statistics, self.added | added.statistics.keys())

    def scale(self, values: NDArray, domain: NDArray | None, *, undo: bool = False) -> NDArray[np.float32]:
        """Return a standardised float32 copy of (n, C) or (n, C, h, w) values; `undo` reverses this."""
        changed = np.empty(values.shape, np.float32)
        shape = (1, -1) + (1,) * (values.ndim - 2)
        for name, rows in rows_by_domain(domain, len(values)):
            known = None if name is None else self.statistics[name]
            mean, variance = self.overall() if known is None else (known.mean_, known.var_)
            deviation = np.sqrt(variance)
            # A constant channel is centred but not scaled.
            deviation[deviation <= 1e-12 * np.abs(mean)] = 1.0
            part = values[rows]
            dtype = np.promote_types(part.dtype, np.float32)
            mean, deviation = (array.reshape(shape).astype(dtype) for array in (mean, deviation))
            part = part.astype(dtype, copy=False)
            changed[rows] = part * deviation + mean if undo else (part - mean) / deviation
        return changed

    def to_plain(self) -> list[dict[str, Any]]:
        """Return plain values and arrays, one dict for each domain."""
        return [
            {
                "domain": name,
                "added": name in self.added,
                "count": int(part.n_samples_seen_),
                "mean": part.mean_,
                "variance": part.var_,
            }
            for name, part in self.statistics.items()
        ]

    @classmethod
    def from_plain(cls, plain: Iterable[Mapping[str, Any]]) -> "DomainScaler":
        """Undo `to_plain`."""
        parts = list(plain)
        statistics = {
            part["domain"]: _known_statistics(part["count"], part["mean"], part["variance"]) for part in parts
        }
        return cls(statistics, {part["domain"] for part in parts if part.get("added")})


@dataclass
class ClusterShifts:
    """Subtract, cluster by cluster, the offset of each domain's cells from those of the other domains.

    Domains with different mixtures of cell types should have different means. k-means over the cells of all domains,
    with equal weights of the domains, finds clusters of similar cells without labels. In every cluster, each domain's
    mean is moved to the mean over the domains. Cells have soft memberships, and a domain with few cells in a cluster is
    moved little. This is one round of Harmony (Korsunsky et al., Nature Methods 2019) without its diversity penalty.
    """

    centres: NDArray[np.float64]  # (K, F)
    temperature: float  # squared distance from a centre at which membership falls by a factor of e
    means: NDArray[np.float64]  # (K, F), each domain weighing the same
    shifts: dict[Hashable, NDArray[np.float64]]  # (K, F) for each domain: offset of its cells from the means

    @classmethod
    def fit(cls, features: NDArray, domain: NDArray, seed: int) -> "ClusterShifts":
        """Find the clusters and shifts of (n, F) features of one or more domains."""
        features = features.astype(np.float64)
        groups = rows_by_domain(domain, len(features))
        weight = compute_sample_weight("balanced", domain)
        count = min(4, len(np.unique(features, axis=0)))
        clusters = KMeans(count, n_init=4, random_state=seed).fit(features, sample_weight=weight)
        nearest = np.square(features - clusters.cluster_centers_[clusters.labels_]).sum(1)
        found = cls(clusters.cluster_centers_, max(nearest.mean() / 2, 1e-12), clusters.cluster_centers_, {})
        parts = [found._mass_and_sum(features[rows]) for _, rows in groups]
        found.means = np.mean([total / (mass + 1e-9) for mass, total in parts], axis=0)
        found.shifts = {name: found._shift(*part) for (name, _), part in zip(groups, parts, strict=True)}
        return found

    def correct(self, features: NDArray[np.float32], domain: NDArray) -> NDArray[np.float32]:
        """Return shifted (n, F) features; the shift of a domain that was not in the fit is computed from its rows here.

        Rows of an unknown domain (None) do not change.
        """
        corrected = features.copy()
        for name, rows in rows_by_domain(domain, len(features)):
            if name is None:
                continue
            shift = self.shifts.get(name)
            if shift is None:
                shift = self.shift_of(features[rows])
            corrected[rows] -= (self._membership(features[rows]) @ shift).astype(np.float32)
        return corrected

    def shift_of(self, features: NDArray) -> NDArray[np.float64]:
        """Return the offset of a domain's cells in each cluster, (K, F)."""
        return self._shift(*self._mass_and_sum(features))

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and arrays."""
        return vars(self) | {"shifts": [{"domain": name, "shift": shift} for name, shift in self.shifts.items()]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ClusterShifts":
        """Undo `to_plain`."""
        shifts = {part["domain"]: np.asarray(part["shift"]) for part in plain["shifts"]}
        return cls(np.asarray(plain["centres"]), plain["temperature"], np.asarray(plain["means"]), shifts)

    def _membership(self, features: NDArray) -> NDArray[np.float64]:
        """Return the share (n, K) of each cell in each cluster; the shares of a cell sum to 1."""
        return softmax(-cdist(features, self.centres, "sqeuclidean") / self.temperature, axis=1)

    def _mass_and_sum(self, features: NDArray) -> tuple[NDArray, NDArray]:
        """Return the sum of the shares (K, 1), and of the features weighted by them (K, F)."""
        membership = self._membership(features)
        return membership.sum(0)[:, None], membership.T @ features

    def _shift(self, mass: NDArray, total: NDArray) -> NDArray:
        # Ten imaginary cells without a shift keep a domain with few cells in a cluster nearly unchanged.
        return (total - mass * self.means) / (mass + 10.0)


def rows_by_domain(domain: NDArray | None, n: int) -> list[tuple[Hashable, Any]]:
    """List the domains with an index of their rows among n; rows without a domain belong to None, which is last."""
    if domain is None:
        return [(None, slice(None))]
    known = pd.notna(domain)
    groups: list[tuple[Hashable, Any]] = [
        (name, np.flatnonzero(domain == name)) for name in known_domains(domain).tolist()
    ]
    return groups if known.all() else [*groups, (None, np.flatnonzero(~known))]


def known_domains(domain: NDArray | None) -> NDArray:
    """Return the sorted names of the domains of these rows, without None."""
    return np.array([]) if domain is None else np.unique(domain[pd.notna(domain)])


def _known_statistics(count: int, mean: ArrayLike, variance: ArrayLike) -> StandardScaler:
    """Make a StandardScaler from statistics that `partial_fit` then continues."""
    scaler = StandardScaler()
    scaler.n_samples_seen_ = np.int64(count)
    scaler.mean_, scaler.var_ = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    scaler.scale_ = np.sqrt(scaler.var_)  # without it, partial_fit would restart
    return scaler
