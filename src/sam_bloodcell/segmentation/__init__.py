"""Segmentation: find the cell in an image, and fine-tune the network that finds it."""

from .lora_training import LoRATraining
from .stain import stain_mask

__all__ = ["LoRATraining", "stain_mask"]
