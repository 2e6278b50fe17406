"""`FunctionEmbedder`: any function from crops to vectors, with masks, quality and cache."""

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

from sklearn.utils._param_validation import Interval

from .embedder import SAMLoRAEmbedder
from .features import FunctionFeatures
from .segmented import SegmentedEmbedder


class FunctionEmbedder(SegmentedEmbedder):
    """Embed single cell images with any function, such as a pathology model, an ONNX file or a CNN.

    A segmenter finds the cell in each image. The function receives the cells as arrays and returns vectors. Masks,
    their quality, the cache and all later steps are the same as for `SAMLoRAEmbedder`.

    Parameters
    ----------
    function : callable
        Function that takes a uint8 RGB array of shape (n, S, S, 3), where S is `image_size`, and returns an array of
        shape (n, d), where d is the same for all calls. With `n_jobs`, the function is pickled.
    name : str
        Name and version of the function, such as "uni-1". The cache identifies the function by this name alone.
        **Choose another name whenever the function or its weights change**, or the cache returns the old vectors.
    segmenter : str, path or SAMLoRAEmbedder, default="vit_tiny"
        Network that finds the cells, as in `ViTEmbedder`.
    image_size : int, default=224
        Side of the crops in pixels.
    background : bool, default=False
        Whether the function receives the whole image as a square, with background and neighbouring cells. By default,
        it receives only the cell: the bounding box as a square, with grey outside the mask.
    keep : collection of {"crops", "published_crops"}, default=()
        Data to keep in addition to the vectors, as in `SAMLoRAEmbedder`. There are no token maps.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Data type of the segmenter in `transform`. "auto" is bfloat16 if the device supports it natively, or float32.
    batch_size : int or "auto", default="auto"
        Maximum number of images per call of the function. "auto" is the batch size of the segmenter.
    n_jobs : int, optional
        Number of processes of `transform`, as in `SAMLoRAEmbedder`.
    on_error : {"raise", "nan"}, default="raise"
        Behaviour of `transform` for an unreadable image: raise an error, or return a row of NaN and warn.
    cache_dir : str or path, optional
        Folder that caches embeddings, as in `SAMLoRAEmbedder`.
    cache_limit : int or str, optional
        Size in bytes, or as "20GB", beyond which the least recently used embeddings in `cache_dir` are deleted.
    verbose : int, default=0
        If above 0, show progress bars.

    Attributes
    ----------
    segmenter_ : SAMLoRAEmbedder
        The fitted estimator that finds the cells.
    encoder_ : Encoder
        The forward pass and the function that `transform` runs.
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
        **SegmentedEmbedder._parameter_constraints,
        "function": [callable],
        "name": [str],
        "image_size": [Interval(Integral, 1, None, closed="left")],
        "background": ["boolean"],
    }

    _packing = {"_fitted_features": (lambda features: dict(vars(features)), lambda parts: FunctionFeatures(**parts))}

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
        features = FunctionFeatures(self.function, str(self.name), int(self.image_size), bool(self.background))
        self._fitted_features = replace(features, width=features.shapes()[0])

    def _features(self) -> FunctionFeatures:
        return self._fitted_features

    def check_function_can_be_imported(self) -> None:
        """Raise if only this session has the function, so that no other session could load a saved pipeline."""
        where, name = (getattr(self.function, part, "") for part in ("__module__", "__qualname__"))
        if where == "__main__" or "<" in name:
            raise TypeError(
                f"Got the function {name or self.function!r}, which only this session has: a saved pipeline could not "
                "be loaded. Fix: define it in a module and import it from there, or save the other steps."
            )

    def _write_files(self, folder: str | os.PathLike) -> Path:
        raise TypeError(
            "A FunctionEmbedder cannot be saved, because a file cannot hold its function. Fix: make it anew from the "
            "function, and save the later steps."
        )
