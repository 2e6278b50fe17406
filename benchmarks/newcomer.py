"""From folders to a report and a model: the time and disk that the README's four commands take. Run alone.

python benchmarks/newcomer.py

Draws 1,000 synthetic cells of three laboratories and 100 of a fourth one, and runs the commands as a user would.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sam_bloodcell.datasets import make_blood_cells, save_cells

COMMANDS = {
    "check": "check cells",
    "benchmark": "benchmark cells --out out",
    "train": "train cells --out model",
    "predict": "predict model new --domain new",
}


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_blood_cells(67, domains=["lab_a", "lab_b", "lab_c"], random_state=0)
        save_cells(made, folder / "cells")
        (folder / "cells" / "cells.csv").unlink()
        save_cells(make_blood_cells(20, domains=["lab_d"], random_state=0), folder / "drawn")
        (folder / "drawn" / "lab_d").rename(folder / "new")
        for command, arguments in COMMANDS.items():
            start = time.perf_counter()
            program = [sys.executable, "-m", "sam_bloodcell", *arguments.split()]
            subprocess.run(program, cwd=folder, check=True, capture_output=True)
            print(f"{command:10} {time.perf_counter() - start:4.0f} s", flush=True)
        for made in ("out", "model"):
            size = sum(file.stat().st_size for file in (folder / made).rglob("*") if file.is_file())
            print(f"{made + '/':10} {size / 1e6:4.0f} MB")


if __name__ == "__main__":
    main()
