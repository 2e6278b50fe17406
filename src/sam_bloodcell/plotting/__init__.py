"""Results as matplotlib figures: transfer matrices, cells, loss curves, masks, stain and feature maps.

Every function here raises ImportError where matplotlib is not installed.
"""

from .cells import plot_cells, plot_mistakes
from .domains import plot_embedding_map, plot_mask_quality, plot_stain
from .results import plot_confusions, plot_history, plot_transfer_matrix

__all__ = [
    "plot_cells",
    "plot_confusions",
    "plot_embedding_map",
    "plot_history",
    "plot_mask_quality",
    "plot_mistakes",
    "plot_stain",
    "plot_transfer_matrix",
]
