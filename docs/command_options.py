"""The arguments and options of each command, as `typer` documents them, in the place of `<!-- options: COMMAND -->`."""

import re
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests read this file without Sphinx
    from sphinx.application import Sphinx


@cache
def documented() -> dict[str, str]:
    """Return the usage, arguments and options of each command by its name, as Markdown."""
    command = [sys.executable, "-m", "typer", "sam_bloodcell.cli", "utils", "docs", "--name", "sam-bloodcell"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^#+ `sam-bloodcell ?(.*)`$", text, flags=re.MULTILINE)
    named = zip(parts[1::2], parts[2::2], strict=True)
    return {name: "**Usage**" + part.partition("**Usage**")[2].rstrip() for name, part in named}


def _write_options(app: "Sphinx", docname: str, source: list[str]) -> None:
    source[0] = re.sub(r"<!-- options: (.*?) -->", lambda found: documented()[found[1]], source[0])


def setup(app: "Sphinx") -> dict[str, bool]:
    """Fill in the options where a page is read."""
    app.connect("source-read", _write_options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
