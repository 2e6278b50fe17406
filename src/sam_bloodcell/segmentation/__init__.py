"""Stage 1: find the cell in an image, and teach the network to."""

from .stain import stain_mask

__all__ = ["stain_mask"]
