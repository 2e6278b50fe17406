"""One image, whatever it is, becomes uint8 RGB."""

import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from ..exceptions import ImageReadError

RGB = NDArray[np.uint8]

# What Pillow may try: it would hand other kinds, such as EPS, to outside programs. It knows five without being told.
_PLUGINS = (Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin)
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def load_rgb(image: Any, row: int | None = None) -> RGB:
    """Read one image as uint8 RGB.

    Transparent images are composited on white, EXIF rotation is applied, 16-bit values are scaled by their range (0 to
    65535), floats by theirs (0 to 1). Of a file with several pages or frames, the first is taken. Colour profiles are
    ignored: the numbers are taken as they are.

    Parameters
    ----------
    image : path, PIL image, or array of shape (H, W), (H, W, 3) or (H, W, 4)
        Arrays are bool, uint8, uint16, or float in [0, 1].
    row : int, optional
        Position in the caller's data, for errors.

    Returns
    -------
    rgb : uint8 array of shape (H, W, 3)

    Raises
    ------
    ImageReadError
        If the file is missing, damaged or no image of `FORMATS`, or the array is of another shape, type or range, or
        the image is too large to be one cell: when padded to a square, more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        It is an ``OSError`` and a ``ValueError``.

    Examples
    --------
    >>> load_rgb(np.zeros((4, 5), dtype=np.uint16)).shape
    (4, 5, 3)
    """
    return read_content(image, row).rgb()


class ImageContent(NamedTuple):
    """An image that was read once: the bytes of a file, or the pixels of an image that is not a file.

    Attributes
    ----------
    data : bytes, or uint8 array of shape (H, W, 3)
    where : str
        How errors begin: the row and the name of the file.
    """

    data: bytes | RGB
    where: str

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes or the pixels."""
        if isinstance(self.data, bytes):
            return hashlib.sha256(self.data).digest()
        return hashlib.sha256(repr(self.data.shape).encode() + self.data.tobytes()).digest()

    def rgb(self) -> RGB:
        """Return the pixels, as `load_rgb`."""
        return decode(self.data, self.where, from_pil) if isinstance(self.data, bytes) else self.data


def read_content(image: Any, row: int | None = None) -> ImageContent:
    """Read an image's file, or take the pixels of an image that is not a file; parameters as in `load_rgb`.

    Raises
    ------
    ImageReadError
        As `load_rgb`, as far as it shows without decoding a file.
    """
    if isinstance(image, str | os.PathLike):
        return ImageContent(*read_file(image, row))
    where = "" if row is None else f"Row {row}: "
    if isinstance(image, Image.Image):
        return ImageContent(convert_opened(image, where, from_pil), where)
    return ImageContent(_from_array(_as_array(image, where), where), where)


def check_readable(image: Any, row: int | None = None) -> str:
    """Return why an image cannot be read, as `load_rgb` says it; nothing if it can."""
    try:
        load_rgb(image, row)
    except ImageReadError as exc:
        return str(exc)
    return ""


def read_file(file: str | os.PathLike, row: int | None = None) -> tuple[bytes, str]:
    """Return the bytes of a file, and how errors about it begin."""
    path, where = Path(file), "" if row is None else f"Row {row}: "
    try:
        if not path.is_file() and path.exists():
            kind = "a folder. Fix: pass the image files in it" if path.is_dir() else "no file. Fix: pass image files"
            raise ImageReadError(f"{where}'{path}' is {kind}.")
        return path.read_bytes(), f"{where}'{path}' "
    except ImageReadError:
        raise
    except FileNotFoundError as exc:
        raise ImageReadError(f"{where}'{path}' does not exist. Fix: check the path and the working folder.") from exc
    except PermissionError as exc:
        raise ImageReadError(f"{where}'{path}' may not be read: {exc.strerror}. Fix: change its permissions.") from exc
    except (OSError, ValueError) as exc:
        raise ImageReadError(f"{where}'{path}' cannot be read: {exc!s:.200}. Fix: copy it again or remove it.") from exc


def decode(data: bytes, where: str, convert: Callable[[Image.Image, str], Any]) -> Any:
    """Open a file's bytes with Pillow, convert the image, and raise nothing but `ImageReadError`.

    Pillow's decoders promise no kind of exception for damage.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.format == "PNG":  # decoding skips over the check sums
                Image.open(BytesIO(data), formats=("PNG",)).verify()
            return convert(image, where)
    except ImageReadError:
        raise
    except UnidentifiedImageError as exc:
        raise ImageReadError(
            f"{where}is no image that can be read here ({len(data)} bytes). Fix: remove it, or save it as one of "
            f"{', '.join(FORMATS)}."
        ) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageReadError(f"{where}is too large to be one cell: {exc} Fix: crop it.") from exc
    except Exception as exc:
        raise ImageReadError(f"{where}cannot be read: {exc!s:.200}. Fix: copy it again or remove it.") from exc


def convert_opened(image: Image.Image, where: str, convert: Callable[[Image.Image, str], Any]) -> Any:
    """Convert an image that the caller opened: Pillow is lazy, so its damage may show only now."""
    file = getattr(image, "filename", "")
    name = f"'{file}' " if file else ""
    try:
        return convert(image, where + name)
    except ImageReadError:
        raise
    except Exception as exc:  # as in `decode`
        raise ImageReadError(
            f"{where}{name or 'The image '}cannot be read: {exc!s:.200}. Fix: copy it again or remove it."
        ) from exc


def from_pil(image: Image.Image, where: str) -> RGB:
    """Convert an open Pillow image."""
    check_size(image.size, where)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_array(_as_uint16(np.asarray(image), where), where)
    if image.mode == "F":
        return _from_array(np.asarray(image), where)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def check_size(size: tuple[int, ...], where: str) -> None:
    """Raise unless the image, padded to a square, has at most `PIL.Image.MAX_IMAGE_PIXELS`."""
    if Image.MAX_IMAGE_PIXELS is not None and max(size) ** 2 > Image.MAX_IMAGE_PIXELS:
        raise ImageReadError(f"{where}is too large to be one cell: {size[0]} x {size[1]} px. Fix: crop it.")


def _as_array(image: Any, where: str) -> NDArray:
    if image is None or isinstance(image, float):
        raise ImageReadError(f"{where}Got {image} but expected an image or a path. Fix: leave this row out.")
    try:
        return np.asarray(image)
    except Exception as exc:
        raise ImageReadError(
            f"{where}Got a {type(image).__name__} that is no array: {exc!s:.200}. Fix: pass a path, a PIL image or an "
            "array."
        ) from exc


def _as_uint16(values: NDArray, where: str) -> NDArray[np.uint16]:
    if values.min() < 0 or values.max() > 65535:
        raise ImageReadError(f"{where}holds 32-bit integers beyond 65535. Fix: save it as 8 or 16 bit.")
    return values.astype(np.uint16)


def _from_array(values: NDArray, where: str) -> RGB:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or 0 in values.shape:
        raise ImageReadError(
            f"{where}Got an array of shape {values.shape} but expected (H, W), (H, W, 3) or (H, W, 4). "
            "Fix: put the colour channel last."
        )
    check_size(values.shape[1::-1], where)
    values = _to_uint8(values, where)
    if values.ndim == 2:
        return np.repeat(values[:, :, None], 3, axis=2)
    if values.shape[2] == 4:
        return from_pil(Image.fromarray(values), where)
    return np.ascontiguousarray(values)


def _to_uint8(values: NDArray, where: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # of either byte order
        if 0 < values.max() <= 255:
            raise ImageReadError(
                f"{where}Got 16-bit values up to {values.max()} of 65535, which would be black. Fix: save it as 8 bit."
            )
        return np.round(values / 257).astype(np.uint8)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ImageReadError(
                f"{where}Got float values from {low:g} to {high:g} but expected 0 to 1. "
                "Fix: divide 0-255 values by 255, and replace NaN."
            )
        return np.round(values * 255).astype(np.uint8)
    raise ImageReadError(
        f"{where}Got an array of type {values.dtype} but expected bool, uint8, uint16 or float in [0, 1]. "
        "Fix: convert it with .astype('uint8') if its values are 0 to 255."
    )
