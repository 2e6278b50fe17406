"""Reading of a cell mask as a bool array, True inside the cell."""

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from ..exceptions import ImageReadError, warn_caller
from .layout import is_white_zero, stored_bits
from .reading import check_size, convert_opened, decode, flatten, load_rgb, read_file, refuse_dim_colours

# Lower numbers are codes, each with its own meaning; the white of a mask that is a picture is far higher.
_FEWEST_GREYS = 32
# Share of the non-zero pixels that a grey fills if it is a code instead of noise next to an edge.
_LEAST_SHARE = 0.02
# Numbers of greys between black and white: the minimum of soft edges, and the maximum of codes.
_FEWEST_SOFT, _MOST_CODES = 3, 8
_LARGEST_COVER = 0.9


class Mask(NamedTuple):
    """A mask that was read: True (H, W) inside the cell, and the reason why it is doubtful, or ""."""

    inside: NDArray[np.bool_]
    doubt: str


class _Values(NamedTuple):
    """The numbers (H, W) of a mask, whether compression was lossy, and whether white is the largest number."""

    numbers: NDArray
    is_lossy: bool = False
    has_white: bool = False


def load_mask(mask: Any, row: int | None = None) -> NDArray[np.bool_]:
    """Read one mask: True (H, W) inside the cell.

    Codes other than 0 are inside, so that nucleus and cytoplasm both count. Codes are numbers below 32, the index of a
    palette with colours, and one or two numbers between 0 and the largest. More numbers are soft edges or noise, unless
    they fill areas: pixels of at least half the lowest number that fills areas are inside. In a JPEG or a similar
    format, they are always noise, and the limit is half of white (a quarter, if grey areas show that grey is a code).
    The numbers of a TIFF are used as stored, even if it defines 0 as white. Transparent pixels are 0.

    A black and white mask whose border is all white, around one black part, is read as the mask of that part, with a
    warning. A bool array is never inverted, nor is a mask with a black pixel on its border. Masks that touch all four
    borders or cover more than 90% of the image are read unchanged, with a warning.

    The errors are those of `load_rgb`. An empty mask is also an error.
    """
    read = read_mask(mask, row)
    if read.doubt:
        warn_caller(read.doubt)
    return read.inside


def read_mask(mask: Any, row: int | None = None) -> Mask:
    """Read one mask as `load_mask` does, but return the reason why it is doubtful instead of a warning."""
    where = "" if row is None else f"Row {row}: "
    if isinstance(mask, str | os.PathLike):
        values = decode(*read_file(mask, row), _from_pil)
    elif isinstance(mask, Image.Image):
        values = convert_opened(mask, where, _from_pil)
    elif isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype.kind in "biuf":
        values = _Values(mask, has_white=mask.dtype.kind in "iu" and mask.max(initial=0) in (255, 65535))
    else:
        values = _Values(load_rgb(mask, row).max(axis=2), has_white=True)
    if np.isnan(values.numbers).any():
        raise ImageReadError(f"{where}The mask contains NaN. Fix: write 0 outside the cell.")
    file = f"'{mask}' " if isinstance(mask, str | os.PathLike) else ""
    inside = _likely(values.numbers, f"{where}The mask {file}")
    inside = _inside(values) if inside is None else inside
    if not inside.any():
        raise ImageReadError(f"{where}The mask {file}is empty. Fix: remove the cell or draw its mask.")
    name = f"{where}The mask {file}"
    if _is_white_around_one_cell(values, inside):
        return Mask(~inside, f"{name}is white around one black part, which is read as the cell. Fix: invert the mask.")
    return Mask(inside, _doubt(inside, name))


def _likely(numbers: NDArray, name: str) -> NDArray[np.bool_] | None:
    """Return where fractions without a 0, such as a model's probabilities, reach 0.5; None for other numbers."""
    if numbers.dtype.kind != "f" or not numbers.size or numbers.min() == 0 or (numbers % 1 == 0).all():
        return None
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0 or high > 1:
        raise ImageReadError(
            f"{name}has fractions from {low:g} to {high:g}, such as a model's logits. Fix: pass mask > threshold."
        )
    return numbers >= 0.5


def _doubt(inside: NDArray[np.bool_], name: str) -> str:
    if inside.mean() > _LARGEST_COVER:
        return f"{name}covers {inside.mean():.0%} of its image. Fix: make sure that its background is 0."
    if all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])):
        return f"{name}touches all four borders. Fix: make sure that its background is 0."
    return ""


def _from_pil(image: Image.Image, where: str) -> _Values:
    # `reading.from_pil` is not used, because its 16-bit scaling rounds 128 to 0 and its white background would be cell.
    check_size(image.size, where)
    bits, white_zero, file_format = stored_bits(image), is_white_zero(image), image.format
    image = ImageOps.exif_transpose(image)
    numbers: NDArray
    if image.mode in ("P", "PA"):
        numbers = _palette_numbers(image)
    elif image.mode == "1":
        numbers = np.asarray(image) ^ white_zero
    elif image.mode.startswith("I") or image.mode == "F":
        numbers = np.asarray(image)
    else:
        if bits > 8:
            refuse_dim_colours(image, bits, where)
        numbers = flatten(image, "black").max(axis=2)
        numbers = 255 - numbers if white_zero else numbers
    top = numbers.max()
    is_lossy = file_format == "JPEG" or (file_format in ("JPEG2000", "WEBP") and top >= _FEWEST_GREYS)
    return _Values(numbers, is_lossy, has_white=numbers.dtype == bool or top in (255, 65535))


def _palette_numbers(image: Image.Image) -> NDArray[np.uint8]:
    """Return the greys of a palette that has only greys, otherwise its indices; transparent pixels are 0."""
    index = np.array(image.getchannel(0))
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = np.unique(index)
    clear = np.asarray(image.convert("RGBA"))[..., 3] < 128
    if used[-1] < len(colours):
        shown = colours[used]
        if (shown == shown[:, :1]).all() and len(np.unique(shown[:, 0])) == len(used):
            index = colours[index, 0]
    index[clear] = 0
    return index


def _inside(values: _Values) -> NDArray[np.bool_]:
    """Distinguish codes from soft edges, and return the inside (see `load_mask`)."""
    numbers, is_lossy = values.numbers, values.is_lossy
    if numbers.dtype == np.float16:  # scipy does not filter this type
        numbers = numbers.astype(np.float32)
    drawn = numbers != 0
    if numbers.dtype == bool or not drawn.any() or numbers.min() < 0:
        return drawn
    top = numbers.max()
    between = drawn & (numbers < top)
    if not is_lossy and numbers.dtype.kind != "f" and top < _FEWEST_GREYS:
        return drawn
    n_between = len(np.unique(numbers[between]))
    if n_between <= (0 if is_lossy else _FEWEST_SOFT - 1):
        return drawn
    even = ndimage.maximum_filter(numbers, 3) == ndimage.minimum_filter(numbers, 3)
    filling = np.where(ndimage.binary_dilation(even & drawn, np.ones((3, 3))), numbers, 0)
    greys, sizes = np.unique(filling[filling > 0], return_counts=True)
    if not is_lossy and len(greys) > _MOST_CODES and (filling[between] > 0).mean() > 0.5:  # numbers of many cells
        return drawn
    greys = greys[(sizes >= _LEAST_SHARE * drawn.sum()) & (greys >= (top / 4 if is_lossy else 0))]
    if is_lossy:
        middle = (numbers > top / 4) & (numbers < top / 4 * 3)
        if ndimage.binary_erosion(middle, np.ones((3, 3)), iterations=3).any():  # a code, which is noisy too
            return numbers >= top / 4
    elif len(greys) == 0 and n_between <= _MOST_CODES:  # too small for areas
        return drawn
    return numbers >= (greys[0] if len(greys) else top) / 2


def _is_white_around_one_cell(values: _Values, inside: NDArray[np.bool_]) -> bool:
    """Tell whether a black and white picture has a white border all around, and one black part.

    A cell that fills its crop up to the corners and has a hole looks the same, but this is rare enough for a warning.
    """
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    if not values.has_white or inside.all() or not border.all():
        return False
    shares = values.numbers / values.numbers.max()
    _, parts = ndimage.label(~inside)
    # A few greys are soft edges; more would be a code.
    return parts == 1 and ((shares > 0.25) & (shares < 0.75)).mean() < 0.1
