"""Fine-tuning on masks: SAM learns to segment cells from augmented pairs of image and mask."""

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


def split(n: int, validation_fraction: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw the training rows and the validation rows, each in ascending order; a fraction of 0 draws no validation."""
    aside = max(1, round(validation_fraction * n)) if validation_fraction else 0
    if aside >= n:
        raise ValueError(
            f"Got {n} image{'s' * (n != 1)} with masks but validation_fraction={validation_fraction} sets "
            f"{aside} aside. Fix: add images, or validation_fraction=0 to train without validation."
        )
    order = np.random.default_rng([seed, 2**31]).permutation(n)
    return np.sort(order[aside:]), np.sort(order[:aside])


def train_segmentation(
    sam: SAM, pixels: NDArray[np.uint8], inside: NDArray[np.bool_], plan: TrainingPlan, *,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]], pixel_stats: PixelStats, batch_size: int, seed: int,
    patience: int | None = None, checkpoint: str | os.PathLike | None = None, fingerprint: str = "", verbose: int = 0,
) -> list[dict[str, float]]:  # fmt: skip
    """Train every parameter of `sam` that requires gradients, in place, and return one row of history per epoch.

    `pixels` are (n, S, S, 3), and `inside` of shape (n, S, S) is True inside the cell. `rows` are the training and the
    validation rows (`split`); with validation, `sam` ends with the weights of the epoch with the best Dice. `plan` has
    ``ceil(len(rows[0]) / batch_size)`` steps per epoch. `seed` sets the batches and their augmentation. The other
    parameters are those of `models.training.Validation` and `models.training.train`.
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
            target = F.avg_pool2d(masks, sam.size.patch // 4)[:, 0] > 0.5  # the decoder has 4 x 4 logits a token
            yield images.to(device), target.long().to(device)

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, target = batch
        return segmentation_loss(module(images).float(), target)

    def validate(module: nn.Module) -> dict[str, float]:
        cells = pixels[validated], inside[validated]
        return {
            "dice": mean_dice(module, *cells, pixel_stats=pixel_stats, batch_size=batch_size, amp_dtype=plan.amp_dtype)
        }

    validation = Validation(validate, "dice", patience) if len(validated) else None
    return train(
        sam, loss, batches, plan, validation=validation, checkpoint=checkpoint, fingerprint=fingerprint,
        verbose=verbose, description="segmentation",
    )  # fmt: skip


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotate and flip images (B, 3, S, S) and their masks (B, 1, S, S) together, as BC-SAM (ISBI 2024) does.

    Half of them are rotated by a multiple of 90 degrees and flipped. Half of the rest are tilted by up to 20 degrees,
    and the empty corners show the mirrored image.
    """
    moved = []
    for cell in torch.cat([images, masks], 1):
        choice = torch.rand(3, generator=generator)
        if choice[0] < 0.5:
            cell = torch.rot90(cell, int(choice[1] * 4), (1, 2)).flip(2 if choice[2] < 0.5 else 1)
        elif choice[1] < 0.5:
            cell = _tilt(cell, float(2 * choice[2] - 1) * 20.0)
        moved.append(cell)
    both = torch.stack(moved)
    return both[:, :3], both[:, 3:]


def _tilt(cell: Tensor, degrees: float) -> Tensor:
    """Rotate one image (C, S, S) about its middle."""
    angle = torch.tensor(degrees).deg2rad()
    matrix = torch.stack([angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0]).view(1, 2, 3)
    grid = F.affine_grid(matrix, [1, *cell.shape], align_corners=False)
    return F.grid_sample(cell[None], grid, padding_mode="reflection", align_corners=False)[0]


def mean_dice(
    sam: nn.Module, pixels: NDArray[np.uint8], inside: NDArray[np.bool_], *, pixel_stats: PixelStats, batch_size: int,
    amp_dtype: torch.dtype | None,
) -> float:  # fmt: skip
    """Return the mean Dice of the masks that a network, in evaluation mode, predicts for images."""
    device = next(sam.parameters()).device
    scores = []
    for part in np.array_split(np.arange(len(pixels)), math.ceil(len(pixels) / batch_size)):
        images = normalise(torch.from_numpy(pixels[part]).to(device), pixel_stats)
        scores.append(_dice(sam, images, torch.from_numpy(inside[part]).to(device), amp_dtype))
    return float(torch.cat(scores).mean())


@torch.inference_mode()
def _dice(sam: nn.Module, images: Tensor, truth: Tensor, amp_dtype: torch.dtype | None) -> Tensor:
    """Return the Dice (B,) of each predicted mask at the size of the images; a pixel is cell if its logit is larger.

    If there is no cell and none is found, the Dice is 1.
    """
    with torch.autocast(images.device.type, amp_dtype, enabled=amp_dtype is not None):
        logits = sam(images).float()
    found = F.interpolate(logits, images.shape[-1], mode="bilinear").argmax(1) == CELL
    both = found.sum((1, 2)) + truth.sum((1, 2))
    return torch.where(both > 0, 2 * (found & truth).sum((1, 2)) / both.clamp(min=1), 1.0)
