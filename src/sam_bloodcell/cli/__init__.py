"""The command line; it parses, calls and prints, and has no logic of its own."""

from .app import app

__all__ = ["app"]
