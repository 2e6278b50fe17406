"""Two Dask workers of one thread against one process of two threads. Run alone; needs the extra "dask".

python benchmarks/dask_throughput.py [--images 400]
"""

import argparse
import tempfile
import time

import dask
import joblib
from distributed import Client, LocalCluster

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.bulk import find_images
from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.images.reading import read_content

# Dask's own setting has glibc give memory back after every operation, which halves torch's speed on CPU.
KEEP_MEMORY = {
    "distributed.nanny.pre-spawn-environ": {
        "MALLOC_TRIM_THRESHOLD_": 1 << 30,
        "MALLOC_MMAP_THRESHOLD_": 1 << 25,
        "OMP_NUM_THREADS": 1,
    }
}


def rate(encoder, paths):
    """Return images per second."""
    start = time.perf_counter()
    starts = range(0, len(paths), 16)
    chunks = ([(at + i, read_content(path)) for i, path in enumerate(paths[at : at + 16])] for at in starts)
    n = sum(len(done.rows) for done in encoder.stream(chunks))
    return n / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_cells(make_blood_cells(args.images // 10, random_state=0), folder)
        paths = find_images([folder])["path"].tolist()
        encoder = SAMLoRAEmbedder("vit_tiny").fit(paths).encoder_
        rate(encoder, paths[:32])
        alone = rate(encoder, paths)
        with (
            dask.config.set(KEEP_MEMORY),
            LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster),
            joblib.parallel_config("dask"),
        ):
            rate(encoder, paths[:64])  # workers load the weights
            spread = rate(encoder, paths)
    print(f"one process, two threads: {alone:.1f} images/s")
    print(f"two Dask workers of one thread: {spread:.1f} images/s, {spread / alone:.2f}x (target 0.9x)")


if __name__ == "__main__":
    main()
