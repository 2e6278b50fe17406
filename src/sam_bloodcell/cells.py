"""Cells as columns: the result of every loader, and checks of columns such as the label and the domain."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import Bunch

from .exceptions import warn_caller

# Statistics of fewer cells of a laboratory are poor: on six laboratories, the mean balanced accuracy was 0.71 with one
# cell per call, 0.71 with 5, 0.75 with 20 and 0.77 with all (benchmarks/cells_in_a_call.py).
FEW_CELLS = 20

# Share of its training cells that the benchmark's default network holds out to stop early. Five folds leave four cells
# of the rarest class for training, so a quarter for validation has one of each class.
NETWORK_HELD_OUT = 0.25


class Cells(Bunch):
    """A scikit-learn Bunch of cells, with their labels as text and a table for a pipeline.

    Parameters
    ----------
    **kwargs : dict
        Entries of the Bunch. `load_cells` describes them.

    Examples
    --------
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(1, classes=["lymphocyte", "monocyte"], image_size=32, random_state=0)
    >>> cells
    Cells(n=4, domains=['lab_a', 'lab_b'], classes=['lymphocyte', 'monocyte'])
    >>> cells.labels.tolist()
    ['monocyte', 'lymphocyte', 'monocyte', 'lymphocyte']
    """

    @property
    def labels(self) -> NDArray[np.str_]:
        """The label of each cell as text: str array (n,)."""
        return np.asarray(self.target_names, dtype=str)[self.target]

    @property
    def frame(self) -> pd.DataFrame:
        """A row per cell with the columns path, domain and label, and group and mask if there are any.

        This is the X of a pipeline. `SAMLoRAEmbedder` reads only path and domain.
        """
        if self.get("paths") is None:
            raise ValueError("Got cells with images but expected files. Fix: load_cells(save_cells(cells, folder)).")
        table = pd.DataFrame({"path": self.paths, "domain": self.domain, "label": self.labels})
        if self.get("group") is not None:
            table["group"] = self.group
        if any(mask is not None for mask in self.get("masks") or []):
            table["mask"] = self.masks
        return table

    def __repr__(self) -> str:
        domains = sorted(set(np.asarray(self.domain).tolist()))
        return f"Cells(n={len(self.target)}, domains={_some(domains)}, classes={_some(list(self.target_names))})"


def _some(names: list[Any]) -> str:
    """Write a list of names, or the first five of a long list and the number of all."""
    return repr(names) if len(names) <= 8 else f"[{', '.join(map(repr, names[:5]))}, ... {len(names)} in all]"


def first_of(texts: Sequence[str], n: int = 5, separator: str = ", ") -> str:
    """Join the first n texts, and count the others."""
    return separator.join(texts[:n]) + (f" and {len(texts) - n} more" if len(texts) > n else "")


def label_column(values: Any, name: str, n: int | None = None) -> NDArray[Any]:
    """Return strings or integers, one for each of `n` cells, as an array of shape (n,) and of one natural dtype.

    Errors call the column `name`; the one about a missing value names its row.
    """
    column = _objects(values, name)
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
    """Return the domains of `n` cells as an array of shape (n,), with None in rows whose domain is unknown.

    If no domain is known, return None.
    """
    column = _objects(values, "domain")
    unknown = pd.isna(column)
    unknown[~unknown] = [value == "" for value in column[~unknown]]
    if unknown.all():
        return None
    if not unknown.any():
        return label_column(column, "domain", n)
    known = np.empty(len(column), dtype=object)
    known[~unknown] = label_column(column[~unknown], "domain")
    return known


def _objects(values: Any, name: str) -> NDArray[Any]:
    """Return an array of the column's values as they are; raise if it is not a list or an array."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"Got {name}={values!r} but expected one value per cell. Fix: pass a list or an array.")
    return np.asarray(values if hasattr(values, "__array__") else list(values), dtype=object)


def some_of_each(labels: NDArray[Any], domains: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw at most n of the cells of each class and laboratory; return their rows in order."""
    table = pd.DataFrame({"label": labels, "domain": domains}).iloc[rng.permutation(len(labels))]
    return np.sort(table.groupby(["domain", "label"]).head(n).index.to_numpy())


def can_hold_out(labels: NDArray[Any], share: float, *, of_each_class: bool) -> bool:
    """Tell whether scikit-learn can hold out this share of the training cells, at least two, to stop early.

    If it holds out some `of_each_class`, both parts need a cell of each class, and each class needs two.
    """
    counts = np.unique(labels, return_counts=True)[1]
    held_out = int(np.ceil(share * len(labels)))
    if held_out < 2:
        return False
    return not of_each_class or (counts.min() >= 2 and min(held_out, len(labels) - held_out) >= len(counts))


def similar_values(values: Iterable[Any]) -> list[str]:
    """Name different values that look alike: they differ in case, spaces, dashes, accents or a plural s."""
    alike: dict[str, list[str]] = {}
    for value in dict.fromkeys(map(str, values)):
        alike.setdefault(_plain(value), []).append(value)
    return [" and ".join(_told_apart(group)) for group in alike.values() if len(group) > 1]


def warn_of_similar(values: Iterable[Any], name: str, source: str) -> None:
    """Warn of different values of the column `name` that look alike, as `similar_values` finds them."""
    if groups := similar_values(values):
        shown = "; ".join(groups[:5]) + " ..." * (len(groups) > 5)
        warn_caller(f"'{source}' has different {name}s that look alike: {shown}. Fix: give one {name} one name.")


def _told_apart(names: list[str]) -> Iterable[str]:
    """Write names so that a reader sees the difference, which may only be in the bytes of an accent."""
    same = len({unicodedata.normalize("NFKC", name) for name in names}) < len(names)
    return map(ascii if same else repr, names)


def _plain(name: str) -> str:
    """Reduce a name to the part that distinguishes it from others for a reader."""
    # Normalise accents, and remove characters without a width.
    text = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    text = re.sub(r"[\s_]+|(?<=\w)-(?=\w)", " ", text.casefold()).strip()
    return re.sub(r"(?<=[^\W\d_]{3})(s|\(s\))$", "", text)
