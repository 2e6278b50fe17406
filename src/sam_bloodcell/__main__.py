"""`python -m sam_bloodcell`, the same as `sam-bloodcell`."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="sam-bloodcell")
