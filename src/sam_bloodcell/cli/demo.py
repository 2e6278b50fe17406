"""`sam-bloodcell demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .benchmark import benchmark
from .options import Architecture, BatchSize, Device, Epochs, Folds, Jobs, Out, Preset, Quiet, Seed


def demo(
    out: Out = Path("demo"),
    cells_per_class: Annotated[int, typer.Option(min=5, help="Cells per class and laboratory.")] = 24,
    architecture: Architecture = "auto",
    preset: Preset = None,
    epochs: Epochs = None,
    cv: Folds = 5,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = None,
    n_jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Draw cells of two synthetic laboratories and run the benchmark on them, offline, with the packaged vit_tiny.

    Example: sam-bloodcell demo --out demo
    """
    from ..datasets import make_blood_cells, save_cells

    table = save_cells(make_blood_cells(cells_per_class, random_state=seed), out / "cells")
    benchmark(
        table, out=out, architecture=architecture, preset=preset, epochs=epochs, cv=cv, seed=seed, device=device,
        batch_size=batch_size, n_jobs=n_jobs, quiet=quiet,
    )  # fmt: skip
