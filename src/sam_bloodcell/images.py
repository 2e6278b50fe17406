"""Anything -> uint8 RGB: the only gate for pixels."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

RGB = NDArray[np.uint8]

# What Pillow may try: it would hand other kinds, such as EPS, to outside programs. It knows five without being told.
_PLUGINS = (Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin)
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


class ImageReadError(OSError, ValueError):
    """An image could not be turned into pixels; the message names the row, the file and the fix."""


def as_image_list(X: Any, name: str = "X") -> Sequence[Any]:
    """Check a collection of images and return it as a sequence, one entry an image, nothing read yet.

    Parameters
    ----------
    X : sequence of paths, PIL images or arrays; (n, H, W, 3) array; Series or one-column DataFrame of paths
    name : str
        The argument's name in errors.

    Raises
    ------
    ValueError
        If X is empty, a single image or a table of several columns.
    TypeError
        If X is no collection.
    """
    if isinstance(X, str | os.PathLike | Image.Image):
        raise ValueError(f"Got one image as {name} but expected a collection. Fix: pass [{name}].")
    if not hasattr(X, "__iter__") and not hasattr(X, "columns"):
        raise TypeError(f"Got {name}={X!r} but expected a collection of images. Fix: pass a list of paths.")
    X = _as_sequence(X, name)
    if len(X) == 0:
        raise ValueError(f"Got an empty {name} but expected at least one image. Fix: check the folder or filter.")
    return X


def _as_sequence(X: Any, name: str) -> Any:
    if hasattr(X, "columns"):  # a pandas or polars table
        if X.shape[1] != 1:
            raise ValueError(
                f"Got {name} with {X.shape[1]} columns but expected one column of paths. Fix: pass {name}['path']."
            )
        X = X[X.columns[0]]
    if hasattr(X, "to_numpy"):
        X = X.to_numpy()
    if isinstance(X, np.ndarray):
        if X.dtype.kind in "OUS":
            X = _one_column(X, name)
        elif X.ndim not in (3, 4) or (X.ndim == 3 and X.shape[-1] in (3, 4)):
            raise ValueError(
                f"Got {name} as an array of shape {X.shape} but expected (n, H, W, 3). "
                f"Fix: for one image pass {name}[None]."
            )
    return X if isinstance(X, Sequence | np.ndarray) else list(X)


def name_rows(rows: Sequence[int] | NDArray) -> str:
    """Name rows in a message, the first ten of many: "rows 3, 5, 8"."""
    return f"rows {', '.join(map(str, rows[:10]))}{' ...' * (len(rows) > 10)}"


def _one_column(paths: NDArray, name: str) -> NDArray:
    if paths.ndim == 0 or (paths.ndim == 2 and paths.shape[1] != 1):
        raise ValueError(
            f"Got {name} as an array of shape {paths.shape} but expected one path an image. "
            "Fix: pass one column of paths."
        )
    return paths[:, 0] if paths.ndim == 2 else paths


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
    where = "" if row is None else f"Row {row}: "
    if isinstance(image, str | os.PathLike):
        return _read_file(Path(image), where, _from_pil)
    if isinstance(image, Image.Image):
        return _read_pil(image, where, _from_pil)
    return _from_array(_as_array(image, where), where)


def pad_to_square(image: NDArray) -> NDArray:
    """Repeat the border pixels of an (H, W) or (H, W, C) array until it is square; the image stays in the middle.

    Shape is diagnostic, so images are never squeezed.
    """
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


def load_square(image: Any, size: int, row: int | None = None) -> RGB:
    """Read one image, pad it to a square and resize it: uint8 (size, size, 3)."""
    return resize(pad_to_square(load_rgb(image, row)), size)


def digest(image: Any, row: int | None = None) -> bytes:
    """Return the SHA-256 of a file's bytes, or of the pixels of an image that is no file.

    Raises
    ------
    ImageReadError
        As `load_rgb`, as far as it shows without decoding a file.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        with _reading(path, "" if row is None else f"Row {row}: "):
            return hashlib.sha256(path.read_bytes()).digest()
    pixels = load_rgb(image, row)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def check_readable(image: Any, row: int | None = None) -> str:
    """Return why an image cannot be read, as `load_rgb` says it; nothing if it can."""
    try:
        load_rgb(image, row)
    except ImageReadError as exc:
        return str(exc)
    return ""


@contextmanager
def _reading(path: Path, where: str) -> Iterator[None]:
    """Raise only `ImageReadError` from reading a file: its decoders promise no kind of exception for damage."""
    try:
        if not path.is_file() and path.exists():
            kind = "a folder. Fix: pass the image files in it" if path.is_dir() else "no file. Fix: pass image files"
            raise ImageReadError(f"{where}'{path}' is {kind}.")
        yield
    except ImageReadError:
        raise
    except FileNotFoundError as exc:
        raise ImageReadError(f"{where}'{path}' does not exist. Fix: check the path and the working folder.") from exc
    except UnidentifiedImageError as exc:
        raise ImageReadError(
            f"{where}'{path}' is no image that can be read here ({path.stat().st_size} bytes). Fix: remove it, or save "
            f"it as one of {', '.join(FORMATS)}."
        ) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageReadError(f"{where}'{path}' is too large to be one cell: {exc} Fix: crop it.") from exc
    except PermissionError as exc:
        raise ImageReadError(f"{where}'{path}' may not be read: {exc.strerror}. Fix: change its permissions.") from exc
    except Exception as exc:
        raise ImageReadError(f"{where}'{path}' cannot be read: {exc!s:.200}. Fix: copy it again or remove it.") from exc


def _read_file(path: Path, where: str, convert: Callable[[Image.Image, str], NDArray]) -> NDArray:
    with _reading(path, where), path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        if image.format == "PNG":
            _verify(file)
        return convert(image, f"{where}'{path}' ")


def _verify(file: BinaryIO) -> None:
    """Check a PNG's sums, which decoding skips over, and leave the file where it was."""
    at = file.tell()
    file.seek(0)
    Image.open(file, formats=("PNG",)).verify()
    file.seek(at)


def _read_pil(image: Image.Image, where: str, convert: Callable[[Image.Image, str], NDArray]) -> NDArray:
    """Convert an image that the caller opened: Pillow is lazy, so its damage may show only now."""
    file = getattr(image, "filename", "")
    name = f"'{file}' " if file else ""
    try:
        return convert(image, where + name)
    except ImageReadError:
        raise
    except Exception as exc:  # as in `_reading`
        raise ImageReadError(
            f"{where}{name or 'The image '}cannot be read: {exc!s:.200}. Fix: copy it again or remove it."
        ) from exc


def _from_pil(image: Image.Image, where: str) -> RGB:
    _check_size(image.size, where)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_array(_as_uint16(np.asarray(image), where), where)
    if image.mode == "F":
        return _from_array(np.asarray(image), where)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _check_size(size: tuple[int, ...], where: str) -> None:
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
    _check_size(values.shape[1::-1], where)
    values = _to_uint8(values, where)
    if values.ndim == 2:
        return np.repeat(values[:, :, None], 3, axis=2)
    if values.shape[2] == 4:
        return _from_pil(Image.fromarray(values), where)
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


def load_mask(mask: Any, row: int | None = None) -> NDArray[np.bool_]:
    """Read one cell mask: True wherever the image is not 0 (so nucleus and cytoplasm codes both count).

    Transparent pixels are 0.

    Parameters
    ----------
    mask : path, PIL image, or (H, W) array
    row : int, optional
        Position in the caller's data, for errors.

    Returns
    -------
    mask : bool array of shape (H, W)

    Raises
    ------
    ImageReadError
        As `load_rgb`; also if the mask is empty.
    """
    where = "" if row is None else f"Row {row}: "
    if isinstance(mask, str | os.PathLike):
        inside = _read_file(Path(mask), where, _inside)
    elif isinstance(mask, Image.Image):
        inside = _read_pil(mask, where, _inside)
    elif isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype.kind in "biuf":
        inside = _nonzero(mask, where)
    else:
        inside = load_rgb(mask, row).max(axis=2) > 0
    if not inside.any():
        file = f"'{mask}' " if isinstance(mask, str | os.PathLike) else ""
        raise ImageReadError(f"{where}The mask {file}is empty. Fix: remove the cell or draw its mask.")
    return inside


def _inside(image: Image.Image, where: str) -> NDArray[np.bool_]:
    # Not by way of `_from_pil`: its 16-bit scaling would round the code 128 to 0, its white ground would be cell.
    _check_size(image.size, where)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _nonzero(np.asarray(image), where)
    if "transparency" in image.info or image.mode in _ALPHA_MODES:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.asarray(image.convert("RGB")).max(axis=2) > 0


def _nonzero(values: NDArray, where: str) -> NDArray[np.bool_]:
    if np.isnan(values).any():
        raise ImageReadError(f"{where}The mask holds NaN. Fix: write 0 outside the cell.")
    return values.astype(bool)
