"""The cost of a reproduction, estimated before it starts: time, disk and memory."""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from sklearn.base import clone

from ..alignment.autoencoder import CrossDomainAutoencoder
from ..embedding.embedder import SAMLoRAEmbedder
from ..embedding.embeddings import CellEmbeddings
from ..models.sam import PATCH
from ..segmentation.cell import CROP_SIZE

# Cost of a training step of the adapter, forward and backward, relative to a forward pass.
_TRAINING_SHARE = 3
_TRIAL_CELLS = 16


class Cost(NamedTuple):
    """Rough forecast of the seconds of each part of the run, from a measurement on a few cells."""

    adapter: float
    embedding: float
    autoencoder: float
    disk: int  # bytes

    def __str__(self) -> str:
        parts = {"adapter": self.adapter, "embedding": self.embedding, "autoencoder": self.autoencoder}
        size = f"{self.disk / 1e9:.1f} GB" if self.disk >= 1e9 else f"{self.disk / 1e6:.0f} MB"
        times = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in parts.items() if seconds)
        return (
            f"This run needs up to {size} for token maps and crops. Time on this device: {times}; "
            "then the classifiers, whose time was not measured. Work of earlier runs is not repeated."
        )


def stored_bytes(n_cells: int, width: int, image_size: int) -> int:
    """Return the approximate bytes of the records of cells: token maps in float16, crops, and little else."""
    tokens = 2 * width * (image_size // PATCH) ** 2
    return n_cells * (tokens + 3 * CROP_SIZE**2 + 4 * width + image_size**2 // 8)


def check_space(needed: int, cache_dir: str | os.PathLike | None) -> None:
    """Raise if the records will not fit on the disk of their folder, or in memory if there is no folder."""
    if cache_dir is None:
        if needed > (free := psutil.virtual_memory().available):
            found = f"no cache_dir, and {free / 1e9:.1f} GB of free memory for {needed / 1e9:.1f} GB of token maps"
            raise ValueError(f"Got {found}. Fix: cache_dir=..., which keeps them on a disk, or limit=....")
        return
    folder = Path(cache_dir).absolute()
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free + there:
        raise OSError(
            errno.ENOSPC,
            f"Got {free / 1e9:.1f} GB of free space but expected {(needed - there) / 1e9:.1f} GB for token maps. "
            "Fix: name a folder on a larger disk (cache_dir, --cache-dir), or limit the cells (limit, --limit)",
            os.fspath(cache_dir),
        )


def estimate_cost(
    embedder: SAMLoRAEmbedder, autoencoder: CrossDomainAutoencoder, *, n_cells: int, training_cells: int,
    adapter_epochs: int, autoencoder_epochs: int,
) -> Cost:  # fmt: skip
    """Estimate the cost from a forward pass of a fitted embedder and a training step of an autoencoder.

    `training_cells` is the number of cells on which an adapter is trained, or 0 if none is trained.
    """
    forward = _seconds_to_embed(embedder)
    step = _seconds_to_train(autoencoder, embedder.n_features_out_, embedder.image_size // PATCH)
    return Cost(
        adapter=_TRAINING_SHARE * forward * training_cells * adapter_epochs,
        embedding=forward * n_cells,
        autoencoder=step * n_cells * autoencoder_epochs,
        disk=stored_bytes(n_cells, embedder.n_features_out_, embedder.image_size),
    )


def _seconds_to_embed(embedder: SAMLoRAEmbedder) -> float:
    """Return the seconds per image of a forward pass, after a warm-up."""
    encoder = embedder.encoder_
    n = encoder.images_per_pass()
    images = np.random.default_rng(0).integers(0, 256, (n, *2 * (embedder.image_size,), 3), dtype=np.uint8)
    return _warm_seconds(lambda: encoder.forward(images)) / n


def _seconds_to_train(autoencoder: CrossDomainAutoencoder, width: int, side: int) -> float:
    """Return the seconds per cell of a training step, on a few cells of noise."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(_TRIAL_CELLS, width, side, side)).astype(np.float16)
    crops = rng.integers(0, 256, (_TRIAL_CELLS, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
    domain = np.repeat(["a", "b"], _TRIAL_CELLS // 2)
    noise = CellEmbeddings(tokens.astype(np.float32).mean((2, 3)), tokens, crops=crops, domain=domain)
    trial = clone(autoencoder).set_params(epochs=1, batch_size=_TRIAL_CELLS // 2, verbose=0)
    return _warm_seconds(lambda: trial.fit(noise)) / _TRIAL_CELLS


def _warm_seconds(work: Any) -> float:
    """Return the duration of the second run of some work, because the first includes loading and compiling."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return "less than 2 minutes"
