"""Sphinx configuration."""

import os
import re
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).parent))

from docutils import nodes

from sam_bloodcell import __version__

project = "sam-bloodcell"
author = "The sam-bloodcell authors"
copyright = "The sam-bloodcell authors"
version = release = __version__
extensions = [
    "command_options",
    "math_without_network",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "sg_execution_times.rst", "auto_examples/*.ipynb"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
default_role = "code"
numpydoc_show_class_members = False
autodoc_member_order = "bysource"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

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
    "thumbnail_size": (400, 280),
}

html_theme = "pydata_sphinx_theme"
html_title = f"sam-bloodcell {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Pages without pages below them need no navigation of their section.
html_sidebars = dict.fromkeys(("index", "install", "own_laboratories", "command_line"), ())
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "header_links_before_dropdown": 8,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "footer_start": ["version", "copyright"],
    "footer_end": ["theme-version"],
}
links = dict(line.split(", ", 1) for line in metadata("sam-bloodcell").get_all("Project-URL") or ())
if "Repository" in links:
    html_theme_options["icon_links"] = [
        {"name": "Repository", "url": links["Repository"], "icon": "fa-solid fa-code-branch"}
    ]


def _leave_out_scikit_learn(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out methods that scikit-learn defines, such as `set_output`: their texts link into its own docs."""
    return True if str(getattr(member, "__module__", "")).startswith("sklearn.") else None


def _mark_numbers(app: Any, doctree: nodes.document) -> None:
    """Give cells of tables that contain only numbers the class "number", because site.css does not wrap them."""
    for cell in doctree.findall(nodes.entry):
        if re.fullmatch(r"[\d\s.,/()\[\]%±<-]*\d[\d\s.,/()\[\]%±<-]*", cell.astext()):
            cell["classes"].append("number")


def setup(app: Any) -> None:
    """Connect to autodoc and to the pages that were read."""
    app.connect("doctree-read", _mark_numbers)
    app.connect("autodoc-skip-member", _leave_out_scikit_learn)
