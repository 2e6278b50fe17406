"""Synthetic smears: cells that no laboratory had to give away."""
