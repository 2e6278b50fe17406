"""What is known of each laboratory without a label: mean and standard deviation of every channel."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans


def domain_column(domain: ArrayLike, n: int) -> NDArray[Any]:
    """One laboratory a row, checked.

    Raises
    ------
    ValueError
        If its length is not n or a value is missing.
    """
    values = np.asarray(domain)
    if values.shape != (n,):
        raise ValueError(
            f"Got domain of shape {values.shape} but expected ({n},), one laboratory per row of X. "
            "Fix: pass the domain column of the same rows."
        )
    missing = np.flatnonzero(pd.isna(values))
    if len(missing):
        raise ValueError(f"Row {missing[0]}: domain is missing. Fix: name its laboratory or leave the cell out.")
    return values


def balanced_batches(
    codes: NDArray[np.int64], size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of `steps` batches of about `size`, the same number of every laboratory in each.

    A laboratory's cells are gone through in random order, from the start again when it has too few.
    """
    groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    share = max(1, min(size, len(codes)) // len(groups))
    streams = [
        np.concatenate([rng.permutation(group) for _ in range(-(-steps * share // len(group)))]) for group in groups
    ]
    for start in range(0, steps * share, share):
        yield np.concatenate([stream[start : start + share] for stream in streams])


class Moments:
    """Count, mean and sum of squared deviations of channels, gathered part by part in float64.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983 (the merging of parts).
    """

    def __init__(self, count: float = 0.0, mean: ArrayLike = 0.0, squares: ArrayLike = 0.0) -> None:
        self.count = count
        self.mean = np.asarray(mean, np.float64)
        self.squares = np.asarray(squares, np.float64)

    @classmethod
    def of(cls, values: NDArray) -> "Moments":
        """Moments over every axis but the second."""
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        mean = values.mean(axes, dtype=np.float64)
        count = values.size // values.shape[1]
        return cls(count, mean, values.var(axes, dtype=np.float64) * count)

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        if count == 0:
            return self
        shift, share = other.mean - self.mean, other.count / count
        squares = self.squares + other.squares + shift**2 * self.count * share
        return Moments(count, self.mean + shift * share, squares)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each channel."""
        return self.squares / max(self.count, 1.0)


class DomainScaler:
    """Standardise channels by the statistics of each row's own laboratory.

    Without a domain, rows are scaled by the `overall` statistics: means over the laboratories of the fit, each weighing
    the same, of their means and variances.

    Parameters
    ----------
    moments : mapping of domain to Moments
    """

    def __init__(self, moments: Mapping[Hashable, Moments] | None = None) -> None:
        self.moments = dict(moments or {})

    def update(self, values: NDArray, domain: NDArray | None) -> None:
        """Take in more rows, (n, C) or (n, C, h, w); with `domain=None` they are all of one laboratory, None."""
        for name, rows in _groups(domain, len(values)):
            self.moments[name] = self.moments.get(name, Moments()) + Moments.of(values[rows])

    def overall(self) -> Moments:
        """Statistics of a laboratory of which nothing is known, as one value a channel."""
        known = list(self.moments.values())
        mean = np.mean([moments.mean for moments in known], axis=0)
        return Moments(1.0, mean, np.mean([moments.variance for moments in known], axis=0))

    def including(self, parts: Iterable[tuple[NDArray, NDArray]]) -> "DomainScaler":
        """Return a scaler that also knows the new laboratories in `parts` of (values, domain).

        Their statistics are those of their rows, blended with one row's worth of the overall ones.
        """
        added = DomainScaler()
        overall = self.overall()
        for values, domain in parts:
            for name, rows in _groups(domain, len(values)):
                if name not in self.moments:
                    places = values[0, 0].size
                    added.moments.setdefault(name, Moments(places, overall.mean, overall.variance * places))
                    added.update(values[rows], domain[rows])
        return DomainScaler(self.moments | added.moments)

    def scale(self, values: NDArray, domain: NDArray | None) -> NDArray[np.float32]:
        """Standardised float32 copy of (n, C) or (n, C, h, w)."""
        return self._each(values, domain, lambda part, mean, deviation: (part - mean) / deviation)

    def unscale(self, values: NDArray, domain: NDArray | None) -> NDArray[np.float32]:
        """Undo `scale`."""
        return self._each(values, domain, lambda part, mean, deviation: part * deviation + mean)

    def _each(self, values: NDArray, domain: NDArray | None, change: Callable) -> NDArray[np.float32]:
        changed = np.empty(values.shape, np.float32)
        shape = (1, -1) + (1,) * (values.ndim - 2)
        for name, rows in _groups(domain, len(values)):
            moments = self.overall() if domain is None else self.moments[name]
            deviation = np.sqrt(moments.variance)
            # a channel that never changes is centred, not blown up
            deviation[deviation <= 1e-12 * np.abs(moments.mean)] = 1.0
            part = values[rows]
            dtype = np.promote_types(part.dtype, np.float32)
            mean, deviation = (array.reshape(shape).astype(dtype) for array in (moments.mean, deviation))
            changed[rows] = change(part.astype(dtype, copy=False), mean, deviation)
        return changed

    def to_plain(self) -> list[dict[str, Any]]:
        """Plain values and arrays, one dict a laboratory."""
        return [{"domain": name, **vars(moments)} for name, moments in self.moments.items()]

    @classmethod
    def from_plain(cls, plain: Iterable[Mapping[str, Any]]) -> "DomainScaler":
        """Undo `to_plain`."""
        return cls({part["domain"]: Moments(part["count"], part["mean"], part["squares"]) for part in plain})


class ClusterShifts:
    """Take away, cluster by cluster, by how much each laboratory's cells lie off those of the others.

    Laboratories differ in how many cells of each type they hold, and then their means should differ. k-means over
    the cells of all laboratories, each laboratory weighing the same, finds groups of like cells without a label; in
    every group each laboratory's mean is moved to the mean over laboratories. Cells belong to groups softly, and a
    laboratory with few cells in a group is moved little.

    Parameters
    ----------
    centres : array of shape (K, F)
    temperature : float
        Squared distance at which belonging falls off.
    means : array of shape (K, F)
        Of each group, each laboratory weighing the same.
    shifts : mapping of domain to array of shape (K, F)

    References
    ----------
    After Korsunsky et al., "Fast, sensitive and accurate integration of single-cell data with Harmony", Nature Methods
    2019, of which it is one round without the diversity penalty.
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
        """Find the groups and shifts of (n, F) features of at least two laboratories."""
        features = features.astype(np.float64)
        groups = _groups(domain, len(features))
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
        """Move (n, F) features; a laboratory that was not there in the fit is moved by its rows at hand."""
        corrected = features.copy()
        for name, rows in _groups(domain, len(features)):
            shift = self.shifts.get(name)
            if shift is None:
                shift = self._shift(*self._mass_and_sum(features[rows]))
            corrected[rows] -= (self._belonging(features[rows]) @ shift).astype(np.float32)
        return corrected

    def to_plain(self) -> dict[str, Any]:
        """Plain values and arrays."""
        shifts = [{"domain": name, "shift": shift} for name, shift in self.shifts.items()]
        return vars(self) | {"shifts": shifts}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ClusterShifts":
        """Undo `to_plain`."""
        return cls(**dict(plain) | {"shifts": {part["domain"]: part["shift"] for part in plain["shifts"]}})

    def _belonging(self, features: NDArray) -> NDArray[np.float64]:
        squared = np.stack([np.square(features - centre).sum(1) for centre in self.centres], axis=1)
        share = np.exp((squared.min(1, keepdims=True) - squared) / self.temperature)
        return share / share.sum(1, keepdims=True)

    def _mass_and_sum(self, features: NDArray) -> tuple[NDArray, NDArray]:
        belonging = self._belonging(features)
        return belonging.sum(0)[:, None], belonging.T @ features

    def _shift(self, mass: NDArray, total: NDArray) -> NDArray:
        return (total - mass * self.means) / (mass + self.PRIOR_CELLS)


def _groups(domain: NDArray | None, n: int) -> list[tuple[Hashable, Any]]:
    if domain is None:
        return [(None, slice(None))]
    return [(name, np.flatnonzero(domain == name)) for name in np.unique(domain).tolist()]
