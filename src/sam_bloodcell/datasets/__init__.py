"""Cells to work with: loaders for your own folders, and synthetic smears."""

from ._load import load_cells, save_cells
from ._optics import LABORATORIES, Laboratory
from ._synthetic import COMMON_CLASSES, draw_cell, make_blood_cells

__all__ = [
    "COMMON_CLASSES",
    "LABORATORIES",
    "Laboratory",
    "draw_cell",
    "load_cells",
    "make_blood_cells",
    "save_cells",
]
