"""From the probabilities of a mask to the cell: its mask and quality, its crop, its share of every token."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..images.frames import resize
from ..images.reading import RGB

CROP_SIZE = 128
CROP_BORDER = 10
GREY = 128

# What `find_cell` notes about each mask.
QUALITY = np.dtype([("area", "f4"), ("components", "i4"), ("border", "f4"), ("confidence", "f4"), ("fallback", "?")])
# Share of the image below which a mask is too small for any cell, even a platelet.
_LEAST_AREA = 0.002
_THRESHOLD = 0.5


def cell_mask(probability: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Keep the largest connected component above probability 0.5, holes filled.

    Parameters
    ----------
    probability : array of shape (H, W), in [0, 1]

    Returns
    -------
    mask : bool array of shape (H, W)
        All False where nothing exceeds the threshold.
    """
    return _mask_and_pieces(probability)[0]


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest 4-connected component of a mask; an empty one stays empty."""
    return _largest(*ndimage.label(mask))


def _largest(labels: NDArray[np.integer], n: int) -> NDArray[np.bool_]:
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if n else np.zeros(labels.shape, bool)


def _mask_and_pieces(probability: NDArray[np.floating]) -> tuple[NDArray[np.bool_], int]:
    labels, n = ndimage.label(probability > _THRESHOLD)
    return ndimage.binary_fill_holes(_largest(labels, n)), n


def find_cell(probability: NDArray[np.floating]) -> tuple[NDArray[np.bool_], np.void]:
    """Find the cell to embed, and note how far its mask can be trusted.

    Parameters
    ----------
    probability : array of shape (H, W), in [0, 1]

    Returns
    -------
    mask : bool array of shape (H, W)
        `cell_mask`; the whole image where that is empty or smaller than 0.2% of the image.
    quality : record of dtype `QUALITY`
        These describe `cell_mask`: "area", its share of the image; "components", the number of pieces, of which the
        largest was taken; "border", the share of the image's border that it covers (above 0 for a cell that is cut
        off); "confidence", its mean probability, 0 if it is empty; "fallback", whether the whole image replaces it.
    """
    mask, components = _mask_and_pieces(probability)
    area = mask.mean()
    edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    confidence = probability[mask].mean() if mask.any() else 0.0
    fallback = area < _LEAST_AREA
    quality = np.array([(area, components, edge.mean(), confidence, fallback)], QUALITY)[0]
    return np.ones_like(mask) if fallback else mask, quality


def unframe(probability: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Bring probabilities from the square frame (`images.load_square`) back to an image's own shape.

    Parameters
    ----------
    probability : array of shape (S, S), in [0, 1]
    shape : tuple of int
        (H, W) of the image.

    Returns
    -------
    probability : array of shape (H, W), in steps of 1 / 255
    """
    height, width = shape
    side = max(shape)
    square = resize((probability * 255).round().astype(np.uint8), side)
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width] / 255


def cell_crop(image: RGB, mask: NDArray[np.bool_]) -> RGB:
    """Cut the cell out: paint everything outside the mask grey, take the bounding box, add a 10 px grey border, resize.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
    mask : bool array of shape (H, W), not empty

    Returns
    -------
    crop : uint8 array of shape (128, 128, 3)

    References
    ----------
    BC-SAM (ISBI 2024), the autoencoder's reconstruction target.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    cell = np.where(mask[box][..., None], image[box], np.uint8(GREY))
    height, width = cell.shape[:2]
    # The paper resizes the box itself, which stretches the cell; a square frame keeps the cell's shape.
    side = max(height, width) + 2 * CROP_BORDER
    top, left = (side - height) // 2, (side - width) // 2
    border = ((top, side - height - top), (left, side - width - left), (0, 0))
    return resize(np.pad(cell, border, constant_values=GREY), CROP_SIZE)


def token_weights(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of the cell under every token, summing to 1.

    Parameters
    ----------
    mask : bool array of shape (H, W), not empty, H and W multiples of the grid
    grid : tuple of int
        (h, w) of the token map.
    """
    height, width = grid
    blocks = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width)
    share = blocks.mean(axis=(1, 3), dtype=np.float32)
    return share / share.sum()
