"""Augmentation of cell batches: geometry, and stain in optical density (Beer-Lambert)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(n: int, generator: torch.Generator, scale: tuple[float, float], shift: float = 0.06) -> Tensor:
    """Random rotation, flip, zoom and shift as (n, 2, 3) matrices for `warp`; scale < 1 zooms in."""
    angle = torch.rand(n, generator=generator) * 2 * torch.pi
    low, high = scale
    zoom = low + (high - low) * torch.rand(n, generator=generator)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    offset = shift * (2 * torch.rand(n, 2, generator=generator) - 1)
    rows = [torch.stack([cos * flip, -sin, offset[:, 0]], 1), torch.stack([sin * flip, cos, offset[:, 1]], 1)]
    return torch.stack(rows, 1)


def warp(images: Tensor, affine: Tensor, size: int) -> Tensor:
    """Resample images (n, C, S, S) to (n, C, size, size); outside, the picture is mirrored."""
    if images.shape[-1] >= 2 * size:  # a cheap guard against aliasing
        images = F.avg_pool2d(images, images.shape[-1] // size)
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def stain_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the optical density per image and channel, (n, 3, 1, 1) each."""
    density = optical_density(images)
    return density.mean((2, 3), keepdim=True), density.std((2, 3), keepdim=True)


def optical_density(images: Tensor) -> Tensor:
    """-log of the transmitted light, for images in [0, 1]."""
    return -((images * 255 + 1) / 256).log()


def jitter_stain(images: Tensor, donors: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Change stain, light and optics of images (n, 3, S, S) in [0, 1].

    Parameters
    ----------
    donors : pair of Tensor
        `stain_statistics` of many images of all laboratories; 60% of the images take on a random donor's.
    """
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) < probability

    density = optical_density(images)
    mean, std = density.mean((2, 3), keepdim=True), density.std((2, 3), keepdim=True)
    pick = torch.randint(len(donors[0]), (n,), generator=generator)
    moved = (density - mean) / (std + 1e-3) * donors[1][pick] + donors[0][pick]
    blend = uniform(0.4, 1.0, 1, 1, 1)
    density = torch.where(chance(0.6), blend * moved + (1 - blend) * density, density)

    mixing = torch.eye(3) + 0.12 * torch.randn(n, 3, 3, generator=generator)
    density = torch.einsum("nij,njhw->nihw", mixing, density)
    density = density * uniform(0.6, 1.5, 1, 1, 1) + 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    grey = density.mean(1, keepdim=True).expand_as(density)
    density = torch.where(chance(0.15), grey, density)

    images = (-density).exp().clamp(0, 1)
    images = torch.where(chance(0.35), F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), images)
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1)
    return (images + noise).clamp(0, 1)
