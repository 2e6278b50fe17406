"""Embeddings as a table of pandas or polars (``set_output``), with masks and domains as an attribute."""

from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from .embeddings import CellEmbeddings

_ATTRIBUTE = "_sam_bloodcell_embeddings"


def as_container(embeddings: CellEmbeddings, container: str, X: Any) -> Any:
    """Return the pooled embeddings as a table of the kind that scikit-learn's ``set_output`` names; X has the index.

    The table carries the embeddings as an attribute of this very object: tables that are cut from it or joined have
    none, and therefore no wrong one.
    """
    if container == "default":
        return embeddings
    if container == "pandas":
        index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
        table: Any = pd.DataFrame(embeddings.pooled, index=index)
    else:
        table = import_module("polars").DataFrame(embeddings.pooled)
    object.__setattr__(table, _ATTRIBUTE, embeddings)  # pandas warns of attributes that are set in the usual way
    return table


def carried_embeddings(X: Any) -> Any:
    """Return the embeddings that a table of `as_container` carries, unless its values changed; or X itself."""
    embeddings = getattr(X, _ATTRIBUTE, None)
    if isinstance(embeddings, CellEmbeddings) and np.array_equal(np.asarray(X), embeddings.pooled, equal_nan=True):
        return embeddings
    return X
