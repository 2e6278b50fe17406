"""Masks from the stain alone, where there are no annotated ones: Otsu thresholds and a watershed."""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..extras import require
from ..images.reading import RGB, load_rgb
from .cell import largest_component

# Lengths as shares of the image's side.
_BLUR = 0.006
_LOBE_GAP = 0.06  # lobes of one nucleus lie closer together than this
_NEIGHBOUR = 0.06  # another cell's middle lies at least this far from the nucleus
_NECK = 0.03  # narrower bridges between cells are cut
_PEAK_DISTANCE = 0.05
# Share of the image that a nucleus covers at least.
_LEAST_AREA = 0.002
# Cytoplasm is pale: Otsu's threshold between background and other cells would cut it off.
_LENIENCE = 0.7


def stain_mask(image: RGB) -> NDArray[np.bool_]:
    """Find the stained cell nearest the middle, without any training.

    Nuclei absorb red light (Otsu's threshold); the nucleus nearest the middle is taken with its lobes. Pixels that
    differ from the background (Otsu's threshold on the rest) are foreground, and a watershed divides the foreground
    between this nucleus and neighbouring cells.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
        Or another image that `load_rgb` reads: a path, a PIL image, another kind of array.

    Returns
    -------
    mask : bool array of shape (H, W)
        All False where nothing is stained.

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
    side = max(image.shape[:2])
    density = -np.log((image.astype(np.float32) + 1) / 256)
    density = filters.gaussian(density, _BLUR * side, channel_axis=2)
    density -= np.percentile(density.reshape(-1, 3), 10, axis=0)
    if not np.ptp(density):
        return np.zeros(image.shape[:2], bool)
    stained = density[..., 0] > filters.threshold_otsu(density[..., 0])
    nucleus = _central_nucleus(stained)
    if not nucleus.any():
        return nucleus
    strength = np.linalg.norm(density, axis=2)
    foreground = strength > _LENIENCE * filters.threshold_otsu(strength[~stained])
    foreground = _cut_necks(ndimage.binary_fill_holes(foreground | nucleus), side) | nucleus
    depth = ndimage.distance_transform_edt(foreground)
    markers = _neighbours(foreground, depth, nucleus, side)
    markers[nucleus] = 1
    cell = watershed(-depth, markers, mask=foreground) == 1
    return ndimage.binary_fill_holes(largest_component(_cut_necks(cell, side) | nucleus))


def _central_nucleus(stained: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take the stained part nearest the middle, and the parts so close to it that they are its lobes."""
    side = max(stained.shape)
    parts, n = ndimage.label(stained)
    large = [part for part in range(1, n + 1) if (parts == part).sum() > _LEAST_AREA * stained.size]
    if not large:
        return np.zeros_like(stained)
    rows, columns = np.ogrid[: stained.shape[0], : stained.shape[1]]
    off_middle = np.hypot(rows - stained.shape[0] / 2, columns - stained.shape[1] / 2)
    nucleus = parts == min(large, key=lambda part: off_middle[parts == part].mean() - _radius(parts == part))
    gap = ndimage.distance_transform_edt(~nucleus)
    lobes = [part for part in large if gap[parts == part].min() < _LOBE_GAP * side]
    return nucleus | np.isin(parts, lobes)


def _radius(part: NDArray[np.bool_]) -> float:
    return float(np.sqrt(part.sum() / np.pi))


def _neighbours(
    foreground: NDArray[np.bool_], depth: NDArray, nucleus: NDArray[np.bool_], side: int
) -> NDArray[np.intp]:
    """Mark the middles of other cells with numbers from 2 on, in an array of zeros."""
    peaks = _skimage().feature.peak_local_max(
        ndimage.gaussian_filter(depth, 2),
        min_distance=max(1, round(_PEAK_DISTANCE * side)),
        labels=foreground.astype(int),
        exclude_border=False,
    )
    gap = ndimage.distance_transform_edt(~nucleus)
    markers = np.zeros(foreground.shape, np.intp)
    far = [tuple(peak) for peak in peaks if gap[tuple(peak)] > _NEIGHBOUR * side]
    for number, peak in enumerate(far, start=2):
        markers[peak] = number
    return markers


def _cut_necks(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    return _skimage().morphology.isotropic_opening(mask, _NECK * side)


def _skimage() -> ModuleType:
    purpose = 'Masks from the stain (masks="auto") need scikit-image; masks of your own do not'
    return require("skimage", extra="masks", purpose=purpose)
