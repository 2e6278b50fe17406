"""What every function here asks of labels, domains and seeds."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state


def label_column(values: Any, name: str) -> np.ndarray:
    """Labels as a (n,) array of one natural dtype; missing ones are an error that names the row."""
    cells = np.asarray(values if hasattr(values, "__array__") else list(values), dtype=object)
    if cells.ndim != 1:
        raise ValueError(f"Got {name} of shape {cells.shape} but expected one value per cell; ravel it.")
    missing = np.flatnonzero(pd.isna(cells))
    if len(missing):
        raise ValueError(
            f"Got {name}={cells[missing[0]]} in row {missing[0]} but expected a value for every cell; "
            f"drop the {len(missing)} row(s) without one."
        )
    return np.asarray(cells.tolist())


def check_lengths(n_samples: int, **columns: np.ndarray) -> None:
    """Raise unless every column has one value per sample."""
    if any(len(column) != n_samples for column in columns.values()):
        lengths = ", ".join(f"{len(column)} in {name}" for name, column in columns.items())
        raise ValueError(f"Got {n_samples} samples in X, {lengths} but expected the same number; pass one per cell.")


def seed_of(random_state: Any) -> int:
    """Return an int that stands for a random state."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
