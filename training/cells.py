"""What the training scripts feed on: the shared real cells, synthetic cells, and which cells stay unseen."""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sam_bloodcell.datasets import COMMON_CLASSES, Laboratory, draw_cell
from sam_bloodcell.images.frames import pad_to_square, resize
from sam_bloodcell.images.masks import load_mask
from sam_bloodcell.images.reading import load_rgb

# The laboratories whose licences allow training, and those that the first encoder saw. All others only measure.
TRAINED = ("acevedo", "cellavision", "munich_bm", "raabin_unlabelled", "tecom")
FIRST = ("acevedo", "cellavision", "tecom")
SHARED_DATA = Path(os.environ.get("SAM_BLOODCELL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def is_held_out(path: str) -> bool:
    """Whether no training may see this cell: one in five, by the SHA-1 of its path in the table of cells."""
    return int(hashlib.sha1(path.encode()).hexdigest(), 16) % 5 == 0


@dataclass
class Cells:
    """Square cells of one size in memory; `mask` is -1 where a cell has none, `kind` where it has no type."""

    pixels: np.ndarray  # (n, S, S, 3) uint8
    masks: np.ndarray  # (n, S, S) int8: 1 inside the cell, 0 outside, -1 unknown
    domain: np.ndarray  # (n,) str
    kind: np.ndarray  # (n,) int: synthetic cell type, -1 unknown


def manifest() -> list[dict[str, str]]:
    """Rows of cells.csv and more_cells.csv."""
    rows = []
    for name in ("cells.csv", "more_cells.csv"):
        with (SHARED_DATA / name).open() as file:
            rows += csv.DictReader(file)
    return rows


def training_rows(laboratories: Sequence[str] = TRAINED, without: str | None = None) -> list[dict[str, str]]:
    """Rows of some laboratories that training may see, without one laboratory if asked."""
    allowed = set(laboratories) & set(TRAINED) - {without}
    return [row for row in manifest() if row["domain"] in allowed and not is_held_out(row["path"])]


def real_cells(rows: list[dict[str, str]], size: int) -> Cells:
    """Load cells, without looking at a label."""
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    masks = np.full((len(rows), size, size), -1, np.int8)
    for i, row in enumerate(tqdm(rows, desc="real cells", mininterval=5)):
        pixels[i] = resize(pad_to_square(load_rgb(SHARED_DATA / row["path"])), size)
        if row["mask"]:
            mask = pad_to_square(load_mask(SHARED_DATA / row["mask"])).astype(np.uint8) * 255
            masks[i] = resize(mask, size) > 127
    return Cells(pixels, masks, np.array([row["domain"] for row in rows]), np.full(len(rows), -1))


def synthetic_cells(n: int, size: int, seed: int) -> Cells:
    """Draw cells, each in a laboratory of its own."""
    pixels = np.empty((n, size, size, 3), np.uint8)
    masks = np.empty((n, size, size), np.int8)
    kind = np.arange(n) % len(COMMON_CLASSES)
    streams = np.random.SeedSequence(seed).spawn(n)
    for i, stream in enumerate(tqdm(streams, desc="synthetic cells", mininterval=5)):
        rng = np.random.default_rng(stream)
        pixels[i], mask = draw_cell(COMMON_CLASSES[kind[i]], Laboratory.random(rng), size, rng)
        masks[i] = mask > 0
    return Cells(pixels, masks, np.full(n, "synthetic"), kind)


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """(n, S, S, 3) uint8 -> (n, 3, S, S) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
