"""What a haematologist looks at, measured: shape, texture and colour of nucleus and cytoplasm, 53 numbers a cell.

The raw numbers depend on stain and camera. Their ranks within a laboratory do so much less, and they tell the classes
apart across laboratories better than any embedding that we have (`comparisons.md`).
"""

import numpy as np
from PIL import Image
from scipy import ndimage, stats
from skimage import filters, measure

# Side in pixels of the square that the cell's bounding box is resized to, and the margin around the box before that.
SIDE, MARGIN = 96, 4
COUNT = 53


def measure_cells(pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Measure cells (n, S, S, 3) uint8 under their masks (n, S, S): (n, COUNT), NaN where a mask is empty."""
    pairs = zip(pixels, masks, strict=True)
    return np.array([_measure(cell, mask) if mask.any() else np.full(COUNT, np.nan) for cell, mask in pairs])


def ranks(values: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Replace each number by the normal quantile of its rank within the laboratory; NaN becomes the middle, 0."""
    found = np.zeros(values.shape)
    for name in np.unique(domain):
        rows = np.flatnonzero(domain == name)
        for column in range(values.shape[1]):
            known = rows[~np.isnan(values[rows, column])]
            found[known, column] = stats.norm.ppf((stats.rankdata(values[known, column]) - 0.5) / len(known))
    return found


def _measure(cell: np.ndarray, mask: np.ndarray) -> np.ndarray:
    y, x = np.where(mask)
    top, left = max(0, y.min() - MARGIN), max(0, x.min() - MARGIN)
    box = slice(top, y.max() + MARGIN + 1), slice(left, x.max() + MARGIN + 1)
    area = np.log(mask[box].size)
    # The box is stretched to a square: what is measured is relative to the cell's own extent.
    cell = _square(cell[box], Image.Resampling.BILINEAR)
    mask = _square(mask[box].astype(np.uint8) * 255, Image.Resampling.BICUBIC) > 127
    density = -np.log((cell.astype(np.float32) + 1) / 256)
    nucleus, cytoplasm = _parts(density[..., 0], mask)
    shape = _shape(nucleus, mask)
    return np.array([*_stain(density, nucleus, cytoplasm), *shape, *_rim(density[..., 0], nucleus, mask), area])


def _square(picture: np.ndarray, resample: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), resample))


def _parts(red: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nucleus, which absorbs most red light, and cytoplasm without the edges of both."""
    limit = filters.threshold_otsu(red[mask])
    nucleus = ndimage.binary_opening(mask & (ndimage.gaussian_filter(red, 1) > limit))
    if nucleus.sum() < 30:
        nucleus = mask & (red >= limit)
    inner = ndimage.binary_erosion(mask, iterations=3) & ~ndimage.binary_dilation(nucleus, iterations=2)
    candidates = (inner, 20), (mask & ~nucleus, 5), (mask, 0)
    return nucleus, next(part for part, least in candidates if part.sum() >= least)


def _stain(density: np.ndarray, nucleus: np.ndarray, cytoplasm: np.ndarray) -> list[float]:
    """Hue, contrast and granularity at three scales: 35 numbers."""
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


def _shape(nucleus: np.ndarray, mask: np.ndarray) -> list[float]:
    """Thickness, outline, holes, lobes, place and spread of the nucleus: 15 numbers."""
    size = nucleus.sum()
    depth = ndimage.distance_transform_edt(nucleus)
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


def _rim(red: np.ndarray, nucleus: np.ndarray, mask: np.ndarray) -> list[float]:
    """How deep the nucleus lies in the cell, and how much darker the cell's rim is than its inside: 2 numbers."""
    depth = ndimage.distance_transform_edt(mask)
    depth /= depth.max()
    rim, inside = mask & (depth < 0.3), mask & (depth >= 0.3)
    return [depth[nucleus].mean(), red[rim].mean() - red[inside].mean()]
