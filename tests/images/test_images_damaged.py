"""Thousands of damaged files and odd arrays through the gate for pixels: a picture, or an error that says where."""

import io
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.images.masks import load_mask
from sam_bloodcell.images.reading import load_rgb, read_content

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
LONGEST = 5.0  # seconds that one file may take on a busy machine; it takes milliseconds
KINDS = {
    "PNG": {"format": "PNG"},
    "PNG with palette": {"format": "PNG", "mode": "P"},
    "PNG, 16 bit": {"format": "PNG", "mode": "I;16"},
    "JPEG": {"format": "JPEG"},
    "progressive JPEG": {"format": "JPEG", "progressive": True},
    "CMYK JPEG": {"format": "JPEG", "mode": "CMYK"},
    "TIFF": {"format": "TIFF"},
    "LZW TIFF": {"format": "TIFF", "compression": "tiff_lzw"},
    "deflated TIFF": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    "BMP": {"format": "BMP"},
    "GIF": {"format": "GIF"},
    "WebP": {"format": "WEBP"},
}
# Their checksums tell every damage that touches the pixels.
CHECKED = {"PNG", "PNG with palette", "PNG, 16 bit"}


def encoded(mode="RGB", **options):
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(PIXELS)
    file = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(file, **options)
    return file.getvalue()


def truncated(content, rng):
    return content[: rng.integers(len(content))]


def flipped(content, rng):
    damaged = np.frombuffer(content, np.uint8).copy()
    at = rng.integers(len(damaged), size=rng.integers(1, 4))
    damaged[at] ^= np.uint8(1) << rng.integers(8, size=len(at), dtype=np.uint8)
    return damaged.tobytes()


def spliced(content, rng):
    """Some bytes cut out, others put in."""
    at, gone, new = rng.integers(len(content)), rng.integers(9), rng.integers(9)
    return content[:at] + rng.bytes(new) + content[at + gone :]


def wrong_head(content, rng):
    """One byte of the header changed: sizes, types, offsets."""
    at = rng.integers(min(64, len(content)))
    return content[:at] + rng.bytes(1) + content[at + 1 :]


def refusal(read, image):
    """The message of the error that a reader raises, or nothing; any other error is a failure of the gate."""
    try:
        read(image, 7)
    except ImageReadError as exc:
        return str(exc)
    return ""


def outcome(path, intact):
    """What became of a file: "as before", "another picture" or "refused"."""
    start = time.monotonic()
    message = refusal(load_rgb, path)
    assert time.monotonic() - start < LONGEST
    if message:
        assert message.startswith(f"Row 7: '{path}' ")
        assert "Fix: " in message
        return "refused"
    pixels = load_rgb(path)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return "as before" if np.array_equal(pixels, intact) else "another picture"


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on metadata
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, tmp_path, request, record_property, capfd):
    cases = request.config.getoption("image_cases") // len(KINDS)
    rng = np.random.default_rng(0)
    content, path = encoded(**KINDS[kind]), tmp_path / "cell.img"
    path.write_bytes(content)
    intact = load_rgb(path)
    seen = Counter()
    damages = (truncated, flipped, spliced, wrong_head)
    for case in range(cases):
        damage = damages[case % len(damages)]
        path.write_bytes(damage(content, rng))
        seen[damage.__name__, outcome(path, intact)] += 1
    capfd.readouterr()  # libtiff talks to the terminal itself
    if kind in CHECKED:
        assert not any(seen[damage.__name__, "another picture"] for damage in damages), seen
    if kind != "GIF":  # whose end may be missing without a sign
        assert not seen["truncated", "another picture"], seen
    by_outcome = Counter()
    for (_, what), count in seen.items():
        by_outcome[what] += count
    told = ", ".join(f"{by_outcome[what]} {what}" for what in ("refused", "as before", "another picture"))
    record_property("figure", f"{cases} damaged {kind} files: {told}")


SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)
DTYPES = st.one_of(
    arrays.scalar_dtypes(), st.just(np.dtype(object)), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes()
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_odd_arrays(data):
    dtype = data.draw(DTYPES)
    values = data.draw(arrays.arrays(dtype, SHAPES, elements=st.integers() if dtype.hasobject else None))
    for read in (load_rgb, load_mask, read_content):
        message = refusal(read, values)
        if message:
            assert message.startswith("Row 7: ")
            assert "Fix: " in message
            continue
        assert 0 not in values.shape
        if read is load_rgb:
            assert values.ndim in (2, 3)
            assert values.dtype.kind in "bu" or (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1)
