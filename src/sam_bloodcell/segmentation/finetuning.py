"""The training loop of stage 1: SAM learns to segment cells from pairs of image and mask."""

import math
import os
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.losses import segmentation_loss
from ..models.sam import CELL, SAM, PixelStats, normalise
from ..models.training import TrainingPlan, Validation, train
from .augmentation import augment

# The decoder's logits are a quarter of the image's side.
_LOGIT_STRIDE = 4


def split(n: int, validation_fraction: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw the rows to train on and the rows to validate on, each in ascending order.

    Parameters
    ----------
    n : int
        Number of cells.
    validation_fraction : float
        Share of them to validate on, at least one; 0 validates on none.
    seed : int

    Raises
    ------
    ValueError
        If no cell would be left to train on.
    """
    aside = max(1, round(validation_fraction * n)) if validation_fraction else 0
    if aside >= n:
        raise ValueError(
            f"Got {n} image{'s' * (n != 1)} with masks but validation_fraction={validation_fraction} sets "
            f"{aside} aside. Fix: add images, or validation_fraction=0 to train without validation."
        )
    order = np.random.default_rng([seed, 2**31]).permutation(n)
    return np.sort(order[aside:]), np.sort(order[:aside])


def train_segmentation(
    sam: SAM,
    pixels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    plan: TrainingPlan,
    *,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    pixel_stats: PixelStats,
    batch_size: int,
    seed: int,
    patience: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    fingerprint: str = "",
    verbose: int = 0,
) -> list[dict[str, float]]:
    """Train every parameter of `sam` that requires gradients, in place.

    Parameters
    ----------
    sam : SAM
        With LoRA on its encoder (`models.lora.add_lora`).
    pixels : uint8 array of shape (n, S, S, 3)
    inside : bool array of shape (n, S, S)
        True inside the cell.
    plan : TrainingPlan
        With ``ceil(n / batch_size)`` steps per epoch, n the number of rows to train on.
    rows : pair of integer arrays
        The rows to train on and those to validate on (`split`). If there are any of the latter, `sam` ends with the
        weights of the epoch that had the best Dice on them.
    pixel_stats : PixelStats
    batch_size : int
        Largest number of cells in a batch.
    seed : int
        Decides the order of the cells and their augmentation.
    patience, checkpoint, fingerprint, verbose
        Parameters of `models.training.Validation` and `models.training.train`.

    Returns
    -------
    history : list of dict
        One for each epoch: epoch, learning_rate, loss, dice_loss, cross_entropy, and with validation dice.
    """
    device = next(sam.parameters()).device
    trained, validated = rows

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([seed, epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(trained)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            images = normalise(torch.from_numpy(pixels[batch]), pixel_stats)
            images, masks = augment(images, torch.from_numpy(inside[batch])[:, None].float(), generator)
            target = F.avg_pool2d(masks, _LOGIT_STRIDE)[:, 0] > 0.5
            yield images.to(device), target.long().to(device)

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, target = batch
        return segmentation_loss(module(images).float(), target)

    def validate(module: nn.Module) -> dict[str, float]:
        parts = np.array_split(validated, math.ceil(len(validated) / batch_size))
        scores = [_dice(module, pixels[part], inside[part], pixel_stats, plan.amp_dtype) for part in parts]
        return {"dice": float(torch.cat(scores).mean())}

    return train(
        sam,
        loss,
        batches,
        plan,
        validation=Validation(validate, "dice", patience) if len(validated) else None,
        checkpoint=checkpoint,
        fingerprint=fingerprint,
        verbose=verbose,
        description="segmentation",
    )


@torch.inference_mode()
def _dice(
    sam: nn.Module,
    pixels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    stats: PixelStats,
    amp_dtype: torch.dtype | None,
) -> Tensor:
    """Dice of each predicted mask at the size of the images: (B,). A pixel is cell where that logit is the larger."""
    device = next(sam.parameters()).device
    with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
        logits = sam(normalise(torch.from_numpy(pixels).to(device), stats)).float()
    found = F.interpolate(logits, pixels.shape[1], mode="bilinear").argmax(1) == CELL
    truth = torch.from_numpy(inside).to(device)
    return 2 * (found & truth).sum((1, 2)) / (found.sum((1, 2)) + truth.sum((1, 2)))
