"""Reading of images: paths, PIL images and arrays become uint8 RGB, and masks become bool arrays."""

from ..exceptions import ImageReadError
from .masks import load_mask
from .reading import load_rgb

__all__ = ["ImageReadError", "load_mask", "load_rgb"]
