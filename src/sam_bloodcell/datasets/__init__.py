"""Sources of cells: your own folders, public datasets, one vocabulary of labels, and synthetic smears."""

from ..cells import Cells
from ..synthetic.optics import LABORATORIES, Laboratory
from ..synthetic.smears import COMMON_CLASSES, draw_cell, make_blood_cells
from .cells import drop_unreadable, join_cells, keep_masked, load_cells, save_cells
from .download import data_home, fetch_file
from .examination import CellsExamination, CellsFinding, examine_cells
from .labels import HARMONISED_CLASSES, harmonise_labels, read_label_maps
from .public import (
    fetch_bloodmnist,
    fetch_zheng18,
    load_acevedo20,
    load_bccd,
    load_image_dataset,
    load_lisc,
    load_matek19,
    load_mll23,
    load_raabin,
    load_zheng18,
    read_bloodmnist,
)

__all__ = [
    "COMMON_CLASSES",
    "HARMONISED_CLASSES",
    "LABORATORIES",
    "Cells",
    "CellsExamination",
    "CellsFinding",
    "Laboratory",
    "data_home",
    "draw_cell",
    "drop_unreadable",
    "examine_cells",
    "fetch_bloodmnist",
    "fetch_file",
    "fetch_zheng18",
    "harmonise_labels",
    "join_cells",
    "keep_masked",
    "load_acevedo20",
    "load_bccd",
    "load_cells",
    "load_image_dataset",
    "load_lisc",
    "load_matek19",
    "load_mll23",
    "load_raabin",
    "load_zheng18",
    "make_blood_cells",
    "read_bloodmnist",
    "read_label_maps",
    "save_cells",
]  # fmt: skip
