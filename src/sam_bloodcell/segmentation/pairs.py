"""Training data of the fine-tuning: images and cell masks as squares of one size."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ImageReadError, warn_caller
from ..extras import tqdm
from ..images.collections import name_rows
from ..images.frames import frame, load_square
from ..images.masks import read_mask
from ..images.reading import RGB, load_rgb, orientation, turn
from ..models.sam import PixelStats
from .stain import stain_mask

# Maximum number of masks that a warning names.
_LISTED = 10


def read_pairs(images: Sequence[Any], masks: Sequence[Any], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read images and their masks, and pad and resize them to squares: (k, size, size, 3) and (k, size, size).

    Pairs whose mask vanishes at this size are left out. A warning names them and the doubtful masks
    (`images.load_mask`), including those that may not have been rotated with their image by its EXIF orientation.
    """
    absent = [row for row, mask in enumerate(masks) if mask is None]
    if absent:
        fix = "Fix: leave these cells out (datasets.keep_masked)."
        raise ValueError(f"Got no mask in {name_rows(absent)} but expected one mask per image. {fix}")
    if len(masks) != len(images):
        got, fix = f"{len(masks)} masks for {len(images)} images", "Fix: leave out images without a mask."
        raise ValueError(f"Got {got} but expected one mask per image, in the same order. {fix}")
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    inside = np.empty((len(images), size, size), bool)
    doubts, vanished = [], []
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        rgb, cell, doubt = _read_pair(image, mask, row)
        pixels[row] = frame(rgb, size)
        inside[row] = frame(cell.astype(np.uint8) * 255, size) > 127
        if doubt:
            doubts.append(doubt)
        if not inside[row].any():
            vanished.append(row)
            doubts.append(f"Row {row}: the mask {_name(mask)}has no pixel left at {size} px, so the cell is left out.")
    if len(vanished) == len(images):
        raise ValueError(f"No mask has a pixel left at {size} px; the first: {doubts[-1]} Fix: crop closer.")
    if doubts:
        listed = "\n".join(doubts[:_LISTED])
        warn_caller(f"{len(doubts)} of {len(images)} masks are doubtful:\n{listed}")
    kept = np.setdiff1d(np.arange(len(images)), vanished)
    return (pixels[kept], inside[kept]) if vanished else (pixels, inside)


def _read_pair(image: Any, mask: Any, row: int) -> tuple[RGB, NDArray[np.bool_], str]:
    """Read an image and its mask at their own size, and give the reason if the mask is doubtful."""
    rgb, (cell, doubt) = load_rgb(image, row), read_mask(mask, row)
    turned, mask_turned = orientation(image), orientation(mask)
    if turned != mask_turned:
        if mask_turned == 1 and cell.shape != rgb.shape[:2] and cell.shape == rgb.shape[1::-1]:
            cell = turn(cell, turned)  # drawn on the image as it is stored
        elif cell.shape == rgb.shape[:2]:
            doubt = doubt or (
                f"Row {row}: the image {_name(image)}has the EXIF orientation {turned} but its mask "
                f"{_name(mask)}has {mask_turned}, so they may not match. Fix: save both upright, without EXIF."
            )
    if cell.shape != rgb.shape[:2]:
        raise ImageReadError(
            f"Row {row}: the mask is {cell.shape} px but its image is {rgb.shape[:2]}. Fix: export both at one size."
        )
    return rgb, cell, doubt


def _name(image: Any) -> str:
    return f"'{image}' " if isinstance(image, str | os.PathLike) else ""


def read_with_stain_masks(
    images: Sequence[Any], size: int, verbose: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read images as `read_pairs` does, with masks found by the stain (`stain_mask`).

    Images in which no plausible cell is found are left out, and a warning names their rows.
    """
    rows = tqdm(range(len(images)), desc="masking by stain", unit="cell", disable=verbose < 1)
    pixels = np.stack([load_square(images[row], size, row) for row in rows])
    inside = np.stack([stain_mask(image) for image in pixels])
    area = inside.mean((1, 2))
    plausible = (area > 0.01) & (area < 0.9)  # shares of the image that a cell may cover
    if not plausible.any():
        raise ValueError("No stained cell was found in any image. Fix: check the images, or pass masks of your own.")
    if not plausible.all():
        left_out = np.flatnonzero(~plausible)
        warn_caller(
            f"masks='auto' found no plausible cell in {len(left_out)} of {len(images)} images, which are left out of "
            f"the training: {name_rows(left_out)}."
        )
    return pixels[plausible], inside[plausible]


def channel_stats(pixels: NDArray[np.uint8]) -> PixelStats:
    """Return the mean and standard deviation of each channel over all pixels, in 0-255 units."""
    flat = pixels.reshape(-1, 3)
    return tuple(flat.mean(0, dtype=np.float64).tolist()), tuple(flat.std(0, dtype=np.float64).tolist())
