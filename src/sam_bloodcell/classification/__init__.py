"""Classification: the whole pipeline from images to classes as one estimator."""

from .cell_classifier import CellClassifier
from .neighbor_smoothing import NeighborSmoothedClassifier
from .stain_augmented import StainAugmentedClassifier

__all__ = ["CellClassifier", "NeighborSmoothedClassifier", "StainAugmentedClassifier"]
