"""Stage 1: find the cell in an image, and teach the network to."""

from .lora_training import LoRATraining
from .stain import stain_mask

__all__ = ["LoRATraining", "stain_mask"]
