"""Stage 1: teach SAM to segment cells, by LoRA on the encoder and the decoder in full."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..exceptions import ImageReadError
from ..images.collections import name_rows
from ..images.frames import load_square, pad_to_square, resize
from ..images.masks import load_mask
from ..images.reading import load_rgb
from ..models.losses import segmentation_loss
from ..models.sam import CELL, SAM
from ..models.training import TrainingPlan, Validation, train
from .stain import stain_mask

PixelStats = tuple[tuple[float, ...], tuple[float, ...]]

# Share of the image that a cell found by its stain covers.
_PLAUSIBLE_AREA = (0.01, 0.9)

# The decoder's logits are a quarter of the image's side.
_LOGIT_STRIDE = 4
_TILT = 20.0


def read_pairs(images: Sequence[Any], masks: Sequence[Any], size: int) -> tuple[NDArray, NDArray]:
    """Read images and masks as squares: uint8 (n, size, size, 3) and bool (n, size, size).

    Raises
    ------
    ValueError
        If there are not as many masks as images, one is None, or a mask is of another size than its image.
    """
    absent = [row for row, mask in enumerate(masks) if mask is None]
    if absent:
        raise ValueError(f"Got no mask in {name_rows(absent)}. Fix: leave these cells out (datasets.keep_masked).")
    if len(masks) != len(images):
        raise ValueError(
            f"Got {len(masks)} masks for {len(images)} images but expected one mask per image, in the same order. "
            "Fix: leave out the images that have none."
        )
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    inside = np.empty((len(images), size, size), bool)
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        rgb, cell = load_rgb(image, row), load_mask(mask, row)
        if cell.shape != rgb.shape[:2]:
            raise ImageReadError(
                f"Row {row}: the mask is {cell.shape} px but its image {rgb.shape[:2]}. Fix: export both at one size."
            )
        pixels[row] = resize(pad_to_square(rgb), size)
        inside[row] = resize(pad_to_square(cell).astype(np.uint8) * 255, size) > 127
    return pixels, inside


def read_with_stain_masks(images: Sequence[Any], size: int, verbose: int = 0) -> tuple[NDArray, NDArray]:
    """Read images as squares and mask their cells by the stain (`pseudo_masks.stain_mask`).

    Images in which no plausible cell is found are left out, with a warning that names their rows.

    Returns
    -------
    pixels : uint8 array of shape (m, size, size, 3), m <= n
    inside : bool array of shape (m, size, size)

    Raises
    ------
    ValueError
        If no image has a plausible cell.
    """
    rows = tqdm(range(len(images)), desc="masking by stain", unit="cell", disable=verbose < 1)
    pixels = np.stack([load_square(images[row], size, row) for row in rows])
    inside = np.stack([stain_mask(image) for image in pixels])
    area = inside.mean((1, 2))
    plausible = (area > _PLAUSIBLE_AREA[0]) & (area < _PLAUSIBLE_AREA[1])
    if not plausible.any():
        raise ValueError("No stained cell was found in any image. Fix: check the images, or pass masks of your own.")
    if not plausible.all():
        left_out = np.flatnonzero(~plausible)
        warnings.warn(
            f"masks='auto' found no plausible cell in {len(left_out)} of {len(images)} images, which are left out of "
            f"the training: {name_rows(left_out)}.",
            stacklevel=2,
        )
    return pixels[plausible], inside[plausible]


def channel_stats(pixels: NDArray[np.uint8]) -> PixelStats:
    """Mean and standard deviation of each channel over all pixels, in 0-255 units."""
    flat = pixels.reshape(-1, 3)
    return tuple(flat.mean(0, dtype=np.float64).tolist()), tuple(flat.std(0, dtype=np.float64).tolist())


def normalise(pixels: Tensor, stats: PixelStats) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) of mean 0 and standard deviation 1 per channel."""
    mean, std = (torch.tensor(values, device=pixels.device, dtype=torch.float32) for values in stats)
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class SegmentationPlan:
    """How stage 1 trains, beyond the optimiser's settings.

    Attributes
    ----------
    epochs, warmup_epochs : int
    learning_rate, weight_decay : float
    batch_size : int
        Largest batch.
    seed : int
        Of the split, the order and the augmentation.
    validation_fraction : float
        Share of the cells that are set aside; 0 trains on all, for all epochs.
    patience : int or None
        Epochs without a better Dice on these after which training stops.
    amp_dtype : torch.dtype or None
        Autocast type.
    """

    epochs: int
    warmup_epochs: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    seed: int
    validation_fraction: float = 0.0
    patience: int | None = None
    amp_dtype: torch.dtype | None = None

    def split(self, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows to train on and rows to validate on.

        Raises
        ------
        ValueError
            If nothing would be left to train on.
        """
        aside = max(1, round(self.validation_fraction * n)) if self.validation_fraction else 0
        if aside >= n:
            raise ValueError(
                f"Got {n} image{'s' * (n != 1)} with masks but validation_fraction={self.validation_fraction} sets "
                f"{aside} aside. Fix: add images, or validation_fraction=0 to train without validation."
            )
        order = np.random.default_rng([self.seed, 2**31]).permutation(n)
        return np.sort(order[aside:]), np.sort(order[:aside])

    def optimisation(self, n: int) -> TrainingPlan:
        """Plan of the optimiser steps for n training cells."""
        steps = math.ceil(n / self.batch_size)
        return TrainingPlan(
            epochs=self.epochs,
            steps_per_epoch=steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_epochs * steps,
            weight_decay=self.weight_decay,
            amp_dtype=self.amp_dtype,
        )


def fit_segmentation(
    sam: SAM,
    pixels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    stats: PixelStats,
    plan: SegmentationPlan,
    *,
    checkpoint: str | os.PathLike | None = None,
    fingerprint: str = "",
    verbose: int = 0,
) -> pd.DataFrame:
    """Train every parameter of `sam` that requires gradients; return the history.

    With validation, `sam` ends with the weights of the epoch that had the best Dice there.

    Parameters
    ----------
    sam : SAM
        With LoRA on its encoder (`models.lora.add_lora`).
    pixels : uint8 array of shape (n, S, S, 3)
    inside : bool array of shape (n, S, S)
    stats : channel means and standard deviations
    plan : SegmentationPlan
    checkpoint, fingerprint, verbose
        As in `training.train`.
    """
    device = next(sam.parameters()).device
    trained, aside = plan.split(len(pixels))

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([plan.seed, epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(trained)
        for start in range(0, len(order), plan.batch_size):
            rows = order[start : start + plan.batch_size]
            images = normalise(torch.from_numpy(pixels[rows]), stats)
            masks = torch.from_numpy(inside[rows])[:, None].float()
            images, masks = augment(images, masks, generator)
            target = F.avg_pool2d(masks, _LOGIT_STRIDE)[:, 0] > 0.5
            yield images.to(device), target.long().to(device)

    def loss(module: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, target = batch
        return segmentation_loss(module(images).float(), target)

    def validate(module: torch.nn.Module) -> dict[str, float]:
        scores = [
            _dice(module, pixels[rows], inside[rows], stats, plan.amp_dtype)
            for rows in np.array_split(aside, math.ceil(len(aside) / plan.batch_size))
        ]
        return {"dice": float(torch.cat(scores).mean())}

    history = train(
        sam,
        loss,
        batches,
        plan.optimisation(len(trained)),
        validation=Validation(validate, "dice", plan.patience) if len(aside) else None,
        checkpoint=checkpoint,
        fingerprint=fingerprint,
        verbose=verbose,
        description="segmentation",
    )
    return pd.DataFrame(history)


@torch.inference_mode()
def _dice(
    sam: torch.nn.Module, pixels: NDArray, inside: NDArray, stats: PixelStats, amp_dtype: torch.dtype | None
) -> Tensor:
    """Dice of each cell where its probability exceeds that of the background, at the size of the images: (B,)."""
    device = next(sam.parameters()).device
    with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
        logits = sam(normalise(torch.from_numpy(pixels).to(device), stats)).float()
    found = F.interpolate(logits, pixels.shape[1], mode="bilinear").argmax(1) == CELL
    truth = torch.from_numpy(inside).to(device)
    return 2 * (found & truth).sum((1, 2)) / (found.sum((1, 2)) + truth.sum((1, 2)))


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn half the images by a multiple of 90 degrees and flip them; tilt half the rest within 20 degrees.

    Images (B, 3, S, S) and masks (B, 1, S, S) alike; corners that a tilt uncovers show the mirrored image.

    References
    ----------
    BC-SAM (ISBI 2024), training details.
    """
    both = torch.cat([images, masks], 1)
    turned = []
    for cell in both:
        choice = torch.rand(3, generator=generator)
        if choice[0] < 0.5:
            cell = torch.rot90(cell, int(choice[1] * 4), (1, 2)).flip(2 if choice[2] < 0.5 else 1)
        elif choice[1] < 0.5:
            cell = _tilt(cell, float(2 * choice[2] - 1) * _TILT)
        turned.append(cell)
    both = torch.stack(turned)
    return both[:, :3], both[:, 3:]


def _tilt(cell: Tensor, degrees: float) -> Tensor:
    angle = torch.tensor(degrees).deg2rad()
    matrix = torch.stack([angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0]).view(1, 2, 3)
    grid = F.affine_grid(matrix, [1, *cell.shape], align_corners=False)
    return F.grid_sample(cell[None], grid, padding_mode="reflection", align_corners=False)[0]
