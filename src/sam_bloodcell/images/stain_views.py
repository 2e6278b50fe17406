"""Views of cells in other stains: changed optical densities (Beer-Lambert) in a rotated and zoomed picture."""

import hashlib
from bisect import bisect
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..exceptions import ImageReadError
from .frames import load_square
from .reading import RGB, ComputedImage, read_content

# Part of every view's digest. It is increased whenever the same cell, donor and seed give other pixels.
_VERSION = b"stain view 1"
# Share of the views with the stain of a donor; the colours of the others are only jittered.
_DONOR_SHARE = 0.6
# Zoom of a view (below 1 enlarges the cell), and its shift as a share of half the picture.
_ZOOM, _SHIFT = (0.85, 1.05), 0.03


class StainView(ComputedImage):
    """A cell as another laboratory might show it, computed on demand.

    Parameters
    ----------
    image : path, PIL image or array
        The cell.
    row : int
        Row of the image, for error messages.
    donor : path, PIL image or array, optional
        A cell from which the view takes its stain.
    size : int
        Side of the view in pixels.
    key : bytes
        Seed of everything that is drawn at random.
    digest : bytes
        Digest of everything that determines the pixels.
    """

    __slots__ = ("_digest", "donor", "image", "key", "row", "size")

    def __init__(self, image: Any, row: int, donor: Any, size: int, key: bytes, digest: bytes) -> None:
        self.image, self.row, self.donor, self.size, self.key, self._digest = image, row, donor, size, key, digest

    def digest(self) -> bytes:
        """Return the SHA-256 of everything that determines the pixels."""
        return self._digest

    def rgb(self) -> RGB:
        """Compute the pixels (size, size, 3)."""
        generator = torch.Generator().manual_seed(int.from_bytes(self.key[8:15], "big"))
        image = _as_batch(load_square(self.image, self.size, self.row))
        image = warp(image, random_affine(1, generator, _ZOOM, _SHIFT), self.size)
        donor = image
        if self.donor is not None:
            donor = _as_batch(load_square(self.donor, self.size))
        share = 0.0 if self.donor is None else 1.0
        image = jitter_stain(image, stain_statistics(donor), generator, share=share)
        return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()


class StainViews(NamedTuple):
    """Views, and the row of the cell that each of them shows."""

    views: list[StainView]
    rows: NDArray[np.intp]


def draw_views(images: Sequence[Any], domain: NDArray | None, n_views: int, size: int, seed: int) -> StainViews:
    """Draw views of each cell, with cells of the same collection as donors of their stain; compute no pixels yet.

    The first view of each cell comes first, then the second of each, and so on. All laboratories are equally likely as
    donors. A view depends on its cell, its donor and the seed, but not on the order of the cells. If cells are left
    out, as in a fold, only the views change whose donor was one of these; the others are in the cache. Images that
    cannot be read have no view.
    """
    names = [None] * len(images) if domain is None else domain.tolist()
    digests: dict[int, bytes] = {}
    for row in range(len(images)):
        try:
            digests[row] = read_content(images[row], row).digest()
        except ImageReadError:  # reported when the image itself is embedded
            continue
    rings: dict[Hashable, list[tuple[bytes, int]]] = {}
    for row, digest in digests.items():
        rings.setdefault(names[row], []).append((digest, row))
    for ring in rings.values():
        ring.sort()
    views, rows = [], []
    for view in range(n_views):
        for row, digest in digests.items():
            key = _hash(_VERSION, str(seed), str(view), digest)
            donor = _choose_donor(key, rings)
            rows.append(row)
            views.append(
                StainView(
                    images[row],
                    row,
                    None if donor is None else images[donor],
                    size,
                    key,
                    _hash(key, str(size), b"" if donor is None else digests[donor]),
                )
            )
    return StainViews(views, np.array(rows, dtype=np.intp))


def _choose_donor(key: bytes, rings: dict[Hashable, list[tuple[bytes, int]]]) -> int | None:
    """Choose the row of a donor, or none, so that the choice stays the same as long as this donor is present.

    Each view ranks the laboratories by a hash and takes the first one that is present, then the cell whose digest
    follows the view's key on a ring of digests (consistent hashing).
    """
    if int.from_bytes(key[-4:], "big") >= _DONOR_SHARE * 2**32:
        return None
    ring = rings[min(rings, key=lambda name: _hash(key, repr(name)))]
    return ring[bisect(ring, (key,)) % len(ring)][1]


def _hash(*parts: bytes | str) -> bytes:
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.sha256(b"\0".join(encoded)).digest()


def _as_batch(image: RGB) -> Tensor:
    """(S, S, 3) uint8 -> (1, 3, S, S) float32 in [0, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def random_affine(n: int, generator: torch.Generator, scale: tuple[float, float], shift: float = 0.06) -> Tensor:
    """Return random rotations, flips, zooms and shifts as (n, 2, 3) matrices for `warp`; scale < 1 zooms in."""
    angle = torch.rand(n, generator=generator) * 2 * torch.pi
    low, high = scale
    zoom = low + (high - low) * torch.rand(n, generator=generator)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    offset = shift * (2 * torch.rand(n, 2, generator=generator) - 1)
    rows = [torch.stack([cos * flip, -sin, offset[:, 0]], 1), torch.stack([sin * flip, cos, offset[:, 1]], 1)]
    return torch.stack(rows, 1)


def warp(images: Tensor, affine: Tensor, size: int) -> Tensor:
    """Resample images (n, C, S, S) to (n, C, size, size), with the picture mirrored at its border."""
    if images.shape[-1] >= 2 * size:  # cheap protection from aliasing
        images = F.avg_pool2d(images, images.shape[-1] // size)
    grid = F.affine_grid(affine, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def stain_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of the optical density per image and channel, (n, 3, 1, 1) each."""
    density = optical_density(images)
    return density.mean((2, 3), keepdim=True), density.std((2, 3), keepdim=True)


def optical_density(images: Tensor) -> Tensor:
    """Return -log of the transmitted light, for images in [0, 1]."""
    return -((images * 255 + 1) / 256).log()


def jitter_stain(
    images: Tensor, donors: tuple[Tensor, Tensor], generator: torch.Generator, share: float = _DONOR_SHARE
) -> Tensor:
    """Change stain, light and optics of images (n, 3, S, S) in [0, 1].

    Parameters
    ----------
    donors : pair of Tensor
        `stain_statistics` of images.
    share : float, default=0.6
        Share of the images that get the stain of a random donor.
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
    density = torch.where(chance(share), blend * moved + (1 - blend) * density, density)

    mixing = torch.eye(3) + 0.12 * torch.randn(n, 3, 3, generator=generator)
    density = torch.einsum("nij,njhw->nihw", mixing, density)
    density = density * uniform(0.6, 1.5, 1, 1, 1) + 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    grey = density.mean(1, keepdim=True).expand_as(density)
    density = torch.where(chance(0.15), grey, density)

    images = (-density).exp().clamp(0, 1)
    images = torch.where(chance(0.35), F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), images)
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1)
    return (images + noise).clamp(0, 1)
