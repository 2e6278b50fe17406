"""Stage 1: teach SAM to segment cells, by LoRA on the encoder and the decoder in full."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .images import ImageReadError, load_mask, load_rgb, pad_to_square, resize
from .models.losses import segmentation_loss
from .models.sam import SAM
from .training import TrainingPlan, train

PixelStats = tuple[tuple[float, ...], tuple[float, ...]]

# The decoder's logits are a quarter of the image's side.
_LOGIT_STRIDE = 4
_TILT = 20.0


def read_pairs(images: Sequence[Any], masks: Sequence[Any], size: int) -> tuple[NDArray, NDArray]:
    """Read images and masks as squares: uint8 (n, size, size, 3) and bool (n, size, size).

    Raises
    ------
    ValueError
        If there are not as many masks as images, or a mask is of another size than its image.
    """
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


def channel_stats(pixels: NDArray[np.uint8]) -> PixelStats:
    """Mean and standard deviation of each channel over all pixels, in 0-255 units."""
    flat = pixels.reshape(-1, 3)
    return tuple(flat.mean(0, dtype=np.float64).tolist()), tuple(flat.std(0, dtype=np.float64).tolist())


def normalise(pixels: Tensor, stats: PixelStats) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) of mean 0 and standard deviation 1 per channel."""
    mean, std = (torch.tensor(values, device=pixels.device, dtype=torch.float32) for values in stats)
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def fit_segmentation(
    sam: SAM,
    pixels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    stats: PixelStats,
    plan: TrainingPlan,
    *,
    batch_size: int,
    seed: int,
    verbose: int = 0,
) -> pd.DataFrame:
    """Train every parameter of `sam` that requires gradients; return the history.

    Parameters
    ----------
    sam : SAM
        With LoRA on its encoder (`models.lora.add_lora`).
    pixels : uint8 array of shape (n, S, S, 3)
    inside : bool array of shape (n, S, S)
    stats : channel means and standard deviations
    plan : TrainingPlan
        Its steps per epoch divide the shuffled cells into batches.
    batch_size : int
        Largest batch.
    seed : int
        Of the order and the augmentation.
    """
    device = next(sam.parameters()).device

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng([seed, epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(len(pixels))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            images = normalise(torch.from_numpy(pixels[rows]), stats)
            masks = torch.from_numpy(inside[rows])[:, None].float()
            images, masks = augment(images, masks, generator)
            target = F.avg_pool2d(masks, _LOGIT_STRIDE)[:, 0] > 0.5
            yield images.to(device), target.long().to(device)

    def loss(module: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, target = batch
        return segmentation_loss(module(images).float(), target)

    return train(sam, loss, batches, plan, verbose=verbose, description="segmentation")


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
