"""The papers' published files, by their public name."""

from .weights.published import PUBLISHED_PIXEL_STATS, read_published_adapter

__all__ = ["PUBLISHED_PIXEL_STATS", "read_published_adapter"]
