"""Random turns of images and their masks, as in the papers."""

import torch
from torch import Tensor
from torch.nn import functional as F

_LARGEST_TILT = 20.0  # degrees


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn half of the images by a multiple of 90 degrees and flip them; tilt half of the rest by up to 20 degrees.

    Each mask is moved as its image is. A tilt uncovers corners; they show the mirrored image.

    Parameters
    ----------
    images : float tensor of shape (B, 3, S, S)
    masks : float tensor of shape (B, 1, S, S)
    generator : torch.Generator
        On the CPU; it alone decides what happens to each image.

    References
    ----------
    BC-SAM (ISBI 2024), training details.
    """
    moved = []
    for cell in torch.cat([images, masks], 1):
        choice = torch.rand(3, generator=generator)
        if choice[0] < 0.5:
            cell = torch.rot90(cell, int(choice[1] * 4), (1, 2)).flip(2 if choice[2] < 0.5 else 1)
        elif choice[1] < 0.5:
            cell = _tilt(cell, float(2 * choice[2] - 1) * _LARGEST_TILT)
        moved.append(cell)
    both = torch.stack(moved)
    return both[:, :3], both[:, 3:]


def _tilt(cell: Tensor, degrees: float) -> Tensor:
    """Rotate one image (C, S, S) about its middle."""
    angle = torch.tensor(degrees).deg2rad()
    matrix = torch.stack([angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0]).view(1, 2, 3)
    grid = F.affine_grid(matrix, [1, *cell.shape], align_corners=False)
    return F.grid_sample(cell[None], grid, padding_mode="reflection", align_corners=False)[0]
