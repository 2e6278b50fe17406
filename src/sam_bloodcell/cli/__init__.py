"""The command line: it parses arguments, calls the library and prints results."""

from .app import app

__all__ = ["app"]
