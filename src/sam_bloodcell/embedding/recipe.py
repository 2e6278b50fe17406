"""Recipes: everything except the image that determines an embedding."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from ..models.sam import PixelStats
from ..segmentation.measures import MEASURES
from ..weights.backbones import Backbone

# Part of every recipe's digest. Increase it whenever a change of the code gives another embedding or quality for the
# same weights and image, or refuses an image that was embedded before.
_VERSION = 2

# How SAM's tokens become an embedding. MASK is their mean over the cell. TEXTURE appends the mean and the standard
# deviation, over the cell, of the tokens after a third of the blocks. MEASURED appends numbers that are measured on the
# pixels of the cell.
MASK, TEXTURE, MEASURED = "mask", "mask+texture", "mask+measures"


@dataclass(frozen=True)
class NetworkSpec:
    """A small reference to a network, which can be sent to a worker and from which the network can be loaded.

    `adapter` is a digest, and `dtype`, the number type of the encoder, is a key of `network.DTYPES`. If `device` is
    "auto", the process that loads the network chooses it.
    """

    backbone: Backbone
    adapter: str | None
    image_size: int
    dtype: str
    device: str = "auto"


class Features(Protocol):
    """Features of the cells from another source than the network that finds the cells."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Return everything except the image and its mask that determines the features, for the recipe's digest."""

    @property
    def view_size(self) -> int | None:
        """Return the side in pixels of the square images to embed; None is the size in which the cells are found."""

    @property
    def token_share(self) -> int:
        """Return the length of an embedding, as a multiple of the length of a token; 0 if there are no token maps."""

    def describe(self) -> dict[str, Any]:
        """Return the settings that `EmbeddingStore.info` shows."""

    def activation_bytes(self) -> int:
        """Return the bytes of the widest activation of one image."""

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Return the length of an embedding, and the shape of a token map (C, h, w)."""

    def embed(self, views: NDArray, pixels: NDArray, masks: Sequence[NDArray]) -> tuple[NDArray, NDArray | None]:
        """Return the embeddings (B, D) and token maps (B, C, h, w) of square images (B, V, V, 3).

        The masks (S, S) of the cells belong to `pixels`, the same images at the size (B, S, S, 3).
        """


@dataclass(frozen=True)
class Recipe:
    """A network, its pixel statistics, the prompt of its decoder, the type of the crops, and the pooling of its tokens.

    If there are `features`, they embed the cells, the network only finds the cells, and `pooling` has no effect.
    """

    network: NetworkSpec
    pixel_stats: PixelStats
    prompt: str
    published_crops: bool = False
    features: Features | None = None
    pooling: str = MASK

    @property
    def token_share(self) -> int:
        """Return the length of an embedding, as a multiple of the length of a token; 0 if there are no token maps."""
        if self.features is not None:
            return self.features.token_share
        return 3 if self.pooling == TEXTURE else 1

    @property
    def n_measures(self) -> int:
        """Return how many of the last numbers of an embedding are measured on pixels instead of pooled from tokens."""
        return len(MEASURES) if self.features is None and self.pooling == MEASURED else 0

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the recipe; it leaves out the device, which only changes the rounding."""
        n = self.network
        # Optional parts are only included if they are used, so that records which were stored without them stay valid.
        crops = ("published crops",) if self.published_crops else ()
        others = () if self.features is None else self.features.key
        parts = (_VERSION, n.backbone.digest, n.adapter, n.image_size, n.dtype, self.pixel_stats, self.prompt, *crops)
        parts += others
        parts += (self.pooling,) if self.pooling != MASK and self.features is None else ()
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the settings that `EmbeddingStore.info` shows."""
        n = self.network
        if self.features is not None:
            return {**self.features.describe(), "segmenter": n.backbone.name, "adapter": n.adapter and n.adapter[:12]}
        return {
            "backbone": n.backbone.name,
            "adapter": n.adapter and n.adapter[:12],
            "image_size": n.image_size,
            "dtype": n.dtype,
            "prompt": self.prompt,
            **({} if self.pooling == MASK else {"pooling": self.pooling}),
        }
