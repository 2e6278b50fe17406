"""`python -m sam_bloodcell`, the same as `sam-bloodcell`."""

from .cli import app

app(prog_name="sam-bloodcell")
