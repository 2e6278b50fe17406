"""What flows from the embedder to the next step of a pipeline."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CellEmbeddings:
    """Embeddings of n cells: an (n, C) float32 array to everybody, token maps and crops to those who can use them.

    A ``Pipeline`` hands only X from step to step, yet the autoencoder needs maps and crops. To numpy, pandas and
    scikit-learn this object is its pooled embeddings; rows can be sliced, indexed and joined without losing the
    rest.

    Parameters
    ----------
    pooled : float32 array of shape (n, C)
        Mean of the tokens under the cell's mask.
    tokens : float16 array of shape (n, C, h, w)
        Pre-neck token maps.
    masks : bool array of shape (n, H, W)
        Cell masks in the square frame that the network saw.
    crops : uint8 array of shape (n, 128, 128, 3)
        Cells on grey.
    quality : structured array of shape (n,)
        How far each mask can be trusted; `pandas.DataFrame(quality)` shows it as a table. Fields: "area" of the mask
        and "border" of the image inside it, as shares; "components" found, of which the largest was taken;
        "confidence", the mask's mean probability; "fallback", whether no plausible cell was found and the whole
        image stands in for it.

    Notes
    -----
    Tokens, masks and crops may stay on disk (`SAMLoRAEmbedder.cache_dir`): they are read when indexed.

    Examples
    --------
    >>> cells = CellEmbeddings(np.ones((3, 2)), *(np.zeros((3, 1)) for _ in range(4)))
    >>> cells[[0, 2]].shape, np.asarray(cells).sum()
    ((2, 2), np.float32(6.0))
    """

    __slots__ = ("_crops", "_masks", "_tokens", "pooled", "quality")

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, pooled: NDArray, tokens: Any, masks: Any, crops: Any, quality: NDArray) -> None:
        lengths = [len(part) for part in (pooled, tokens, masks, crops, quality)]
        if len(set(lengths)) != 1:
            raise ValueError(
                f"Got pooled, tokens, masks, crops, quality of lengths {lengths} but expected equal lengths."
            )
        self.pooled = np.asarray(pooled, dtype=np.float32)
        self._tokens = tokens
        self._masks = masks
        self._crops = crops
        self.quality = quality

    @property
    def tokens(self) -> Any:
        """(n, C, h, w) float16."""
        return self._settled("_tokens")

    @property
    def masks(self) -> Any:
        """(n, H, W) bool."""
        return self._settled("_masks")

    @property
    def crops(self) -> Any:
        """(n, 128, 128, 3) uint8."""
        return self._settled("_crops")

    def _settled(self, name: str) -> Any:
        """Put rows that are scattered over this process's memory together when first asked for."""
        part = getattr(self, name)
        if getattr(part, "in_memory", False):
            part = np.asarray(part)
            setattr(self, name, part)
        return part

    @classmethod
    def concatenate(cls, parts: Sequence["CellEmbeddings"]) -> "CellEmbeddings":
        """Join rows, in order.

        Raises
        ------
        TypeError
            If a part is something else.
        """
        for part in parts:
            if not isinstance(part, CellEmbeddings):
                raise TypeError(f"Got a part of type {type(part).__name__} but expected CellEmbeddings alone.")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, C)."""
        return (len(self.pooled), self.pooled.shape[1])

    def to_frame(self, index: Any = None) -> Any:
        """Return a table of the pooled embeddings and the masks' quality.

        Parameters
        ----------
        index : array-like of shape (n,), optional
            Such as the paths.

        Returns
        -------
        pandas.DataFrame
            Columns ``embedding_0`` to ``embedding_{C-1}``, and ``quality_area`` and so on.
        """
        import pandas as pd

        names = [f"embedding_{i}" for i in range(self.shape[1])]
        quality = pd.DataFrame(self.quality, index=index).add_prefix("quality_")
        return pd.concat([pd.DataFrame(self.pooled, columns=names, index=index), quality], axis=1)

    def to_anndata(self, obs: Any = None) -> Any:
        """Return an AnnData object, for scanpy.

        Parameters
        ----------
        obs : DataFrame or dict of columns, optional
            What is known of each cell, such as domain and label.

        Returns
        -------
        anndata.AnnData
            ``X`` are the pooled embeddings; ``obs`` has the given columns and the masks' quality.

        Raises
        ------
        ImportError
            If anndata is not installed.
        """
        try:
            from anndata import AnnData
        except ImportError as exc:
            raise ImportError('AnnData objects need anndata. Fix: pip install "sam-bloodcell[anndata]"') from exc
        import pandas as pd

        rows = pd.RangeIndex(len(self)).astype(str)
        quality = pd.DataFrame(self.quality, index=rows).add_prefix("quality_")
        known = pd.DataFrame(index=rows) if obs is None else pd.DataFrame(obs).set_axis(rows)
        table = pd.concat([known, quality], axis=1)
        return AnnData(self.pooled, obs=table, var=pd.DataFrame(index=[f"embedding_{i}" for i in range(self.shape[1])]))

    def __len__(self) -> int:
        return len(self.pooled)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.pooled)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        if copy is None:  # numpy 1 knows only True and False
            return np.asarray(self.pooled, dtype=dtype)
        return np.array(self.pooled, dtype=dtype, copy=copy)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        """Join rows under `np.concatenate`; every other numpy function sees the pooled embeddings."""
        if func in (np.concatenate, np.vstack) and not kwargs and len(args) == 1:
            parts = list(args[0])
            if all(isinstance(part, CellEmbeddings) for part in parts):
                return CellEmbeddings.concatenate(parts)
        return func(*(_plain(arg) for arg in args), **{key: _plain(arg) for key, arg in kwargs.items()})

    def __getitem__(self, key: Any) -> Any:
        """Select rows; ``[rows, columns]`` and a single row number give plain arrays."""
        if isinstance(key, tuple):
            if len(key) != 2 or not _is_everything(key[1]):
                return self.pooled[key]
            key = key[0]
        if isinstance(key, int | np.integer):
            return self.pooled[key]
        key = key if isinstance(key, slice) else np.asarray(key)
        if isinstance(key, np.ndarray) and key.size == 0:
            key = key.astype(np.intp)
        return CellEmbeddings(*(_select(getattr(self, name), key) for name in _FIELDS))

    def __eq__(self, other: object) -> Any:
        return self.pooled == np.asarray(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple:
        return (CellEmbeddings, tuple(getattr(self, name) for name in _FIELDS))

    def __repr__(self) -> str:
        n, width = self.shape
        return f"CellEmbeddings(n={n}, width={width}, grid={self._tokens.shape[2:]})"


_FIELDS = ("pooled", "_tokens", "_masks", "_crops", "quality")


def _select(part: Any, key: Any) -> Any:
    """Take rows of a part, of one that stays on disk without reading it."""
    return part.select(key) if hasattr(part, "select") else part[key]


def _is_everything(key: Any) -> bool:
    return key is Ellipsis or (isinstance(key, slice) and key == slice(None))


def _plain(value: Any) -> Any:
    if isinstance(value, CellEmbeddings):
        return value.pooled
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
