"""Embeddings as a table of pandas or polars (``set_output``), with masks and domains as an attribute."""

from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from .embeddings import CellEmbeddings

_ATTRIBUTE = "_sam_bloodcell_embeddings"


def as_container(embeddings: CellEmbeddings, container: str, X: Any) -> Any:
    """Return the pooled embeddings as the `container` of scikit-learn's ``set_output``, with the index of X.

    The table has the embeddings as an attribute. Tables that are sliced or joined from it do not have this attribute,
    so they cannot have the embeddings of other rows.
    """
    if container == "default":
        return embeddings
    if container == "pandas":
        index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
        table: Any = pd.DataFrame(embeddings.pooled, index=index)
    else:
        table = import_module("polars").DataFrame(embeddings.pooled)
    object.__setattr__(table, _ATTRIBUTE, embeddings)  # pandas would warn about an ordinary assignment
    return table


def carried_embeddings(X: Any) -> Any:
    """Return the embeddings in a table of `as_container` if its values did not change, and otherwise X itself."""
    embeddings = getattr(X, _ATTRIBUTE, None)
    if isinstance(embeddings, CellEmbeddings) and np.array_equal(np.asarray(X), embeddings.pooled, equal_nan=True):
        return embeddings
    return X
