"""Sphinx configuration."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).parent))

from sam_bloodcell import __version__

project = "sam-bloodcell"
author = "The sam-bloodcell authors"
copyright = "The sam-bloodcell authors"
version = release = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "sg_execution_times.rst", "auto_examples/*.ipynb"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
default_role = "code"
numpydoc_show_class_members = False
# Every object of the reference describes its parameters and results. Not required are extended summaries, examples and
# See Also, and return values may have names.
numpydoc_validation_checks = {"all", "ES01", "EX01", "RT02", "SA01"}
numpydoc_validation_exclude = {r"\.CellsFinding\.(stops|text)$"}  # fields of a NamedTuple, which Python documents

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "gallery.place",
    "image_scrapers": ("gallery.save_last_figure",),
    "ignore_repr_types": r"matplotlib\.figure",
    "backreferences_dir": "auto_examples/backreferences",
    "doc_module": ("sam_bloodcell",),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_signature": False,
    "plot_gallery": "True",
}

html_theme = "pydata_sphinx_theme"
html_title = "sam-bloodcell"
html_show_sourcelink = False
# Pages without pages below them need no navigation of their section.
html_sidebars = dict.fromkeys(
    ("index", "own_laboratories", "method", "design", "results", "vit_tiny", "errors", "robustness", "api"), ()
)
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "show_prev_next": True}
