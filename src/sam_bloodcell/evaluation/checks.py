"""What every function here asks of its arguments."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_parameter_constraints

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
MODES = ("inductive", "transductive")

# An argument means the same in every function that has it.
_ARGUMENTS: dict[str, list[Any]] = {
    "autoencoder": [HasMethods(["fit", "transform"]), None],
    "by_pair": ["boolean"],
    "cv": [Integral, HasMethods(["split", "get_n_splits"])],
    "columns": [Interval(Integral, 1, None, closed="left")],
    "coverage": [Interval(Real, 0, 1, closed="neither")],
    "embedder": [HasMethods(["fit_transform"])],
    "level": [Interval(Real, 0, 1, closed="neither")],
    "metric": [StrOptions(set(METRICS))],
    "min_cells": [Interval(Integral, 2, None, closed="left")],
    "mode": [StrOptions(set(MODES))],
    "n": [Interval(Integral, 1, None, closed="left")],
    "n_bootstrap": [Interval(Integral, 1, None, closed="left")],
    "n_jobs": [Integral, None],
    "random_state": ["random_state"],
    "threshold": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    "title_size": [Interval(Real, 0, None, closed="neither")],
    "verbose": ["verbose"],
}


def check_arguments(function: str, **values: Any) -> None:
    """Raise scikit-learn's ValueError for an argument of the wrong type or out of range."""
    validate_parameter_constraints({name: _ARGUMENTS[name] for name in values}, values, caller_name=function)


def check_table(table: Any, name: str, columns: Sequence[str], maker: str) -> None:
    """Raise unless this is a table with rows and these columns, as `maker` returns it."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"Got {name} of type {type(table).__name__} but expected a DataFrame. Fix: call {maker}.")
    lacking = [column for column in columns if column not in table]
    if lacking or table.empty:
        raise ValueError(
            f"Got {name} with {len(table)} rows that lack {', '.join(lacking) or 'nothing'} but expected the table of "
            f"{maker}. Fix: pass it whole, or the rows that you want."
        )


def label_column(values: Any, name: str) -> np.ndarray:
    """Labels as a (n,) array of one natural dtype; missing ones are an error that names the row."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"Got {name}={values!r} but expected one value per cell; pass a list or an array.")
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
