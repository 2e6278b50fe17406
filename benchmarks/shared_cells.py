"""The shared cell data, as the benchmarks read it."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

DATA = Path(os.environ.get("SAM_BLOODCELL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def read_tables(*names: str) -> pd.DataFrame:
    """Read the rows of tables, by default of both, with whole paths; a text that is missing is empty."""
    tables = names or ("cells.csv", "more_cells.csv")
    parts = [pd.read_csv(DATA / name, dtype=str, keep_default_na=False) for name in tables]
    cells = pd.concat(parts, ignore_index=True).fillna("")
    return cells.assign(path=[str(DATA / path) for path in cells["path"]])


def with_common_names(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the common name of segmented and banded neutrophils."""
    return cells.replace({"label": {f"neutrophil_{kind}": "neutrophil" for kind in ("segmented", "banded")}})


def standardise(X: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Standardise each laboratory by its own mean and standard deviation."""
    found = np.empty(X.shape, np.result_type(X, np.float32))
    for lab in np.unique(domain):
        found[domain == lab] = StandardScaler().fit_transform(X[domain == lab])
    return found
