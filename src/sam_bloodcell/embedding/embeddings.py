"""`CellEmbeddings`: the output of the embedder, with masks, crops and laboratories for the next steps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import ArrayLike, NDArray

from ..cells import domain_column
from ..extras import require
from ..images.collections import domain_of
from .columns import Column, CropsFromImages, as_items

# Attributes of an array that the embeddings also have. They return a number or a plain array, and change no value.
_OF_ARRAYS = frozenset({
    "T", "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "cumsum", "dot", "flatten", "itemsize",
    "max", "mean", "min", "nbytes", "nonzero", "prod", "ravel", "repeat", "reshape", "round", "size", "squeeze",
    "std", "sum", "swapaxes", "take", "tobytes", "tolist", "transpose", "var",
})  # fmt: skip
_CHANGE_IN_PLACE = {np.copyto, np.fill_diagonal, np.place, np.put, np.put_along_axis, np.putmask}
_UNCHANGEABLE = (
    "Got an assignment to CellEmbeddings, which cannot be changed in place. Fix: change a copy, np.array(embeddings)."
)
_LACKING = {
    "tokens": 'These embeddings hold no token maps. Fix: SAMLoRAEmbedder(..., keep=("tokens", "crops"))',
    "masks": "These embeddings hold no masks. Fix: use the embeddings that SAMLoRAEmbedder returned.",
    "crops": 'These embeddings hold neither crops nor images. Fix: SAMLoRAEmbedder(..., keep=("crops",))',
}


class CellEmbeddings(NDArrayOperatorsMixin):
    """Embeddings of n cells: an (n, C) float32 array, with the masks and laboratories that later steps need.

    A ``Pipeline`` passes only X from step to step, but later steps may need a cell's mask, its laboratory or its token
    map. numpy, pandas and scikit-learn treat this object as the array of pooled embeddings. Slicing, indexing and
    joining rows keep all parts. Arithmetic and other array functions return plain arrays. Values cannot be assigned;
    `numpy.array` makes a copy that can be changed.

    Parameters
    ----------
    pooled : array of shape (n, C)
        Mean of the tokens under the cell's mask, stored as float32.
    tokens : float16 array of shape (n, C, h, w), optional
        Token maps before the encoder's neck, if ``SAMLoRAEmbedder(keep=("tokens", ...))`` kept them.
    masks : bool array of shape (n, H, W), optional
        Cell masks in the square frame that the network saw.
    crops : uint8 array of shape (n, 128, 128, 3), optional
        Images of the cells on grey. By default, they are cut from the images when they are indexed.
    quality : structured array of shape (n,), optional
        Quality of each mask; `pandas.DataFrame(quality)` shows it as a table. The fields are "area" and "border", the
        shares of the image and of its border that the mask covers; "components", the number of pieces that were found,
        of which the mask is the largest; "confidence", the mask's mean probability; "fallback", whether no plausible
        cell was found and the whole image was embedded; and "flat", whether the image has only one colour.
    images : sequence of n images, optional
        The embedded images, such as their paths.
    domain : array-like of shape (n,), optional
        Laboratory of each cell, strings or ints; None or NaN if it is unknown. `SAMLoRAEmbedder` reads it from a
        table's column ``domain``, and `CrossDomainAutoencoder` uses it.
    names : sequence of str, length C, optional
        Names of the features in tables, as the embedder's ``get_feature_names_out`` returns them. By default, the
        features are numbered.

    Notes
    -----
    Tokens, masks and crops are not always arrays. Some are only decoded or read from the disk when you index them.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell import CellEmbeddings
    >>> cells = CellEmbeddings(np.ones((3, 2)))
    >>> cells[[0, 2]].shape, np.asarray(cells).sum()
    ((2, 2), np.float32(6.0))
    """

    __slots__ = ("_crops", "_masks", "_tokens", "domain", "images", "names", "pooled", "quality")

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        pooled: NDArray,
        tokens: Any = None,
        masks: Any = None,
        crops: Any = None,
        quality: Any = None,
        images: Any = None,
        domain: Any = None,
        names: Sequence[str] | None = None,
    ) -> None:
        if np.ndim(pooled) != 2:
            raise ValueError(
                f"Got pooled of shape {np.shape(pooled)} but expected (n, C). Fix: pass one row per cell, or "
                "pooled[None] for one cell."
            )
        tokens, masks, crops = (np.asarray(part) if isinstance(part, list) else part for part in (tokens, masks, crops))
        parts = {"pooled": pooled, "tokens": tokens, "masks": masks, "crops": crops, "quality": quality,
                 "images": images, "domain": domain}  # fmt: skip
        lengths = {name: len(part) for name, part in parts.items() if part is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"Got {', '.join(lengths)} of lengths {list(lengths.values())} but expected equal lengths. "
                "Fix: pass the same cells as each of them."
            )
        self.pooled = np.asarray(pooled, dtype=np.float32)
        self.names = names
        self.quality = quality
        self.images = None if images is None else as_items(images)
        self.domain = None if domain is None else domain_column(domain, len(self.pooled))
        self._tokens, self._masks, self._crops = tokens, masks, crops

    @classmethod
    def from_arrays(cls, pooled: ArrayLike, *, domain: Any = None) -> "CellEmbeddings":
        """Return the embeddings of any other model with the laboratory of each cell.

        Parameters
        ----------
        pooled : array-like of shape (n, C)
            Embeddings of the cells.
        domain : array-like of shape (n,), optional
            Laboratory of each cell, strings or ints.

        Returns
        -------
        CellEmbeddings
            The embeddings with the laboratories.

        Raises
        ------
        ValueError
            If `pooled` is not 2-D, or `domain` has another length.
        """
        return cls(np.asarray(pooled), domain=domain)

    @property
    def tokens(self) -> Any:
        """Token maps of shape (n, C, h, w), float16."""
        if self._tokens is None:
            raise AttributeError(_LACKING["tokens"])
        return self._tokens

    @property
    def masks(self) -> Any:
        """Cell masks of shape (n, H, W), bool."""
        if self._masks is None:
            raise AttributeError(_LACKING["masks"])
        return self._masks

    @property
    def crops(self) -> Any:
        """Cell images on grey, of shape (n, 128, 128, 3), uint8."""
        if self._crops is not None:
            return self._crops
        if self.images is None or not isinstance(self._masks, Column):
            raise AttributeError(_LACKING["crops"])
        pairs = list(zip(self.images, self._masks.items, strict=True))
        return Column(as_items(pairs), CropsFromImages(self._masks.shape[1]))

    @classmethod
    def concatenate(cls, parts: Sequence["CellEmbeddings"]) -> "CellEmbeddings":
        """Join the rows of several embeddings in order.

        Tokens, masks, crops, quality or images that one part lacks are left out of the result.

        Parameters
        ----------
        parts : sequence of CellEmbeddings
            Embeddings to join. Another type raises a TypeError.

        Returns
        -------
        CellEmbeddings
            The joined embeddings.
        """
        for part in parts:
            if not isinstance(part, CellEmbeddings):
                raise TypeError(
                    f"Got a part of type {type(part).__name__} but expected only CellEmbeddings. "
                    "Fix: CellEmbeddings.from_arrays(part)."
                )
        joined = cls(*(_join([getattr(part, name) for part in parts]) for name in _PARTS[:-1]))
        joined.domain = _join_domains(parts)
        joined.names = parts[0].names
        return joined

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, C) of the pooled embeddings."""
        return (len(self.pooled), self.pooled.shape[1])

    def to_frame(self, index: Any = None) -> Any:
        """Return a DataFrame with a column for each feature, ``quality_area`` and so on.

        The features of an embedder have the names that its ``get_feature_names_out`` returns, ``samloraembedder0`` and
        so on, as in the files of ``sam-bloodcell embed``. Features of other models are named ``embedding_0`` and so on.
        If the domain is known, it is the last column, ``domain``.

        Parameters
        ----------
        index : array-like of shape (n,), optional
            Row names, such as the paths.

        Returns
        -------
        pandas.DataFrame
            A row per cell.
        """
        import pandas as pd

        features = pd.DataFrame(self.pooled, columns=self._feature_names(), index=index)
        return pd.concat([features, self._cell_table(index)], axis=1)

    def to_anndata(self, obs: Any = None) -> Any:
        """Return an AnnData object for scanpy, with the pooled embeddings in ``X`` and quality and domain in ``obs``.

        The features in ``var`` are named as in `to_frame`.

        Parameters
        ----------
        obs : DataFrame or dict of columns, optional
            Known columns of the cells, such as the label. A column ``domain`` replaces the domain of the embeddings.

        Returns
        -------
        anndata.AnnData
            The embeddings.

        Raises
        ------
        ImportError
            If anndata is not installed.
        """
        anndata = require("anndata", extra="anndata", purpose="AnnData objects need anndata")
        import pandas as pd

        rows = pd.RangeIndex(len(self)).astype(str)
        known = pd.DataFrame(index=rows) if obs is None else pd.DataFrame(obs).set_axis(rows)
        features = pd.DataFrame(index=self._feature_names())
        own = self._cell_table(rows)
        obs = pd.concat([known, own.drop(columns=own.columns.intersection(known.columns))], axis=1)
        return anndata.AnnData(self.pooled, obs=obs, var=features)

    def _feature_names(self) -> list[str]:
        if self.names is not None:
            return list(self.names)
        # Only embeddings of this package's embedders have the quality of a mask.
        prefix = "embedding_" if self.quality is None else "samloraembedder"
        return [f"{prefix}{i}" for i in range(self.shape[1])]

    def _cell_table(self, index: Any) -> Any:
        import pandas as pd

        table = pd.DataFrame(index=pd.RangeIndex(len(self)) if index is None else index)
        for name in () if self.quality is None else self.quality.dtype.names or ():
            table[f"quality_{name}"] = self.quality[name]
        if self.domain is not None:
            table["domain"] = self.domain
        return table

    def __len__(self) -> int:
        return len(self.pooled)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.pooled)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        if copy is None:  # numpy 1 knows only True and False
            return np.asarray(self.pooled, dtype=dtype)
        return np.array(self.pooled, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compute on the pooled embeddings; the result is a plain array."""
        if _is_among(kwargs.get("out", ())) or (method == "at" and _is_among(inputs[:1])):
            raise TypeError(_UNCHANGEABLE)
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        """Join rows in `np.concatenate`; every other numpy function gets the pooled embeddings."""
        if func in (np.concatenate, np.vstack) and (*args[1:], *kwargs.items()) in ((), (0,), (("axis", 0),)):
            parts = list(args[0])
            if all(isinstance(part, CellEmbeddings) for part in parts):
                return CellEmbeddings.concatenate(parts)
        out = kwargs.get("out")
        if _is_among(out if isinstance(out, tuple) else (out,)) or (func in _CHANGE_IN_PLACE and _is_among(args[:1])):
            raise TypeError(_UNCHANGEABLE)
        return func(*(_plain(arg) for arg in args), **{key: _plain(arg) for key, arg in kwargs.items()})

    def __getitem__(self, key: Any) -> Any:
        """Select rows; ``[rows, columns]``, a single row number and a mask of values return plain arrays."""
        if isinstance(key, tuple):
            if len(key) != 1 and (len(key) != 2 or not _is_everything(key[1])):
                return self.pooled[key]
            key = key[0]
        if key is None or isinstance(key, int | np.integer):
            return self.pooled[key]
        if key is Ellipsis:
            key = slice(None)
        if not isinstance(key, slice):
            key = np.asarray(key)
            if key.ndim != 1:
                return self.pooled[key]
            if key.size == 0 and key.dtype.kind == "f":  # an empty list
                key = key.astype(np.intp)
        return CellEmbeddings(*[*(_select(getattr(self, name), key) for name in _PARTS), self.names])

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(_UNCHANGEABLE)

    def __contains__(self, value: Any) -> bool:
        return value in self.pooled

    def __getattr__(self, name: str) -> Any:
        if name in _OF_ARRAYS:
            return getattr(self.pooled, name)
        # Python also calls this method if a property raises an AttributeError.
        raise AttributeError(_LACKING.get(name, f"{type(self).__name__!r} object has no attribute {name!r}"))

    def copy(self) -> "CellEmbeddings":
        """Return embeddings with the same parts and a copy of the pooled embeddings.

        Returns
        -------
        CellEmbeddings
            The copy.
        """
        return CellEmbeddings(self.pooled.copy(), *[getattr(self, name) for name in (*_PARTS[1:], "names")])

    def __eq__(self, other: object) -> Any:
        return self.pooled == np.asarray(other)

    def __ne__(self, other: object) -> Any:
        return self.pooled != np.asarray(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple:
        return (CellEmbeddings, tuple(getattr(self, name) for name in (*_PARTS, "names")))

    def __repr__(self) -> str:
        n, width = self.shape
        grid = "" if self._tokens is None else f", grid={self._tokens.shape[2:]}"
        return f"CellEmbeddings(n={n}, width={width}{grid})"


def carried_domain(X: Any) -> NDArray | None:
    """Return the domain of each cell in X, which is `CellEmbeddings` or a table with a column domain, or None."""
    return X.domain if isinstance(X, CellEmbeddings) else domain_of(X)


def without_domain(X: Any) -> Any:
    """Return X without the domain that `carried_domain` returns."""
    if isinstance(X, CellEmbeddings):
        return CellEmbeddings(*[*(getattr(X, name) for name in _PARTS[:-1]), None, X.names])
    return X if domain_of(X) is None else X[[name for name in X.columns if name != "domain"]]


# The arguments of the constructor, in the same order.
_PARTS = ("pooled", "_tokens", "_masks", "_crops", "quality", "images", "domain")


def _select(part: Any, key: Any) -> Any:
    """Return rows of a part; rows of a column are not decoded."""
    if part is None:
        return None
    return part.select(key) if isinstance(part, Column) else part[key]


def _join(parts: list[Any]) -> Any:
    """Join a part of several embeddings; return None if one of them lacks this part."""
    return None if any(part is None for part in parts) else np.concatenate(parts)


def _join_domains(parts: Sequence[CellEmbeddings]) -> NDArray | None:
    """Join the domains; rows of embeddings without domains get None, so that the other rows keep theirs."""
    columns = [np.full(len(part), None) if part.domain is None else part.domain.astype(object) for part in parts]
    return domain_column(np.concatenate(columns), sum(map(len, parts)))


def _is_everything(key: Any) -> bool:
    return key is Ellipsis or (isinstance(key, slice) and key == slice(None))


def _is_among(values: Sequence[Any]) -> bool:
    return any(isinstance(value, CellEmbeddings) for value in values)


def _plain(value: Any) -> Any:
    if isinstance(value, CellEmbeddings):
        return value.pooled
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
