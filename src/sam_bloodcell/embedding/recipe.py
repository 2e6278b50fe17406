"""All that decides an embedding but the image."""

import hashlib
from dataclasses import dataclass
from typing import Any

from ..models.sam import PixelStats
from ..weights.backbones import Backbone

# Part of every recipe's digest: goes up whenever the same weights and image give another embedding or quality, or an
# image that was embedded is refused.
_VERSION = 2


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


@dataclass(frozen=True)
class Recipe:
    """A network, the statistics that normalise its pixels, the prompt of its decoder, and whose crops are cut."""

    network: NetworkSpec
    pixel_stats: PixelStats
    prompt: str
    published_crops: bool = False

    @property
    def digest(self) -> str:
        """SHA-256; the device is left out, since it changes rounding alone."""
        n = self.network
        # Named only where they are wanted: what is stored without them stays valid.
        crops = ("published crops",) if self.published_crops else ()
        parts = (_VERSION, n.backbone.digest, n.adapter, n.image_size, n.dtype, self.pixel_stats, self.prompt, *crops)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
        n = self.network
        return {
            "backbone": n.backbone.name,
            "adapter": n.adapter and n.adapter[:12],
            "image_size": n.image_size,
            "dtype": n.dtype,
            "prompt": self.prompt,
        }
