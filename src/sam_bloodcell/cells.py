"""From a mask's probabilities to the cell: its mask, its crop, its share of every token."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .images import RGB, resize

CROP_SIZE = 128
CROP_BORDER = 10
GREY = 128


def cell_mask(probability: NDArray[np.floating], threshold: float = 0.5) -> NDArray[np.bool_]:
    """Keep the largest connected component above the threshold, holes filled.

    Parameters
    ----------
    probability : array of shape (H, W), in [0, 1]
    threshold : float

    Returns
    -------
    mask : bool array of shape (H, W)
        All False where nothing exceeds the threshold.
    """
    above = probability > threshold
    labels, n = ndimage.label(above)
    if n == 0:
        return above
    largest = 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(labels == largest)


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
    """Cut the cell out: everything outside the mask grey, bounding box, 10 px grey border, 128 x 128 px.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
    mask : bool array of shape (H, W)
        An empty mask keeps the whole image.

    References
    ----------
    BC-SAM (ISBI 2024), the autoencoder's reconstruction target.
    """
    if not mask.any():
        mask = np.ones_like(mask)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cell = np.where(mask[box][..., None], image[box], np.uint8(GREY))
    height, width = cell.shape[:2]
    # A square frame keeps the cell's shape; the paper's resize alone would stretch it.
    side = max(height, width) + 2 * CROP_BORDER
    frame = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    frame[top : top + height, left : left + width] = cell
    return resize(frame, CROP_SIZE)


def token_weights(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of the cell under every token, summing to 1; uniform for an empty mask.

    Parameters
    ----------
    mask : bool array of shape (H, W), H and W multiples of the grid
    grid : tuple of int
        (h, w) of the token map.
    """
    height, width = grid
    blocks = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width)
    share = blocks.mean(axis=(1, 3), dtype=np.float32)
    total = share.sum()
    return share / total if total > 0 else np.full(grid, 1 / share.size, np.float32)
