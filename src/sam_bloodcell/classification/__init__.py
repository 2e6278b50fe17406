"""Stage 3: the whole line from images to answers as one estimator."""

from .cell_classifier import CellClassifier
from .neighbor_smoothing import NeighborSmoothedClassifier

__all__ = ["CellClassifier", "NeighborSmoothedClassifier"]
