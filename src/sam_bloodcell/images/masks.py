"""One cell mask becomes a bool array, True inside the cell."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..exceptions import ImageReadError
from .reading import check_size, convert_opened, decode, flatten, load_rgb, read_file


def load_mask(mask: Any, row: int | None = None) -> NDArray[np.bool_]:
    """Read one mask: True (H, W) wherever it is not 0, so that nucleus and cytoplasm codes both count.

    Transparent pixels are 0. Errors are those of `load_rgb`, and an empty mask is one too.
    """
    where = "" if row is None else f"Row {row}: "
    if isinstance(mask, str | os.PathLike):
        inside = decode(*read_file(mask, row), _inside)
    elif isinstance(mask, Image.Image):
        inside = convert_opened(mask, where, _inside)
    elif isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype.kind in "biuf":
        inside = _nonzero(mask, where)
    else:
        inside = load_rgb(mask, row).max(axis=2) > 0
    if not inside.any():
        file = f"'{mask}' " if isinstance(mask, str | os.PathLike) else ""
        raise ImageReadError(f"{where}The mask {file}is empty. Fix: remove the cell or draw its mask.")
    return inside


def _inside(image: Image.Image, where: str) -> NDArray[np.bool_]:
    # Not by way of `from_pil`: its 16-bit scaling would round the code 128 to 0, its white ground would be cell.
    check_size(image.size, where)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _nonzero(np.asarray(image), where)
    return flatten(image, "black").max(axis=2) > 0


def _nonzero(values: NDArray, where: str) -> NDArray[np.bool_]:
    if np.isnan(values).any():
        raise ImageReadError(f"{where}The mask holds NaN. Fix: write 0 outside the cell.")
    return values.astype(bool)
