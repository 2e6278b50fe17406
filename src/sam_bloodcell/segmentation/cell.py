"""Cells from mask probabilities: the mask and its quality, the crop, and the cell's share of every token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..images.frames import resize
from ..images.reading import RGB

CROP_SIZE = 128
CROP_BORDER = 10
GREY = 128

# The measures of each mask that `find_cell` records.
QUALITY = np.dtype(
    [("area", "f4"), ("components", "i4"), ("border", "f4"), ("confidence", "f4"), ("fallback", "?"), ("flat", "?")]
)
_THRESHOLD = 0.5


def cell_mask(probability: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Keep the largest component of (H, W) probabilities above 0.5, with its holes filled; it may be empty."""
    return fill_holes(largest_component(probability > _THRESHOLD)[0])


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes of a mask (H, W); the same as `scipy.ndimage.binary_fill_holes`, but seven times faster."""
    outside, _ = ndimage.label(~np.pad(mask, 1))  # the component of the padding is the first one
    return (outside != 1)[1:-1, 1:-1]


def largest_component(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the largest 4-connected component of a mask, empty if the mask is, and the number of components."""
    labels, n = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]  # without the background
    return labels == 1 + np.argmax(sizes), n


def find_cell(probability: NDArray[np.floating], flat: bool = False) -> tuple[NDArray[np.bool_], np.void]:
    """Find the cell to embed in (H, W) probabilities, and measure the quality of its mask.

    The mask is `cell_mask`, or the whole image if `cell_mask` covers less than 0.2% of it. The quality, a record of
    dtype `QUALITY`, describes `cell_mask`: "area", its share of the image; "components", the number of components, of
    which the largest was taken; "border", the share of the image's border that it covers (above 0 for a cell that is
    cut off); "confidence", its mean probability, 0 if it is empty; "fallback", whether the whole image replaces it.
    "flat", whether the image shows nothing, is the argument.
    """
    largest, components = largest_component(probability > _THRESHOLD)
    mask = fill_holes(largest)
    area = mask.mean()
    edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    confidence = probability[mask].mean() if mask.any() else 0.0
    fallback = area < 0.002  # too small for any cell, even a platelet
    quality = np.array([(area, components, edge.mean(), confidence, fallback, flat)], QUALITY)[0]
    return np.ones_like(mask) if fallback else mask, quality


def unframe(probability: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Map (S, S) probabilities from the square frame back to an image's (H, W), rounded to steps of 1 / 255."""
    height, width = shape
    side = max(shape)
    square = resize((probability * 255).round().astype(np.uint8), side)
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width] / 255


def cell_crop(image: RGB, mask: NDArray[np.bool_], size: int = CROP_SIZE) -> RGB:
    """Cut the cell out of an image as (size, size, 3), the autoencoder's target in BC-SAM (ISBI 2024).

    Everything outside the mask, which must not be empty, becomes grey. The mask's bounding box then gets a grey border
    of 10 px and is resized.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    cell = np.where(mask[box][..., None], image[box], np.uint8(GREY))
    height, width = cell.shape[:2]
    # The paper resizes the box itself, which stretches the cell; a square frame keeps the cell's shape.
    side = max(height, width) + 2 * CROP_BORDER
    top, left = (side - height) // 2, (side - width) // 2
    border = ((top, side - height - top), (left, side - width - left), (0, 0))
    return resize(np.pad(cell, border, constant_values=GREY), size)


def published_crop(image: RGB, probability: NDArray[np.floating], *, whole: bool = False) -> RGB:
    """Cut the cell out of an image as the code of BC-SAM (ISBI 2024) and DoRL does: (128, 128, 3).

    The cell is the largest component of (H, W) probabilities above 0.5. Its holes are not filled, and become grey like
    everything outside. Its bounding box, without the last row and column, gets a grey border of 10 px and is stretched
    to a square by a cubic spline. With `whole`, the whole image is the cell.
    """
    mask = np.ones(image.shape[:2], bool) if whole else largest_component(probability > _THRESHOLD)[0]
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    # A box of a single row or column keeps it.
    box = tuple(slice(side.start, max(side.start + 1, side.stop - 1)) for side in found)
    cell = np.where(mask[box][..., None], image[box], np.uint8(GREY))
    border = ((CROP_BORDER, CROP_BORDER), (CROP_BORDER, CROP_BORDER), (0, 0))
    framed = np.pad(cell, border, constant_values=GREY).astype(np.float32)
    factors = [CROP_SIZE / side for side in framed.shape[:2]]
    stretched = [ndimage.zoom(channel, factors, order=3) for channel in np.moveaxis(framed, -1, 0)]
    return np.stack(stretched, axis=-1).clip(0, 255).round().astype(np.uint8)


def pool_tokens(tokens: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Average token maps (B, C, h, w) over the cells with masks (H, W) in the same images: (B, C)."""
    weights = np.stack([token_weights(mask, tokens.shape[2:]) for mask in masks])
    return np.einsum("nchw,nhw->nc", tokens, weights, dtype=np.float32)


def spread_tokens(tokens: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Return the standard deviation of token maps (B, C, h, w) over the cells, weighted as `pool_tokens`: (B, C)."""
    mean = pool_tokens(tokens, masks)[:, :, None, None]
    return np.sqrt(pool_tokens(np.square(tokens - mean), masks))


def token_weights(mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of the cell under every token of an (h, w) grid; shares sum to 1.

    A pixel on the border between tokens counts for each of them by the part of it that the token covers.
    """
    height, width = grid
    if mask.shape[0] % height or mask.shape[1] % width:
        rows, columns = (_covered(pixels, tokens) for pixels, tokens in zip(mask.shape, grid, strict=True))
        share = rows @ mask.astype(np.float32) @ columns.T
        return share / share.sum()
    blocks = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width)
    share = blocks.mean(axis=(1, 3), dtype=np.float32)
    return share / share.sum()


def _covered(pixels: int, tokens: int) -> NDArray[np.float32]:
    """Return the share of each pixel of a row that is under each token of the row: (tokens, pixels)."""
    edges = np.arange(tokens + 1)[:, None] * (pixels / tokens)
    start = np.arange(pixels)
    return (np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start)).clip(0).astype(np.float32)
