"""Pixels in: whatever a user calls an image becomes uint8 RGB here, and nowhere else."""

from ..exceptions import ImageReadError
from .masks import load_mask
from .reading import load_rgb

__all__ = ["ImageReadError", "load_mask", "load_rgb"]
