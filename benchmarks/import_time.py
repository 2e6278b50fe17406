"""What importing this package costs beyond torch and scikit-learn, and `sam-bloodcell --help`. Run alone."""

import subprocess
import sys
import time

HELP = "import sys; sys.argv = ['sam-bloodcell', '--help']; from sam_bloodcell.cli import app; app()"


def seconds(code):
    """Return the shortest of five runs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)


ESTIMATORS = "from sam_bloodcell import CellClassifier, CrossDomainAutoencoder, SAMLoRAEmbedder"
base, package, estimators, help_ = map(seconds, ("import torch, sklearn", "import sam_bloodcell", ESTIMATORS, HELP))
print(f"import torch, sklearn    {base:.2f} s")
print(f"import sam_bloodcell     {package:.2f} s, which imports neither")
print(f"with its estimators      {estimators:.2f} s, {estimators / base:.2f}x (target 1.3x)")
print(f"sam-bloodcell --help     {help_:.2f} s (target 1 s)")
