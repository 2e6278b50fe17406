"""Images of any shape become squares of one size, without distortion, because shape is diagnostic."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .reading import RGB, load_rgb

# Cells have about ten times as much: the palest of 2,300 real images has 15.
_LEAST_CONTRAST = 2.0


def pad_to_square(image: NDArray) -> NDArray:
    """Repeat the border pixels of an (H, W) or (H, W, C) array until it is square, with the image in the middle."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    pad = [(top, side - height - top), (left, side - width - left)] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, pad, mode="edge")


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a square uint8 image to `size` x `size` px, bilinear with antialiasing."""
    if image.shape[0] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def frame(image: RGB, size: int) -> RGB:
    """Pad an image to a square and resize it: uint8 (size, size, 3)."""
    return resize(pad_to_square(image), size)


def is_flat(image: RGB) -> bool:
    """Tell whether an image is of one colour: no channel's standard deviation reaches 2 of 255 levels."""
    return all(image[..., channel].std() < _LEAST_CONTRAST for channel in range(3))


def load_square(image: Any, size: int, row: int | None = None) -> RGB:
    """Read one image and `frame` it."""
    return frame(load_rgb(image, row), size)
