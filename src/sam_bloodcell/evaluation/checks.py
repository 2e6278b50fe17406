"""Checks of arguments, and warnings, shared by the functions of this package."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_parameter_constraints

from ..cells import first_of, label_column
from ..embedding.embeddings import carried_domain
from ..exceptions import warn_caller

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")

# Constraints by argument name: an argument means the same in every function that has it.
_ARGUMENTS: dict[str, list[Any]] = {
    "autoencoder": [HasMethods(["fit", "transform"]), None],
    "by_pair": ["boolean"],
    "cv": [Integral, HasMethods(["split", "get_n_splits"])],
    "embedder": [HasMethods(["fit_transform"])],
    "metric": [StrOptions(set(METRICS))],
    "min_cells": [Interval(Integral, 2, None, closed="left")],
    "mode": [StrOptions({"inductive", "transductive"})],
    "n_jobs": [Integral, None],
    "random_state": ["random_state"],
    "threshold": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    "title_size": [Interval(Real, 0, None, closed="neither")],
    "verbose": ["verbose"],
    **{name: [Interval(Integral, 1, None, closed="left")] for name in ("columns", "n", "n_bootstrap", "n_draws")},
    **{name: [Interval(Real, 0, 1, closed="neither")] for name in ("coverage", "level")},
}


def check_arguments(function: str, **values: Any) -> None:
    """Raise scikit-learn's ValueError for an argument of the wrong type or out of range."""
    validate_parameter_constraints({name: _ARGUMENTS[name] for name in values}, values, caller_name=function)


def check_table(table: Any, name: str, columns: Sequence[str], maker: str) -> None:
    """Raise unless `table` is a DataFrame with rows and these columns, as `maker` returns it."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"Got {name} of type {type(table).__name__} but expected a DataFrame. Fix: call {maker}.")
    lacking = [column for column in columns if column not in table]
    if lacking or table.empty:
        found = f"{name} without the column(s) {', '.join(lacking)}" if lacking else f"{name} without rows"
        fix = f"Fix: pass the table that {maker} returned, or a selection of its rows that is not empty."
        raise ValueError(f"Got {found} but expected the table of {maker}. {fix}")


def cell_columns(n_samples: int, **columns: Any) -> list[NDArray[Any]]:
    """Return columns such as labels and domains as arrays; raise unless each has one value per sample."""
    checked = {name: values_of_cells(values, name) for name, values in columns.items()}
    if any(len(column) != n_samples for column in checked.values()):
        lengths = ", ".join(f"{len(column)} in {name}" for name, column in checked.items())
        raise ValueError(
            f"Got {n_samples} samples in X, {lengths} but expected equal lengths. Fix: pass one value per cell."
        )
    return list(checked.values())


def values_of_cells(values: Any, name: str) -> NDArray[Any]:
    """Return a column of cells as an array of one natural dtype; raise as `label_column`, or if it mixes types.

    numpy would turn text and numbers into text, where 1 and "1" are the same.
    """
    column = label_column(values, name)
    if column.dtype.kind == "U":
        for row, value in enumerate(values):
            if not isinstance(value, str):
                found = f"{value!r} of type {type(value).__name__}"
                fix = f"Fix: make all of {name} text, or all numbers."
                raise ValueError(f"Row {row}: got {name}={found} among text but expected one type. {fix}")
    return column


def domain_of(X: Any, domain: Any, instead: str = "CellEmbeddings with a domain") -> Any:
    """Return the domains that were passed or that X has; raise if there are none."""
    domain = carried_domain(X) if domain is None else domain
    if domain is None:
        raise ValueError(f"Got no domain. Fix: pass domain=..., or {instead}.")
    return domain


def class_names(codes: Any, names: Sequence[str], name: str) -> NDArray[Any]:
    """Return the class name of each code; raise unless all codes are indices into the names."""
    codes, known = np.asarray(codes), values_of_cells(names, f"the names of {name}")
    if codes.dtype.kind not in "iu":
        raise ValueError(f"Got {name} of dtype {codes.dtype} but expected integers. Fix: pass indices into the names.")
    outside = np.flatnonzero((codes < 0) | (codes >= len(known)))
    if len(outside):
        found = f"{name}={codes[outside[0]]} in row {outside[0]}"
        fix = "Fix: pass all names, and leave unlabelled cells out."
        raise ValueError(f"Got {found} but expected an index into the {len(known)} names. {fix}")
    return known[codes]


def check_shared_class(labels: NDArray, rows: Mapping[Any, NDArray[np.intp]]) -> None:
    """Raise unless at least two domains share a class."""
    classes = {domain: np.unique(labels[members]).tolist() for domain, members in rows.items()}
    names = [name for found in classes.values() for name in found]
    if len(set(names)) == len(names):
        each = "; ".join(f"{domain!r} has {first_of(list(map(repr, found)))}" for domain, found in classes.items())
        fix = "Fix: give the same classes the same names in each laboratory (in Python: datasets.harmonise_labels)."
        raise ValueError(f"Got {len(rows)} domains but expected two that share a class: {each}. {fix}")


def scorable_rows(labels: NDArray, domains: NDArray, least: Any, argument: str = "cv") -> dict[Any, NDArray[np.intp]]:
    """Return the rows of each domain whose class has enough cells there, and warn of the others.

    A class needs `least` cells, which messages call `argument`, or 2 cells if `least` is a splitter.
    """
    given = isinstance(least, Integral)
    least = int(least) if given else 2
    needed, lower = (f"{argument}={least}", f"lower {argument}, or") if given else ("2", "or")
    if least < 2:
        raise ValueError(f"Got {argument}={least} but expected at least 2 folds. Fix: pass {argument}=2 or more.")
    rows: dict[Any, NDArray[np.intp]] = {}
    rare: list[str] = []
    for domain in np.unique(domains).tolist():
        members = np.flatnonzero(domains == domain)
        classes, counts = np.unique(labels[members], return_counts=True)
        kept = classes[counts >= least]
        for name, count in zip(classes.tolist(), counts.tolist(), strict=True):
            if count < least:
                rare.append(f"{name!r} of domain {domain!r} ({count} cell{'s' if count > 1 else ''})")
        if len(kept) < 2:
            found = f"{len(kept)} class(es) of at least {needed} cells in domain {domain!r}"
            fix = f"Fix: add cells, {lower} leave the domain out."
            raise ValueError(f"Got {found} but expected at least 2. {fix}")
        rows[domain] = members[np.isin(labels[members], kept)]
    if rare:
        found = f"Left out classes with fewer than {needed} cells in a domain: {', '.join(rare)}"
        warn_caller(f"{found}. Fix: add cells, {lower} leave these classes out.")
    return rows


def equal_values(a: pd.Series, b: pd.Series) -> NDArray[np.bool_]:
    """Compare two columns by value: columns of different categories cannot be compared otherwise."""
    return np.asarray(a).astype(object) == np.asarray(b).astype(object)


def seed_of(random_state: Any) -> int:
    """Return an int seed for a random state."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
