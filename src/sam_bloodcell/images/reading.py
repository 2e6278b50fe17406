"""Reading of an image of any supported kind as uint8 RGB."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, IOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from ..exceptions import ImageReadError
from .layout import is_white_zero, page_of_image, refuse_signed, stored_bits, whole_files_only

RGB = NDArray[np.uint8]

# Formats that Pillow may try: it would pass others, such as EPS, to external programs. Five are loaded by default.
_PLUGINS = (Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin)
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def load_rgb(image: Any, row: int | None = None) -> RGB:
    """Read a path, PIL image or array as uint8 RGB (H, W, 3), or raise an `ImageReadError` that names the row.

    Arrays are (H, W), (H, W, 3) or (H, W, 4), of bool, uint8, uint16 or float in [0, 1]. Transparent images are
    composited on white, EXIF rotation is applied, 16-bit values are scaled from 0 to 65535, and floats from 0 to 1.
    Values that use only a quarter of that range are refused, because they are 8- to 14-bit numbers, which would be
    dark. The first frame or colour page of a file is read. Smaller versions of a TIFF's picture are skipped, and
    several grey pages, which may be its channels, are refused. Colour profiles are ignored.
    """
    return read_content(image, row).rgb()


class ComputedImage(ABC):
    """An image whose pixels are computed on demand, such as a view of another image."""

    @abstractmethod
    def digest(self) -> bytes:
        """Return the SHA-256 of everything that determines the pixels."""

    @abstractmethod
    def rgb(self) -> RGB:
        """Compute the pixels (H, W, 3)."""


class ImageContent(NamedTuple):
    """An image that was read once: the bytes of a file, or the pixels (H, W, 3) of an image that is not a file.

    For a computed image, it contains the object that computes the pixels.
    """

    data: bytes | RGB | ComputedImage
    where: str  # start of error messages: the row and the name of the file

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes or the pixels."""
        if isinstance(self.data, ComputedImage):
            return self.data.digest()
        if isinstance(self.data, bytes):
            return hashlib.sha256(self.data).digest()
        return hashlib.sha256(repr(self.data.shape).encode() + self.data.tobytes()).digest()

    def rgb(self) -> RGB:
        """Return the pixels, as `load_rgb` does."""
        if isinstance(self.data, ComputedImage):
            return self.data.rgb()
        return decode(self.data, self.where, from_pil) if isinstance(self.data, bytes) else self.data


def read_content(image: Any, row: int | None = None) -> ImageContent:
    """Read an image's file without decoding it, or take the pixels of an image that is not a file."""
    if isinstance(image, str | os.PathLike):
        return ImageContent(*read_file(image, row))
    where = "" if row is None else f"Row {row}: "
    if isinstance(image, ComputedImage):
        return ImageContent(image, where)
    if isinstance(image, Image.Image):
        return ImageContent(convert_opened(image, where, from_pil), where)
    return ImageContent(_from_array(_as_array(image, where), where), where)


def read_file(file: str | os.PathLike, row: int | None = None) -> tuple[bytes, str]:
    """Return the bytes of a file, and the start of error messages about it."""
    path, prefix = Path(file), "" if row is None else f"Row {row}: "
    where = f"{prefix}'{path}' "
    with _only_image_read_errors(where):
        if not path.is_file() and path.exists():
            kind = "a folder. Fix: pass the image files in it" if path.is_dir() else "not a file. Fix: pass image files"
            raise ImageReadError(f"{where}is {kind}.")
        return path.read_bytes(), where


def decode(data: bytes, where: str, convert: Callable[[Image.Image, str], Any]) -> Any:
    """Open a file's bytes with Pillow and convert the image."""
    with _only_image_read_errors(where), whole_files_only():
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as exc:
            raise ImageReadError(
                f"{where}is not a readable image ({len(data)} bytes). Fix: remove it, or save it with 8 bits per "
                f"channel as one of {', '.join(FORMATS)}."
            ) from exc
        with image:
            if image.format == "PNG":  # decoding skips the checksums
                Image.open(BytesIO(data), formats=("PNG",)).verify()
            with page_of_image(image, where):
                return convert(image, where)


def convert_opened(image: Image.Image, where: str, convert: Callable[[Image.Image, str], Any]) -> Any:
    """Convert an image that the caller opened. Pillow is lazy, so damage may only appear now."""
    file = getattr(image, "filename", "")
    name = f"'{file}' " if file else ""
    with (
        _only_image_read_errors(where + (name or "The image ")),
        whole_files_only(),
        page_of_image(image, where + name),
    ):
        return convert(image, where + name)


def orientation(image: Any) -> int:
    """Return the EXIF orientation of a readable image: 1 is upright, also for images without one."""
    if isinstance(image, Image.Image):
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    if isinstance(image, str | os.PathLike):
        with Image.open(image, formats=FORMATS) as opened:
            return opened.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def turn(image: NDArray, orientation: int) -> NDArray:
    """Rotate an array (H, W), stored with this EXIF orientation, upright."""
    stored = Image.fromarray(image)
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(stored))


@contextmanager
def _only_image_read_errors(where: str) -> Iterator[None]:
    try:
        yield
    except ImageReadError:
        raise
    except FileNotFoundError as exc:
        raise ImageReadError(f"{where}does not exist. Fix: check the path and the working folder.") from exc
    except PermissionError as exc:
        raise ImageReadError(f"{where}cannot be opened: {exc.strerror}. Fix: change its permissions.") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageReadError(f"{where}is too large to be one cell: {exc} Fix: crop it.") from exc
    except Exception as exc:  # Pillow's decoders may raise any exception for damaged files
        raise ImageReadError(f"{where}cannot be read: {exc!s:.200}. Fix: copy it again or remove it.") from exc


def from_pil(image: Image.Image, where: str) -> RGB:
    """Convert an open Pillow image."""
    check_size(image.size, where)
    refuse_signed(image, where)
    bits, white_zero = stored_bits(image), is_white_zero(image)  # unknown once the image is decoded
    image = ImageOps.exif_transpose(image)
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageReadError(f"{where}holds 32-bit integers beyond 65535. Fix: save it as 8 or 16 bit.")
        values = np.where(values == clear, 65535, values) if isinstance(clear, int) else values
        rgb = _from_array(values.astype(np.uint16), where)
        return 255 - rgb if white_zero else rgb
    if image.mode == "F":
        rgb = _from_array(np.asarray(image), where)
        return 255 - rgb if white_zero else rgb
    if bits > 8:
        refuse_dim_colours(image, bits, where)
        if isinstance(clear, tuple):
            image.info["transparency"] = tuple(value >> (bits - 8) for value in clear)
    if has_alpha(image) and not np.asarray(image.convert("RGBA"))[..., 3].any():
        raise ImageReadError(f"{where}is fully transparent, so it shows nothing. Fix: save it without alpha.")
    return flatten(image, "white")


def has_alpha(image: Image.Image) -> bool:
    """Tell whether pixels of an image may be transparent."""
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def flatten(image: Image.Image, ground: str) -> RGB:
    """Convert an 8-bit image to RGB; a transparent one is composited on a ground of one colour."""
    if has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return np.array(image.convert("RGB"))


def refuse_dim_colours(image: Image.Image, bits: int, where: str) -> None:
    """Raise if the upper 8 bits of `bits`-bit numbers, in colours or alpha, use only a quarter of the range."""
    peaks = {band: int(_peak(np.asarray(image.getchannel(band)))) for band in image.getbands()}
    alpha = peaks.pop("A", 0) or peaks.pop("a", 0)
    for peak in (max(peaks.values()), alpha or 255):
        if peak <= 64:  # a rounded quarter of 255
            top = ((peak + 1) << (bits - 8)) - 1
            # Some decoders round the upper 8 bits up.
            raise ImageReadError(
                f"{where}{_dim(bits, f'of at most {top}', (peak << (bits - 8)) * 255 // 256, 2**bits - 1)}"
            )


def check_size(size: tuple[int, ...], where: str) -> None:
    """Raise unless the image, padded to a square, has at most `PIL.Image.MAX_IMAGE_PIXELS`."""
    if Image.MAX_IMAGE_PIXELS is not None and max(size) ** 2 > Image.MAX_IMAGE_PIXELS:
        raise ImageReadError(f"{where}is too large to be one cell: {size[0]} x {size[1]} px. Fix: crop it.")


def _as_array(image: Any, where: str) -> NDArray:
    if isinstance(image, bytes | bytearray | memoryview | IOBase):
        raise ImageReadError(
            f"{where}Got an object of type {type(image).__name__} but expected an image or a path. Fix: open encoded "
            "images with PIL.Image.open, from io.BytesIO or a file; turn paths of bytes into text with os.fsdecode."
        )
    try:
        values = np.asarray(image)
        is_number = values.dtype.kind in "biuf" and not isinstance(image, float | np.floating)
        if not is_number and (values.ndim == 0 or values.dtype.kind in "UST"):
            raise ImageReadError(f"{where}Got {image!r:.80} but expected an image or a path. Fix: leave this row out.")
        return values
    except ImageReadError:
        raise
    except Exception as exc:
        raise ImageReadError(
            f"{where}Got a {type(image).__name__} that is not an array: {exc!s:.200}. Fix: pass a path, a PIL image or "
            "an array."
        ) from exc


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
        for part in _colour_and_alpha(values):
            if 0 < (top := int(_peak(part))) <= 65535 // 4:
                raise ImageReadError(f"{where}{_dim(16, f'up to {top}', top, 65535)}")
        return np.round(values / 257).astype(np.uint8)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ImageReadError(
                f"{where}Got float values from {low:g} to {high:g} but expected 0 to 1. "
                "Fix: divide 0-255 values by 255, and replace NaN."
            )
        for part in _colour_and_alpha(values):
            if 0 < (peak := float(_peak(part))) <= 0.25:
                raise ImageReadError(
                    f"{where}Got float values up to {peak:g} of 1, which would be dark. Fix: divide the camera's "
                    "numbers by the largest that it can give."
                )
        return np.round(values * 255).astype(np.uint8)
    raise ImageReadError(
        f"{where}Got an array of type {values.dtype} but expected bool, uint8, uint16 or float in [0, 1]. "
        "Fix: convert it with .astype('uint8') if its values are 0 to 255."
    )


def _peak(values: NDArray) -> Any:
    """Return the 99th percentile of the numbers, because a hot pixel or a scale bar should not count."""
    return np.quantile(values, 0.99, method="higher")


def _colour_and_alpha(values: NDArray) -> list[NDArray]:
    """Split an array into its colours and its alpha channel, if it has one, because a full alpha hides dim colours."""
    return [values[..., :3], values[..., 3]] if values.ndim == 3 and values.shape[2] == 4 else [values]


def _dim(bits: int, found: str, top: int, full: int) -> str:
    """Return an error message about numbers that fill so little of their range that they have another bit depth."""
    meant = next((narrow for narrow in (8, 10, 12, 14) if top < 2**narrow), 14)
    shade = "black" if meant == 8 else "dark"
    return (
        f"Got {bits}-bit values {found} of {full}, which would be {shade}: they look like {meant}-bit numbers. Fix: "
        f"save it as 8 bit, or scale the values to 0 to {full}."
    )
