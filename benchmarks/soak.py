"""Embed, fit and predict over and over, and see whether memory, files or threads grow.

    python benchmarks/soak.py --minutes 60

prints a line a minute and, at the end, growth from the first fifth of the run to the last: it fails above 5% of memory
or any open file more. Every round uses images that were never seen before, a cache that is limited, and new estimators.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells

CELLS = make_blood_cells(2, random_state=0)


def one_round(seed: int, cache: Path) -> int:
    """Fit a whole pipeline on cells with new pixels and use it; return the number of cells."""
    noise = np.random.default_rng(seed).integers(0, 8, (len(CELLS.images), 1, 1, 3), dtype=np.uint8)
    images = np.maximum(np.stack(CELLS.images), 8) - noise
    pipe = make_pipeline(
        SAMLoRAEmbedder("vit_tiny", cache_dir=cache, cache_limit="20MB"),
        CrossDomainAutoencoder(random_state=seed),
        LogisticRegression(max_iter=500),
    )
    pipe.fit(images, CELLS.target, crossdomainautoencoder__domain=CELLS.domain)
    pipe.predict(images)
    pipe[0].predict_masks(images[:2])
    return len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    minutes = parser.parse_args().minutes
    process, start, seen, rounds, told, samples = psutil.Process(), time.monotonic(), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        while (passed := (time.monotonic() - start) / 60) < minutes:
            seen += one_round(rounds, Path(folder))
            rounds += 1
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.npy"))
            sample = (process.memory_info().rss / 1e6, process.num_fds(), process.num_threads(), size / 1e6)
            samples.append(sample)
            if passed >= told:
                told += 1
                print("minute {:5.1f}, round {:4d}: {:6.0f} MB, {} files, {} threads, cache {:.0f} MB".format(
                    passed, rounds, *sample), flush=True)  # fmt: skip
    fifth = max(1, len(samples) // 5)
    early, late = np.median(samples[1 : 1 + fifth], axis=0), np.median(samples[-fifth:], axis=0)
    print(
        f"{rounds} rounds, {seen} cells in {minutes:g} minutes. Memory {early[0]:.0f} -> {late[0]:.0f} MB "
        f"({late[0] / early[0]:.3f}x), files {early[1]:.0f} -> {late[1]:.0f}, threads {early[2]:.0f} -> {late[2]:.0f}"
    )
    sys.exit(bool(late[0] > 1.05 * early[0] or late[1] > early[1]))


if __name__ == "__main__":
    main()
