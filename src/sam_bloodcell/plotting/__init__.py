"""Results as pictures: transfer matrices, cells, loss curves and feature maps, as matplotlib figures."""

from .cells import plot_cells, plot_mistakes
from .laboratories import plot_embedding_map, plot_mask_quality, plot_stain
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
