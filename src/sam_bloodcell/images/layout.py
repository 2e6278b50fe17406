"""Information about bit depth and pages in a file, which is lost once Pillow has decoded the pixels."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image, ImageFile

from ..exceptions import ImageReadError

# TIFF tags.
_NEW_SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 254, 258, 259, 262, 270
_PLANAR, _SAMPLE_FORMAT = 284, 339
_UNCOMPRESSED, _SEPARATE_PLANES, _SIGNED, _WHITE_IS_ZERO = 1, 2, 2, 0
# Bits of the subfile type: a smaller version of another page, a transparency mask of another page.
_REDUCED, _MASK = 1, 4
# Start of a JPEG 2000 codestream, and offset from it at which the depth of the first channel is stored.
_CODESTREAM, _DEPTH_OFFSET = b"\xff\x4f\xff\x51", 42


def stored_bits(image: Image.Image) -> int:
    """Return the bits per value in the image's file; 8 if this is unknown, for example after loading.

    Pillow has only 8 bits per colour and keeps the upper 8 bits of deeper colours.
    """
    if tags := getattr(image, "tag_v2", None):
        return max(tags.get(_BITS, (1,)))
    tile = getattr(image, "tile", None)
    if not tile:
        return 8
    codec, arguments = tile[0][0], tile[0][3]
    if codec == "jpeg2k":
        return _jpeg2000_bits(image.fp)  # type: ignore[attr-defined]
    if codec in ("ppm", "ppm_plain") and isinstance(arguments[-1], int):
        return max(8, arguments[-1].bit_length())  # the largest number that a pixel may have
    return 16 if ";16" in str(arguments) else 8


def is_white_zero(image: Image.Image) -> bool:
    """Tell whether this is a TIFF whose 0 means white (photometric MinIsWhite)."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def refuse_signed(image: Image.Image, where: str) -> None:
    """Raise if a TIFF has signed 8- or 16-bit numbers, because their black and white are unknown."""
    tags = getattr(image, "tag_v2", None)
    if tags and _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and max(tags.get(_BITS, (1,))) <= 16:
        raise ImageReadError(f"{where}has signed numbers, whose range is unknown. Fix: save it unsigned.")


_reading = threading.Lock()
_readers: dict[str, Any] = {"inside": 0, "callers": False}


@contextmanager
def whole_files_only() -> Iterator[None]:
    """Make Pillow refuse truncated files while the block runs, even if other code set it to fill them with grey.

    The setting is global to the process. The first thread to enter stores it, and the last one to leave restores it.
    """
    with _reading:
        if not _readers["inside"]:
            _readers["callers"], ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _readers["inside"] += 1
    try:
        yield
    finally:
        with _reading:
            _readers["inside"] -= 1
            if not _readers["inside"]:
                ImageFile.LOAD_TRUNCATED_IMAGES = _readers["callers"]


@contextmanager
def page_of_image(image: Image.Image, where: str) -> Iterator[None]:
    """Select the page of a TIFF that is the picture while the block runs; raise if this is unclear.

    Pages that the file marks as smaller versions or masks of another page are skipped. Of the others, the first is
    taken, unless a later one is larger, or several are grey, because these may be the channels of one picture. A page
    that the caller selected or loaded stays selected, and so do frames of other formats.
    """
    if not hasattr(image, "tag_v2") or image.tell() or not image.tile:  # type: ignore[attr-defined]
        yield
        return
    page = _find_page(image, where)
    image.seek(page)
    _mend_planes(image)
    try:
        yield
    finally:
        if page:
            image.seek(0)


def _find_page(image: Image.Image, where: str) -> int:
    pages = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        tags = image.tag_v2  # type: ignore[attr-defined]
        if not tags.get(_NEW_SUBFILE_TYPE, 0) & (_REDUCED | _MASK):
            is_grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
            pages.append((page, image.size, is_grey, str(tags.get(_DESCRIPTION, ""))))
    if not pages:
        return 0
    first, size, is_grey, description = pages[0]
    larger = [page for page, (width, height), *_ in pages if width * height > size[0] * size[1]]
    if larger:
        raise ImageReadError(
            f"{where}has several pages, and page {larger[0]} is larger than page {first}, so it is unclear which one "
            "is the picture. Fix: save only the picture."
        )
    # ImageJ may write all planes after the first page and only count them.
    planes = re.search(r"^images=(\d+)", description, re.MULTILINE) if description.startswith("ImageJ=") else None
    count = max(sum(other == size and grey for _, other, grey, _ in pages), int(planes[1]) if planes else 1)
    if is_grey and count > 1:
        raise ImageReadError(
            f"{where}has {count} grey pages, which may be the channels of one picture. Fix: save it as one RGB page, "
            "or save only one page."
        )
    return first


def _mend_planes(image: Image.Image) -> None:
    """Make Pillow read uncompressed, planar 16-bit numbers correctly, which it would read as 8-bit numbers."""
    tags, tile = image.tag_v2, image.tile  # type: ignore[attr-defined]
    apart = tags.get(_PLANAR, 1) == _SEPARATE_PLANES and tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if apart and stored_bits(image) == 16 and all(len(arguments[0]) == 1 for *_, arguments in tile):
        order = "B" if tags.prefix == b"MM" else "L"
        mended = [_with_arguments(each, (f"{each[3][0]};16{order}", *each[3][1:])) for each in tile]
        image.tile = mended  # type: ignore[attr-defined]


def _with_arguments(tile: Any, arguments: tuple[Any, ...]) -> Any:
    """Change the arguments of a tile's decoder; older Pillow has plain tuples."""
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _jpeg2000_bits(file: IO[bytes]) -> int:
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    start = content.find(_CODESTREAM)
    return (content[start + _DEPTH_OFFSET] & 0x7F) + 1 if 0 <= start < len(content) - _DEPTH_OFFSET else 8
