"""`FunctionEmbedder`: any function from crops to vectors, with masks, quality and cache."""

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from .embedder import SAMLoRAEmbedder
from .features import FunctionFeatures
from .network import DTYPES
from .segmented import SegmentedEmbedder


class FunctionEmbedder(SegmentedEmbedder):
    """Embed single cell images with any function, such as a pathology model, an ONNX file or a CNN.

    A segmenter finds the cells; the function gets them as arrays and returns vectors. Masks, their quality, cache and
    all later steps are those of `SAMLoRAEmbedder`.

    Parameters
    ----------
    function : callable
        Takes a uint8 RGB array (n, S, S, 3), S = `image_size`, and returns n vectors of one length, (n, d). Processes
        of `n_jobs` get it pickled.
    name : str
        Name and version of the function, such as "uni-1". It stands for the function in the key of the cache, for a
        function has no digest: **give another name whenever the function or its weights change**, or the cache
        returns the vectors of the old one.
    segmenter : str, path or SAMLoRAEmbedder, default="vit_tiny"
        What finds the cells, as in `ViTEmbedder`.
    image_size : int, default=224
        Side of the crops in pixels.
    background : bool, default=False
        False gives the function the cell alone: its bounding box as a square, everything outside the mask grey. True
        gives it the whole image as a square, background and neighbouring cells included.
    keep : collection of {"crops", "published_crops"}, default=()
        As in `SAMLoRAEmbedder`; there are no token maps.
    device, dtype
        Of the segmenter, as in `SAMLoRAEmbedder`.
    batch_size : int or "auto", default="auto"
        Most images in a call of the function.
    n_jobs, on_error, cache_dir, cache_limit, verbose
        As in `SAMLoRAEmbedder`.

    Attributes
    ----------
    segmenter_ : SAMLoRAEmbedder
        What finds the cells, fitted.
    encoder_ : Encoder
        What `transform` runs.
    n_features_out_ : int
        Length of the vectors.

    Examples
    --------
    >>> from sam_bloodcell import FunctionEmbedder
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(1, domains=["lab_a"], random_state=0)
    >>> embedder = FunctionEmbedder(lambda crops: crops.mean(axis=(1, 2)), name="mean-colour-1")
    >>> embedder.fit_transform(cells.images)
    CellEmbeddings(n=5, width=3)
    """

    _parameter_constraints = {
        "function": [callable],
        "name": [str],
        "segmenter": [str, os.PathLike, SAMLoRAEmbedder],
        "image_size": [Interval(Integral, 1, None, closed="left")],
        "background": ["boolean"],
        "keep": ["array-like", set, frozenset],
        "device": [str],
        "dtype": [StrOptions({"auto", *DTYPES})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_jobs": [Integral, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "cache_dir": [str, os.PathLike, None],
        "cache_limit": [Integral, str, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        function: Callable[[Any], Any],
        name: str,
        segmenter: str | os.PathLike | SAMLoRAEmbedder = "vit_tiny",
        *,
        image_size: int = 224,
        background: bool = False,
        keep: Collection[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = "auto",
        n_jobs: int | None = None,
        on_error: str = "raise",
        cache_dir: str | os.PathLike | None = None,
        cache_limit: int | str | None = None,
        verbose: int = 0,
    ) -> None:
        self.function = function
        self.name = name
        self.segmenter = segmenter
        self.image_size = image_size
        self.background = background
        self.keep = keep
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.cache_dir = cache_dir
        self.cache_limit = cache_limit
        self.verbose = verbose

    def _load_features(self) -> None:
        if "tokens" in self.keep:
            raise ValueError("Got keep with 'tokens' but a function gives no token maps. Fix: leave 'tokens' out.")
        self.n_features_out_ = self._unmeasured().shapes()[0]

    def _features(self) -> FunctionFeatures:
        return replace(self._unmeasured(), width=self.n_features_out_)

    def _unmeasured(self) -> FunctionFeatures:
        return FunctionFeatures(self.function, str(self.name), int(self.image_size), bool(self.background))

    def _write_files(self, folder: str | os.PathLike) -> Path:
        raise TypeError(
            "A FunctionEmbedder cannot be saved, since no file can hold its function. Fix: make it anew from the "
            "function, and save what comes after it."
        )
