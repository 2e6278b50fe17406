"""Synthetic smears: drawn blood cells for examples and tests, without patient data."""
