"""Time and memory of `NeighborSmoothedClassifier` at two numbers of cells of one laboratory. Run alone.

python benchmarks/neighbor_smoothing.py [--cells 10000 100000] [--features 192]

The cells are synthetic: five classes of features with noise. Memory is the peak of what is allocated beside the
features themselves, in a second run; the last line compares the two numbers of cells.
"""

import argparse
import subprocess
import sys

SCRIPT = """
import sys, time, tracemalloc
import numpy as np
from sklearn.linear_model import LogisticRegression
from sam_bloodcell import NeighborSmoothedClassifier

n, width = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
centres, mixing = rng.normal(size=(5, 20)), rng.normal(size=(20, width))

def draw(n):
    y = rng.integers(5, size=n)
    latent = centres[y] + 0.8 * rng.normal(size=(n, 20))
    return (latent @ mixing).astype(np.float32) + rng.normal(size=(n, width)).astype(np.float32), y

X, y = draw(500)
classifier = NeighborSmoothedClassifier(LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
X, y = draw(n)
began = time.perf_counter()
smoothed = classifier.predict(X)
seconds = time.perf_counter() - began
tracemalloc.start()
alone = classifier.estimator_.predict(X)
classifier.predict(X)
peak = tracemalloc.get_traced_memory()[1] / 1e6
print(f"{seconds:.1f} {peak:.0f} {(alone == y).mean():.3f} {(smoothed == y).mean():.3f}")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--features", type=int, default=192)
    args = parser.parse_args()
    found = []
    for n in args.cells:
        command = [sys.executable, "-c", SCRIPT, str(n), str(args.features)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds, peak, alone, smoothed = map(float, output)
        found.append((seconds, peak))
        print(f"{n} cells: {seconds:.1f} s, peak {peak:.0f} MB beside {4e-6 * args.features * n:.0f} MB of features")
        print(f"{n} cells: accuracy {alone:.3f} without smoothing, {smoothed:.3f} with it", flush=True)
    (seconds, peak), (more_seconds, more_peak) = found
    times = args.cells[1] / args.cells[0]
    print(
        f"{times:.0f} times the cells: {more_seconds / seconds:.1f} times the time, {more_peak / peak:.1f} the memory"
    )


if __name__ == "__main__":
    main()
