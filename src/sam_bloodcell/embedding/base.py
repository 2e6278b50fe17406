"""The base class of all embedders of cells, which embeds each image once."""

import os
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted

from ..exceptions import ImageReadError, warn_caller
from ..extras import tqdm
from ..images.collections import as_image_list, domain_of, name_rows
from ..images.frames import frame
from ..images.reading import RGB, ComputedImage, load_rgb
from ..models import devices
from ..models.sam import PixelStats
from ..segmentation.cell import cell_mask, unframe
from ..weights.backbones import MODEL_FILES
from ..weights.pretrained import Pretrained
from .containers import as_container
from .embeddings import CellEmbeddings
from .encoder import Encoder
from .network import DTYPES, free_network
from .once import embed_once
from .session import KEPT_ON_REQUEST, PUBLISHED_CROPS
from .store import MEMORY, EmbeddingStore

_Embedder = TypeVar("_Embedder", bound="CellEmbedder")


class CellEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Pretrained):
    """The base class of all embedders; a subclass defines `fit` and the forward pass that embeds."""

    __metadata_request__fit = {"masks": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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

    backbone: str | os.PathLike
    keep: Collection[str]
    device: str
    dtype: str
    batch_size: int | str
    n_jobs: int | None
    on_error: str
    cache_dir: str | os.PathLike | None
    cache_limit: int | str | None
    verbose: int
    n_features_out_: int

    @abstractmethod
    def fit(self: _Embedder, X: Any, y: Any = None, *, masks: Any = None) -> _Embedder:
        """Load the weights."""

    @property
    @abstractmethod
    def encoder_(self) -> Encoder:
        """Return the forward pass that `transform` runs."""

    def fit_transform(self, X: Any, y: Any = None, *, masks: Sequence[Any] | str | None = None) -> CellEmbeddings:
        """Fit, then embed the same images.

        Parameters
        ----------
        X : n images
            Images to fit and embed, as in `fit`. The method raises the errors of `fit` and `transform`.
        y : object, default=None
            Ignored.
        masks : sequence of n masks or "auto", optional
            Masks of the cells, as in `fit`.

        Returns
        -------
        CellEmbeddings
            The embeddings, as from `transform`.
        """
        X = list(X) if isinstance(X, Iterator) else X  # because fit would exhaust an iterator
        return self.fit(X, y, masks=masks).transform(X)

    def transform(self, X: Any) -> CellEmbeddings:
        """Embed images, row by row.

        Parameters
        ----------
        X : n images
            Images to embed, as in `fit`.

        Returns
        -------
        CellEmbeddings
            Embeddings, which numpy treats as a float32 array of shape (n, C), with the masks and their quality. If no
            plausible cell is found, the whole image is embedded, its quality is flagged, and a warning names the row.
            After ``set_output`` for pandas or polars, the result is a table of the embeddings, but the next step of a
            pipeline still receives the masks, their quality and the other parts.

        Raises
        ------
        ValueError, ImageReadError
            If X is empty, or an image cannot be read and ``on_error="raise"``; the message names the row and the file.
        """
        check_is_fitted(self)
        images = as_image_list(X)
        unreadable: dict[int, str] | None = {} if self.on_error == "nan" else None
        with tqdm(total=len(images), desc="embedding", unit="cell", disable=self.verbose < 1) as bar:
            embedded = embed_once(self.encoder_, images, self._store(), bar=bar, unreadable=unreadable)
        embedded.domain, embedded.names = domain_of(X), tuple(self.get_feature_names_out())
        if unreadable:
            warn_caller(_told_unreadable(unreadable, len(images), "are embedded as NaN"))
        # Warnings name only images that the caller passed, and not views that another estimator computed.
        given = np.array([not isinstance(image, ComputedImage) for image in images])
        fallbacks = np.flatnonzero(embedded.quality["fallback"] & given)
        if len(fallbacks):
            warn_caller(
                f"No plausible cell was found in {len(fallbacks)} of {given.sum()} images ({name_rows(fallbacks)}); "
                "they are embedded as whole images and flagged as 'fallback' in their quality. Fix: look at these "
                "images, and leave out those without a cell."
            )
        flat = np.flatnonzero(embedded.quality["flat"] & given)
        if len(flat):
            warn_caller(
                f"{len(flat)} of {given.sum()} images are of one colour ({name_rows(flat)}) and show no cell; "
                "they are flagged as 'flat' in their quality. Fix: leave these images out."
            )
        return as_container(embedded, _get_output_config("transform", self)["dense"], X)

    def predict_masks(self, X: Any) -> list[NDArray[np.bool_] | None]:
        """Find the cell in each image.

        Parameters
        ----------
        X : n images
            Images to segment, as in `fit`.

        Returns
        -------
        list of n bool arrays of shape (H, W)
            The mask of each image, of the size of the image. With ``on_error="nan"``, the mask of an unreadable image
            is None, and a warning names the row.

        Raises
        ------
        ValueError, ImageReadError
            As in `transform`.
        """
        check_is_fitted(self)
        images = as_image_list(X)
        masks: list[NDArray[np.bool_] | None] = [None] * len(images)
        unreadable: dict[int, str] = {}
        encoder = self.encoder_.segmenter()
        size = encoder.images_per_pass()
        with tqdm(total=len(images), desc="segmenting", unit="cell", disable=self.verbose < 1) as bar:
            for start in range(0, len(images), size):
                rows = range(start, min(start + size, len(images)))
                pictures = self._read_pictures(images, rows, unreadable)
                if pictures:
                    _, probability = encoder.forward(
                        np.stack([frame(picture, encoder.recipe.network.image_size) for picture in pictures.values()])
                    )
                    for (row, picture), found in zip(pictures.items(), probability, strict=True):
                        masks[row] = cell_mask(unframe(found, picture.shape[:2]))
                bar.update(len(rows))
        if unreadable:
            warn_caller(_told_unreadable(unreadable, len(images), "have no mask"))
        return masks

    @staticmethod
    def free_network() -> None:
        """Free the memory of the loaded network, also on a GPU; the next `transform` loads the network again."""
        free_network()

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _backbone_name(self) -> str:
        """Return the backbone's name; the path of a file becomes absolute, because the working folder may change."""
        name = str(os.fspath(self.backbone))
        path = Path(name)
        is_local = path.is_file() or any((path / file).is_file() for file in MODEL_FILES)
        return str(path.absolute()) if is_local and name != "vit_tiny" else name

    def _dtype_name(self) -> str:
        """Return the number type of the forward pass, which "auto" chooses by the device."""
        device, dtype = devices.choose(str(self.device)), str(self.dtype)  # numpy's text type would change the digest
        if dtype == "auto":
            dtype = "bfloat16" if devices.half_dtype(device) else "float32"
        return dtype

    def _cache_folder(self) -> str | None:
        return None if self.cache_dir is None else str(Path(self.cache_dir).absolute())

    def _read_pictures(self, images: Sequence[Any], rows: Sequence[int], unreadable: dict[int, str]) -> dict[int, RGB]:
        """Read images by row; with ``on_error="nan"``, `unreadable` gets the reason for each unreadable image."""
        pictures = {}
        for row in rows:
            try:
                pictures[row] = load_rgb(images[row], row)
            except ImageReadError as exc:
                if self.on_error == "raise":
                    raise
                unreadable[row] = str(exc)
        return pictures

    def _store(self) -> EmbeddingStore:
        folder = self._cache_folder()
        return MEMORY if folder is None else EmbeddingStore(folder, self.cache_limit)

    def _checked_keep(self) -> tuple[str, ...]:
        """Return the names of the parts that records keep; published crops are kept as "crops"."""
        allowed = (*KEPT_ON_REQUEST, PUBLISHED_CROPS)
        if isinstance(self.keep, str) or any(part not in allowed for part in self.keep):
            raise ValueError(
                f"Got keep={self.keep!r} but expected a collection of {', '.join(map(repr, allowed))}. "
                'Fix: keep=("tokens", "crops").'
            )
        if "crops" in self.keep and PUBLISHED_CROPS in self.keep:
            raise ValueError(f"Got keep={self.keep!r} but expected one kind of crops. Fix: leave one of the two out.")
        return tuple("crops" if part == PUBLISHED_CROPS else str(part) for part in self.keep)


def _told_unreadable(unreadable: dict[int, str], n: int, outcome: str) -> str:
    rows = sorted(unreadable)
    return (
        f"{len(rows)} of {n} images cannot be read and {outcome} ({name_rows(rows)}); the first: {unreadable[rows[0]]}"
    )


def checked_pixel_stats(pixel_stats: Any) -> PixelStats:
    """Return a user's pixel statistics as tuples of floats; raise unless they are in 0-255 units."""
    values = np.asarray(pixel_stats, dtype=float)
    sensible = values.shape == (2, 3) and np.isfinite(values).all() and (values[1] > 0).all()
    sensible = sensible and 0 <= values[0].min() <= values[0].max() <= 255
    # Statistics below 1 come from other libraries, whose colours are between 0 and 1.
    if not sensible or values.max() < 1:
        raise ValueError(
            f"Got pixel_stats={pixel_stats!r} but expected ((mean R, G, B), (std R, G, B)) in 0-255 units. "
            "Fix: pass two rows of three numbers, the standard deviations above 0; times 255 if they are of 0 to 1."
        )
    return tuple(values[0].tolist()), tuple(values[1].tolist())
