"""Columns that belong to cells, such as the label and the domain: checked in one place."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def label_column(values: Any, name: str, n: int | None = None) -> NDArray[Any]:
    """Return strings or integers, one for each of `n` cells, as an array of shape (n,) and of one natural dtype.

    Errors call the column `name`; the one about a missing value names its row.
    """
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"Got {name}={values!r} but expected one value per cell. Fix: pass a list or an array.")
    column = np.asarray(values if hasattr(values, "__array__") else list(values), dtype=object)
    if column.ndim != 1 or (n is not None and len(column) != n):
        expected = "(n,)" if n is None else f"({n},)"
        raise ValueError(
            f"Got {name} of shape {column.shape} but expected {expected}, one value per cell. "
            f"Fix: pass the {name} column of the same rows."
        )
    missing = np.flatnonzero(pd.isna(column))
    if len(missing):
        raise ValueError(
            f"Row {missing[0]}: {name} is missing, as in {len(missing)} of {len(column)} rows. "
            f"Fix: fill in the {name} or leave these cells out."
        )
    return np.asarray(column.tolist())


def domain_column(values: Any, n: int) -> NDArray[Any] | None:
    """Return the domains of `n` cells as an array of shape (n,), None in rows whose domain is unknown.

    Where no domain is known, the whole is None.
    """
    column = np.asarray(values if hasattr(values, "__array__") else list(values), dtype=object)
    unknown = pd.isna(column)
    if unknown.all():
        return None
    if not unknown.any():
        return label_column(column, "domain", n)
    known = np.empty(len(column), dtype=object)
    known[~unknown] = label_column(column[~unknown], "domain")
    return known
