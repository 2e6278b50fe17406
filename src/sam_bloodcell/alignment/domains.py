"""The domain of each cell: its source, and the warnings if it is unknown or new."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config

from ..cells import FEW_CELLS, label_column
from ..embedding.embeddings import CellEmbeddings
from ..exceptions import warn_caller
from .normalization import DomainScaler, known_domains
from .settings import Settings

# A warning is given if the variance of a new domain's cells, divided by that of a domain of the fit, is below this. On
# six laboratories, it fired in a sixth of the draws of one class, and in at most 2% of the others
# (docs/results/mixtures.md).
_LEAST_SPREAD = 0.5


def read_domain(X: Any, domain: ArrayLike | None, n: int) -> NDArray[Any] | None:
    """Return the domains of n cells: those given, or else those of the embeddings."""
    if domain is not None:
        return label_column(domain, "domain", n)
    return own_domain(X)


def own_domain(X: Any) -> NDArray[Any] | None:
    """Return the domains that X itself contains, or None."""
    return X.domain if isinstance(X, CellEmbeddings) else None


def name_to_add(X: Any, name: Any, known: list[Any], normalization: str | None) -> str | int:
    """Return the name of a laboratory to learn from the cells X, or raise if it cannot be learned."""
    if isinstance(name, bool) or not isinstance(name, str | Integral) or name == "":
        raise TypeError(f"Got name={name!r} but expected a string or an int. Fix: pass the laboratory's name.")
    if normalization in (None, "raw"):
        got = f"Got normalization={normalization!r}, which has no statistics of domains."
        raise ValueError(f"{got} Fix: normalization='cluster'.")
    if not known:
        raise ValueError("The fit had no domains, so a new one cannot be aligned with it. Fix: fit with domains.")
    if isinstance(name, str) != isinstance(known[0], str):
        raise ValueError(f"Got name={name!r} but the fit has {known[0]!r}. Fix: pass a name of the same type.")
    if name in known:
        raise ValueError(f"Got name={name!r} but that domain is already known. Fix: choose another name.")
    carried = known_domains(own_domain(X)).tolist()
    if any(other != name for other in carried):
        raise ValueError(f"Got name={name!r} but X has cells of {carried}. Fix: pass only cells of that laboratory.")
    return str(name) if isinstance(name, str) else int(name)


def warn_of_nothing_to_align(domains: list[Any]) -> None:
    """Warn that a fit without domains, or with a single one, aligns nothing."""
    if domains:
        message = (
            f"Got one domain, {domains[0]!r}, but expected two or more, so nothing is aligned between laboratories. "
            "Fix: add cells of another laboratory, or normalization=None. If a cross-validation split the cells, let "
            "it shuffle them."
        )
    else:
        message = (
            "Got no domain: nothing is aligned between laboratories. Fix: name the laboratory of each cell in a "
            "column domain of the table, or pass domain=... ."
        )
    warn_caller(message)


@contextmanager
def domain_for_transform(X: Any, domain: ArrayLike | None, settings: Settings) -> Iterator[ArrayLike | None]:
    """Yield the domain that `fit_transform` passes to `transform`; if it is not the domain of the fit, warn.

    Without metadata routing, a pipeline passes `domain` to the `fit_transform` of training cells, but cannot pass it to
    the `transform` of later cells.
    """
    if domain is None or get_config()["enable_metadata_routing"] or own_domain(X) is not None:
        yield domain
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The domain of .* is unknown")
        yield None
    if settings.by_domain:
        warn_caller(
            "fit_transform used domain only in fit, because a pipeline without metadata routing cannot pass it to "
            "transform. Fix: CellEmbeddings.from_arrays(X, domain=domain), or "
            "fit(X, domain=domain).transform(X, domain=domain)."
        )


def warn_of_poor_statistics(domain: NDArray | None, n: int, known: list[Any], scaler: DomainScaler) -> None:
    """Warn of rows of unknown domain, and of new domains with few rows or rows that are too similar.

    A number that is known as text, or text that is known as a number, is an error.
    """
    unknown = n if domain is None else int(pd.isna(domain).sum())
    if unknown:
        warn_caller(
            f"The domain of {unknown} of {n} cells is unknown, so their features are worse than with a domain, "
            "unless most cells of a laboratory are of one class. Fix: name the laboratory of each cell in a column "
            "domain of the table, or pass domain=... ."
        )
    if domain is None:
        return
    names, counts = np.unique(domain[pd.notna(domain)], return_counts=True)
    texts = {str(name): name for name in known}
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        if name not in known and str(name) in texts:
            fix = "Fix: pass domains of the same type as in fit."
            raise ValueError(f"Got the domain {name!r} but the fit has {texts[str(name)]!r}, of another type. {fix}")
        if name in known:
            continue
        if count < FEW_CELLS:
            warn_caller(
                f"The domain {name!r} is new, and the statistics of {count} of its cells are unreliable. Fix: pass at "
                f"least {FEW_CELLS} of its cells at once, or add it once from as many unlabelled cells (in Python: "
                f"classifier.adapt(X, {name!r}), or autoencoder.add_domain(X, {name!r}))."
            )
        elif (spread := scaler.spread(name)) < _LEAST_SPREAD:
            warn_caller(
                f"The domain {name!r} is new, and its {count} cells vary {spread:.2f} times as much as those of a "
                "domain of the fit, probably because most are of one class. The features are worse then, because "
                "they are standardised by these cells. Fix: pass cells of the laboratory's usual mixture, or leave out "
                "the domain."
            )
