"""What `import sam_bloodcell` and `sam-bloodcell --help` cost beyond torch and scikit-learn. Run alone."""

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


base, ours, help_ = map(seconds, ("import torch, sklearn", "import sam_bloodcell", HELP))
print(f"import torch, sklearn   {base:.2f} s")
print(f"import sam_bloodcell    {ours:.2f} s, {ours / base:.2f}x (target 1.3x)")
print(f"sam-bloodcell --help    {help_:.2f} s, {help_ - base:.2f} s of its own (target 1 s)")
