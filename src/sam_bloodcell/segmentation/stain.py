"""Masks from the stain, for cells without annotated masks: Otsu thresholds and a watershed."""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..extras import require
from ..images.reading import RGB, load_rgb
from .cell import fill_holes, largest_component


def stain_mask(image: RGB) -> NDArray[np.bool_]:
    """Find the stained cell nearest to the middle, without training.

    Nuclei absorb red light (Otsu's threshold), and the nucleus nearest to the middle is taken with its lobes. Pixels
    that differ from the background (Otsu's threshold on the rest) are foreground, and a watershed divides the
    foreground between this nucleus and neighbouring cells.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3), path or PIL image
        The image, or another kind of array that `load_rgb` reads.

    Returns
    -------
    bool array of shape (H, W)
        The mask, True inside the cell. It is all False if nothing is stained.

    Raises
    ------
    ImageReadError
        If the image cannot be read.
    ImportError
        If scikit-image is not installed.

    References
    ----------
    Otsu, IEEE Trans. SMC 1979; Beucher and Meyer, "The morphological approach to segmentation", 1993.
    """
    filters, watershed = _skimage().filters, _skimage().segmentation.watershed
    image = load_rgb(image)
    density = -np.log((image.astype(np.float32) + 1) / 256)
    density = filters.gaussian(density, 0.006 * max(image.shape[:2]), channel_axis=2)
    density -= np.percentile(density.reshape(-1, 3), 10, axis=0)
    if not np.ptp(density):
        return np.zeros(image.shape[:2], bool)
    stained = density[..., 0] > filters.threshold_otsu(density[..., 0])
    nucleus = _central_nucleus(stained)
    if not nucleus.any():
        return nucleus
    strength = np.linalg.norm(density, axis=2)
    # Otsu's threshold between the background and other cells would cut off the cytoplasm, because it is pale.
    foreground = strength > 0.7 * filters.threshold_otsu(strength[~stained])
    foreground = _cut_necks(fill_holes(foreground | nucleus)) | nucleus
    depth = ndimage.distance_transform_edt(foreground)
    markers = _neighbours(foreground, depth, nucleus)
    markers[nucleus] = 1
    cell = watershed(-depth, markers, mask=foreground) == 1
    return fill_holes(largest_component(_cut_necks(cell) | nucleus)[0])


def _central_nucleus(stained: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take the stained part nearest to the middle, and nearby parts, which are its lobes."""
    parts, n = ndimage.label(stained)
    # A nucleus covers at least 0.2% of the image.
    large = [part for part in range(1, n + 1) if (parts == part).sum() > 0.002 * stained.size]
    if not large:
        return np.zeros_like(stained)
    rows, columns = np.ogrid[: stained.shape[0], : stained.shape[1]]
    off_middle = np.hypot(rows - stained.shape[0] / 2, columns - stained.shape[1] / 2)
    # The distance from the middle of the image to the border of each part, which is treated as a disc.
    distances = [off_middle[parts == part].mean() - np.sqrt((parts == part).sum() / np.pi) for part in large]
    nucleus = parts == large[np.argmin(distances)]
    gap = ndimage.distance_transform_edt(~nucleus)
    lobes = [part for part in large if gap[parts == part].min() < 0.06 * max(stained.shape)]
    return nucleus | np.isin(parts, lobes)


def _neighbours(foreground: NDArray[np.bool_], depth: NDArray, nucleus: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Mark the centres of other cells, at some distance from the nucleus, with numbers from 2 in an array of zeros."""
    side = max(foreground.shape)
    peaks = _skimage().feature.peak_local_max(
        ndimage.gaussian_filter(depth, 2), min_distance=max(1, round(0.05 * side)),
        labels=foreground.astype(int), exclude_border=False,
    )  # fmt: skip
    gap = ndimage.distance_transform_edt(~nucleus)
    markers = np.zeros(foreground.shape, np.intp)
    peaks = peaks[gap[tuple(peaks.T)] > 0.06 * side]
    markers[tuple(peaks.T)] = np.arange(2, len(peaks) + 2)
    return markers


def _cut_necks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cut narrow bridges between cells."""
    return _skimage().morphology.isotropic_opening(mask, 0.03 * max(mask.shape))


def _skimage() -> ModuleType:
    purpose = 'Masks from the stain (masks="auto") need scikit-image; your own masks do not'
    return require("skimage", extra="masks", purpose=purpose)
