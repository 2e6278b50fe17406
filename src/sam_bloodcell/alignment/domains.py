"""The domain of each cell: where it comes from, and what is said where it is unknown or new."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..cells import label_column
from ..embedding.embeddings import CellEmbeddings

# Statistics of fewer cells are poor: on one laboratory, left out of the fit, balanced accuracy was 0.63 with one cell a
# call, 0.74 with 5, 0.79 with 20 and 0.80 with all.
FEW_CELLS = 20


def read_domain(X: Any, domain: ArrayLike | None, n: int) -> NDArray[Any] | None:
    """Return the domains of n cells: those given, or else those that the embeddings bring along."""
    if domain is not None:
        return label_column(domain, "domain", n)
    return X.domain if isinstance(X, CellEmbeddings) else None


def warn_of_nothing_to_align(domains: list[Any]) -> None:
    """Warn that a fit with no domain, or a single one, aligns nothing."""
    if domains:
        message = (
            f"Got one domain, {domains[0]!r}: nothing is aligned between laboratories. Where a cross-validation left "
            "one over because the rows are sorted, shuffle it: StratifiedKFold(shuffle=True)."
        )
    else:
        message = (
            "Got no domain: nothing is aligned between laboratories. Fix: pass a table with the columns path and "
            "domain to the pipeline, or domain=... to fit."
        )
    warnings.warn(message, stacklevel=4)


def warn_of_poor_statistics(domain: NDArray | None, n: int, known: list[Any]) -> None:
    """Warn of the rows among n whose domain is unknown, and of domains that are not `known` and have few rows."""
    unknown = n if domain is None else int(pd.isna(domain).sum())
    if unknown:
        warnings.warn(
            f"The domain of {unknown} of {n} cells is unknown, though the fit knew domains: their features are worse. "
            "Fix: pass a table with the columns path and domain to the pipeline, or domain=... to transform.",
            stacklevel=4,
        )
    if domain is None:
        return
    names, counts = np.unique(domain[pd.notna(domain)], return_counts=True)
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        if name not in known and count < FEW_CELLS:
            warnings.warn(
                f"The domain {name!r} is new, and the statistics of {count} of its cells are poor. Fix: call "
                f"add_domain(X, {name!r}) once, with at least {FEW_CELLS} unlabelled cells of that laboratory.",
                stacklevel=4,
            )
