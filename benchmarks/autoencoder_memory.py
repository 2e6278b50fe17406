"""Peak memory of fitting and transforming out of a memory-mapped store, by the number of cells.

    python benchmarks/autoencoder_memory.py

Writes a store of random token maps and crops to a temporary folder (20,000 cells of vit_tiny: 2.5 GB). Every size
runs in a process of its own: one epoch of "conv", then `transform`. Counted is anonymous memory (RssAnon), which
leaves out the mapped file's pages. Linux only.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder
from sam_bloodcell.segmentation.cell import QUALITY

SIZES = (1_000, 20_000)
STORES = {"tokens": ((192, 14, 14), np.float16), "crops": ((128, 128, 3), np.uint8)}


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def write_stores(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for name, (shape, dtype) in STORES.items():
        store = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (n, *shape))
        for start in range(0, n, 500):
            store[start : start + 500] = rng.integers(0, 9, store[start : start + 500].shape)


def peak_mb(folder: Path, n: int) -> float:
    """Peak of fit and transform above what the process held before."""
    tokens, crops = (np.load(folder / f"{name}.npy", mmap_mode="r")[:n] for name in STORES)
    pooled = np.random.default_rng(0).normal(size=(n, tokens.shape[1])).astype(np.float32)
    cells = CellEmbeddings(pooled, tokens, np.zeros((n, 1), bool), crops, np.zeros(n, QUALITY))
    domain = np.arange(n) % 2
    before, seen, done = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    autoencoder = CrossDomainAutoencoder(architecture="conv", epochs=1, random_state=0, verbose=1)
    autoencoder.fit(cells, domain=domain).transform(cells, domain=domain)
    done.set()
    watcher.join()
    return max(seen) - before


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(peak_mb(Path(sys.argv[1]), int(sys.argv[2])))
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        write_stores(Path(folder), max(SIZES))
        peaks = []
        for size in SIZES:
            start = time.perf_counter()
            done = subprocess.run([sys.executable, __file__, folder, str(size)], check=True, stdout=subprocess.PIPE)
            peaks.append(float(done.stdout))
            print(f"{size:6d} cells: peak {peaks[-1]:.0f} MB above the start, {time.perf_counter() - start:.0f} s")
    print(f"{max(SIZES) // min(SIZES)}x the cells, {peaks[-1] / peaks[0]:.2f}x the memory")
