"""Reproduction of the papers' tables: Matek-19 and Acevedo-20 in 13 classes, beside the published numbers."""

from .published import published_results
from .run import limit_cells, reproduce

__all__ = ["limit_cells", "published_results", "reproduce"]
