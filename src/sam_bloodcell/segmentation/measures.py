"""Measures of a cell that a haematologist also uses: shape, texture and colour of nucleus and cytoplasm.

There are 53 numbers per cell. The raw numbers depend on stain and camera. Standardised within a laboratory, they
distinguish the classes across laboratories better than the embedding of the first vit_tiny did
(`training/comparisons.md`).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..extras import require
from ..images.reading import RGB

# Side in pixels of the square to which the cell's bounding box is resized, and the margin around the box before
# resizing.
SIDE, MARGIN = 96, 4
# Names of the numbers, in order. "hue" is a channel's share of the optical density, "contrast" the density of the
# nucleus above that of the cytoplasm, "p10" and "p90" are percentiles, and "grains" the standard deviation of
# details of 1, 2 or 4 px. The other numbers of the nucleus are its shape and place. "rim_contrast" is the density in
# red of the cell's rim above that of its inside, and "box_area" the logarithm of the area of the box in pixels.
MEASURES = (
    "nucleus_hue_red", "nucleus_hue_green", "cytoplasm_hue_red", "cytoplasm_hue_green",
    "cytoplasm_hue_red_std", "cytoplasm_hue_green_std", "nucleus_hue_red_std", "nucleus_hue_green_std",
    "contrast_red", "contrast_green", "contrast_blue",
    "nucleus_std_red", "nucleus_std_green", "nucleus_std_blue",
    "cytoplasm_std_red", "cytoplasm_std_green", "cytoplasm_std_blue",
    "cytoplasm_p10_red", "cytoplasm_p10_green", "cytoplasm_p10_blue",
    "cytoplasm_p90_red", "cytoplasm_p90_green", "cytoplasm_p90_blue",
    "nucleus_grains_1_red", "nucleus_grains_1_green", "cytoplasm_grains_1_red", "cytoplasm_grains_1_green",
    "nucleus_grains_2_red", "nucleus_grains_2_green", "cytoplasm_grains_2_red", "cytoplasm_grains_2_green",
    "nucleus_grains_4_red", "nucleus_grains_4_green", "cytoplasm_grains_4_red", "cytoplasm_grains_4_green",
    "nucleus_thickness", "nucleus_mean_depth", "nucleus_thickness_in_cell", "nucleus_roundness", "nucleus_solidity",
    "nucleus_extent", "nucleus_to_cell", "nucleus_elongation", "nucleus_holes", "nucleus_lobes_3", "nucleus_lobes_5",
    "nucleus_off_centre", "nucleus_spread", "nucleus_spread_std", "nucleus_filled_centre",
    "nucleus_depth_in_cell", "rim_contrast", "box_area",
)  # fmt: skip

skimage = partial(require, "skimage", extra="masks", purpose='pooling="mask+measures" needs scikit-image')


def measure_cells(pixels: Sequence[RGB] | NDArray, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Measure uint8 cells (n, S, S, 3) under their masks (n, S, S), which must not be empty: (n, 53), all finite."""
    return np.array([_measure(cell, mask) for cell, mask in zip(pixels, masks, strict=True)]).reshape(-1, len(MEASURES))


def _measure(cell: RGB, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    y, x = np.where(mask)
    top, left = max(0, y.min() - MARGIN), max(0, x.min() - MARGIN)
    box = slice(top, y.max() + MARGIN + 1), slice(left, x.max() + MARGIN + 1)
    area = np.log(mask[box].size)
    # The box is stretched to a square, so that all measures are relative to the size of the cell.
    cell = _square(cell[box], Image.Resampling.BILINEAR)
    shares = _square(mask[box].astype(np.uint8) * 255, Image.Resampling.BICUBIC)
    # After resizing, a mask as thin as a line may cover no pixel by half.
    mask = shares > 127 if shares.max() > 127 else shares == shares.max()
    density = -np.log((cell.astype(np.float32) + 1) / 256)
    nucleus, cytoplasm = _parts(density[..., 0], mask)
    shape = _shape(nucleus, mask)
    return np.array([*_stain(density, nucleus, cytoplasm), *shape, *_rim(density[..., 0], nucleus, mask), area])


def _square(picture: NDArray, resample: Image.Resampling) -> NDArray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), resample))


def _parts(red: NDArray, mask: NDArray) -> tuple[NDArray, NDArray]:
    """Return the nucleus, which absorbs most red light, and the cytoplasm, without the edges of both."""
    limit = skimage().filters.threshold_otsu(red[mask])
    nucleus = ndimage.binary_opening(mask & (ndimage.gaussian_filter(red, 1) > limit))
    if nucleus.sum() < 30:
        nucleus = mask & (red >= limit)
    inner = ndimage.binary_erosion(mask, iterations=3) & ~ndimage.binary_dilation(nucleus, iterations=2)
    candidates = (inner, 20), (mask & ~nucleus, 5), (mask, 0)
    return nucleus, next(part for part, least in candidates if part.sum() >= least)


def _stain(density: NDArray, nucleus: NDArray, cytoplasm: NDArray) -> list[float]:
    """Return hue, contrast and granularity at three scales: 35 numbers."""
    n, c = density[nucleus], density[cytoplasm]
    hue_n, hue_c = ((part / (part.sum(1, keepdims=True) + 0.05))[:, :2] for part in (n, c))
    found = [*hue_n.mean(0), *hue_c.mean(0), *hue_c.std(0), *hue_n.std(0), *(n.mean(0) - c.mean(0))]
    found += [*n.std(0), *c.std(0), *np.percentile(c, 10, axis=0), *np.percentile(c, 90, axis=0)]
    for sigma in (1, 2, 4):
        bands = [ndimage.gaussian_filter(density[..., k], sigma) for k in (0, 1)]
        wider = [ndimage.gaussian_filter(density[..., k], 1.6 * sigma) for k in (0, 1)]
        grains = np.stack(bands, -1) - np.stack(wider, -1)
        found += [*grains[nucleus].std(0), *grains[cytoplasm].std(0)]
    return found


def _shape(nucleus: NDArray, mask: NDArray) -> list[float]:
    """Return thickness, outline, holes, lobes, position and spread of the nucleus: 15 numbers."""
    measure, size = skimage().measure, nucleus.sum()
    depth = _depth(nucleus)
    region = measure.regionprops(nucleus.astype(np.uint8))[0]
    lobes = [measure.label(ndimage.binary_erosion(nucleus, iterations=steps)).max() for steps in (3, 5)]
    middle, centre = ndimage.center_of_mass(nucleus), ndimage.center_of_mass(mask)
    y, x = np.where(nucleus)
    spread = np.hypot(y - middle[0], x - middle[1]) / np.sqrt(size)
    return [
        depth.max() / np.sqrt(size),
        depth[nucleus].mean() / np.sqrt(size),
        depth.max() / SIDE,
        4 * np.pi * size / max(measure.perimeter(nucleus), 1) ** 2,
        region.solidity,
        region.extent,
        size / mask.sum(),
        np.log(region.axis_minor_length / (region.axis_major_length + 1e-6) + 0.05),
        (ndimage.binary_fill_holes(nucleus).sum() - size) / size,
        *lobes,
        np.hypot(middle[0] - centre[0], middle[1] - centre[1]) / np.sqrt(mask.sum()),
        spread.mean(),
        spread.std(),
        float(nucleus[int(middle[0]), int(middle[1])]),
    ]


def _rim(red: NDArray, nucleus: NDArray, mask: NDArray) -> list[float]:
    """Return the depth of the nucleus in the cell, and the contrast of the cell's rim to its inside: 2 numbers."""
    depth = _depth(mask)
    depth /= depth.max()
    rim, inside = mask & (depth < 0.3), mask & (depth >= 0.3)
    contrast = red[rim].mean() - red[inside].mean() if rim.any() else 0.0  # a mask as thin as a line has no rim
    return [depth[nucleus].mean(), contrast]


def _depth(part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance of each pixel of a part from the nearest pixel outside; all beyond the square is outside."""
    if not part.all():
        return ndimage.distance_transform_edt(part)
    return ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
