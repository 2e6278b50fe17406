"""Sphinx configuration."""

from sam_bloodcell import __version__

project = "sam-bloodcell"
author = "The sam-bloodcell authors"
copyright = "The sam-bloodcell authors"
version = release = __version__
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
numpydoc_show_class_members = False
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
