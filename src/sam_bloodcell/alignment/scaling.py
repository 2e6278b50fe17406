"""What is known of each domain without a label: the mean and the variance of every channel."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler


class DomainScaler:
    """Standardise channels by the statistics of each row's own domain.

    Rows without a domain are scaled by the `overall` statistics.

    Parameters
    ----------
    statistics : mapping of domain to StandardScaler
        Statistics gathered so far.
    """

    def __init__(self, statistics: Mapping[Hashable, StandardScaler] | None = None) -> None:
        self.statistics = dict(statistics or {})

    def update(self, values: NDArray, domain: NDArray | None) -> None:
        """Add (n, C) or (n, C, h, w) rows to the statistics; with `domain=None` they all belong to one domain, None."""
        for name, rows in rows_by_domain(domain, len(values)):
            # Every place of a token map is a sample. StandardScaler sums in float64 whatever the type of the values.
            samples = np.moveaxis(values[rows], 1, -1).reshape(-1, values.shape[1])
            self.statistics.setdefault(name, StandardScaler()).partial_fit(samples)

    def overall(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance of each channel: averages over the domains, each of which weighs the same."""
        known = self.statistics.values()
        return np.mean([part.mean_ for part in known], axis=0), np.mean([part.var_ for part in known], axis=0)

    def including(self, parts: Iterable[tuple[NDArray, NDArray]]) -> "DomainScaler":
        """Return a scaler that also knows the new domains in `parts` of (values, domain).

        The statistics of a new domain are those of its rows, blended with one row's worth of the overall ones, so that
        a domain of a single row has a variance, too.
        """
        added = DomainScaler()
        overall = self.overall()
        for values, domain in parts:
            for name, rows in rows_by_domain(domain, len(values)):
                if name not in self.statistics:
                    added.statistics.setdefault(name, _known_statistics(values[0, 0].size, *overall))
                    added.update(values[rows], domain[rows])
        return DomainScaler(self.statistics | added.statistics)

    def scale(self, values: NDArray, domain: NDArray | None) -> NDArray[np.float32]:
        """Return a standardised float32 copy of (n, C) or (n, C, h, w) values."""
        return self._transform(values, domain, lambda part, mean, deviation: (part - mean) / deviation)

    def unscale(self, values: NDArray, domain: NDArray | None) -> NDArray[np.float32]:
        """Undo `scale`."""
        return self._transform(values, domain, lambda part, mean, deviation: part * deviation + mean)

    def _transform(self, values: NDArray, domain: NDArray | None, change: Callable) -> NDArray[np.float32]:
        changed = np.empty(values.shape, np.float32)
        shape = (1, -1) + (1,) * (values.ndim - 2)
        for name, rows in rows_by_domain(domain, len(values)):
            known = None if domain is None else self.statistics[name]
            mean, variance = self.overall() if known is None else (known.mean_, known.var_)
            deviation = np.sqrt(variance)
            # A channel that never changes is centred, not blown up.
            deviation[deviation <= 1e-12 * np.abs(mean)] = 1.0
            part = values[rows]
            dtype = np.promote_types(part.dtype, np.float32)
            mean, deviation = (array.reshape(shape).astype(dtype) for array in (mean, deviation))
            changed[rows] = change(part.astype(dtype, copy=False), mean, deviation)
        return changed

    def to_plain(self) -> list[dict[str, Any]]:
        """Return plain values and arrays, one dict for each domain."""
        return [
            {"domain": name, "count": int(part.n_samples_seen_), "mean": part.mean_, "variance": part.var_}
            for name, part in self.statistics.items()
        ]

    @classmethod
    def from_plain(cls, plain: Iterable[Mapping[str, Any]]) -> "DomainScaler":
        """Undo `to_plain`."""
        return cls({part["domain"]: _known_statistics(part["count"], part["mean"], part["variance"]) for part in plain})


def rows_by_domain(domain: NDArray | None, n: int) -> list[tuple[Hashable, Any]]:
    """List the domains with an index of their rows among n; without a domain, all rows belong to None."""
    if domain is None:
        return [(None, slice(None))]
    return [(name, np.flatnonzero(domain == name)) for name in np.unique(domain).tolist()]


def _known_statistics(count: int, mean: ArrayLike, variance: ArrayLike) -> StandardScaler:
    """Make a StandardScaler from statistics that `partial_fit` then continues."""
    scaler = StandardScaler()
    scaler.n_samples_seen_ = np.int64(count)
    scaler.mean_, scaler.var_ = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    scaler.scale_ = np.sqrt(scaler.var_)  # partial_fit starts anew without it
    return scaler
