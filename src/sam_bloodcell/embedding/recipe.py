"""All that decides an embedding but the image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from ..models.sam import PixelStats
from ..segmentation.measures import MEASURES
from ..weights.backbones import Backbone

# Part of every recipe's digest: goes up whenever the same weights and image give another embedding or quality, or an
# image that was embedded is refused.
_VERSION = 2

# How SAM's tokens become an embedding: their mean over the cell; then also, of the tokens after a third of the blocks,
# the mean and standard deviation over the cell; or else numbers measured on the pixels of the cell.
MASK, TEXTURE, MEASURED = "mask", "mask+texture", "mask+measures"


@dataclass(frozen=True)
class NetworkSpec:
    """A network by reference: light to send, enough to load it again.

    `adapter` is a digest, `dtype` (of the encoder) a key of `network.DTYPES`; "auto" as device is resolved where the
    network is loaded.
    """

    backbone: Backbone
    adapter: str | None
    image_size: int
    dtype: str
    device: str = "auto"


class Features(Protocol):
    """What embeds the cells instead of the network that finds them."""

    @property
    def key(self) -> tuple[Any, ...]:
        """All that decides the features but the image and its mask; part of the recipe's digest."""

    @property
    def view_size(self) -> int | None:
        """Side in pixels of the square images to embed; None takes those that the cells are found in."""

    @property
    def token_share(self) -> int:
        """How many times as long as a token an embedding is; 0 where there are no token maps."""

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""

    def activation_bytes(self) -> int:
        """Bytes of the widest activation of one image."""

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Length of an embedding, and the shape of a token map (C, h, w)."""

    def embed(self, views: NDArray, pixels: NDArray, masks: Sequence[NDArray]) -> tuple[NDArray, NDArray | None]:
        """Embed square images (B, V, V, 3) whose cells have masks (S, S) in `pixels` (B, S, S, 3).

        Returns embeddings (B, D) and token maps (B, C, h, w).
        """


@dataclass(frozen=True)
class Recipe:
    """A network, the statistics that normalise its pixels, the prompt of its decoder, and whose crops are cut.

    Where there are `features`, they embed the cells, and the network only finds them: `pooling` is of its tokens.
    """

    network: NetworkSpec
    pixel_stats: PixelStats
    prompt: str
    published_crops: bool = False
    features: Features | None = None
    pooling: str = MASK

    @property
    def token_share(self) -> int:
        """How many times as long as a token an embedding is; 0 where there are no token maps."""
        if self.features is not None:
            return self.features.token_share
        return 3 if self.pooling == TEXTURE else 1

    @property
    def n_measures(self) -> int:
        """How many numbers of an embedding, its last ones, are measured on the pixels and belong to no token."""
        return len(MEASURES) if self.features is None and self.pooling == MEASURED else 0

    @property
    def digest(self) -> str:
        """SHA-256; the device is left out, since it changes rounding alone."""
        n = self.network
        # Named only where they are wanted: what is stored without them stays valid.
        crops = ("published crops",) if self.published_crops else ()
        others = () if self.features is None else self.features.key
        parts = (_VERSION, n.backbone.digest, n.adapter, n.image_size, n.dtype, self.pixel_stats, self.prompt, *crops)
        parts += others
        parts += (self.pooling,) if self.pooling != MASK and self.features is None else ()
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
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
