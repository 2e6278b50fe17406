"""The papers' published files, by their public name."""

from .weights.published import PUBLISHED_PIXEL_STATS, read_published_adapter
from .weights.published_autoencoders import read_published_autoencoder

__all__ = ["PUBLISHED_PIXEL_STATS", "read_published_adapter", "read_published_autoencoder"]
