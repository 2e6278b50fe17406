"""Files whose numbers and pages Pillow alone would read as another picture."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.images import load_mask, load_rgb
from sam_bloodcell.images.layout import stored_bits

Y, X = np.mgrid[:40, :50]
RGB = np.stack([200 - 2 * X, 230 - 3 * Y, 150 + (X + Y) // 2], -1).astype(np.uint8)
GREY = RGB[:, :, 1]
THREE = np.repeat(GREY[:, :, None], 3, 2)
ALPHA = np.full((40, 50, 1), 255, np.uint8)
CELL = np.hypot(Y - 18, X - 22) < 12
PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png16(path, values, transparent=None):
    """Write 16-bit numbers (H, W, C), which Pillow cannot."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOURS[channels], 0, 0, 0)
    clear = b"" if transparent is None else _chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    data = _chunk(b"IHDR", head) + clear + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def _tiff(path, values, **options):
    tifffile.imwrite(path, values, **options)
    return path


def _ppm16(path, values, largest=65535):
    magic = b"P6" if values.ndim == 3 else b"P5"
    path.write_bytes(magic + b"\n%d %d\n%d\n" % (*values.shape[1::-1], largest) + values.astype(">u2").tobytes())
    return path


def _refused(image, *fragments, read=load_rgb):
    with pytest.raises(ImageReadError) as caught:
        read(image, 3)
    for fragment in ("Row 3: ", "Fix: ", *fragments):
        assert fragment in str(caught.value)


SIXTEEN = {
    "RGB PNG": lambda path, values: _png16(path, values),
    "RGBA PNG": lambda path, values: _png16(path, np.dstack([values, np.full_like(GREY, 65535, np.uint16)])),
    "grey PNG": lambda path, values: _png16(path, values[:, :, 1:2]),
    "LA PNG": lambda path, values: _png16(path, np.dstack([values[:, :, 1], np.full_like(GREY, 65535, np.uint16)])),
    "RGB TIFF": lambda path, values: _tiff(path, values, photometric="rgb"),
    "big-endian RGB TIFF": lambda path, values: _tiff(path, values, photometric="rgb", byteorder=">"),
    "deflated RGB TIFF": lambda path, values: _tiff(path, values, photometric="rgb", compression="zlib"),
    "planar TIFF": lambda path, values: _tiff(
        path, values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
    ),
    "big-endian planar TIFF": lambda path, values: _tiff(
        path, values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", byteorder=">", tile=(16, 16)
    ),
    "OME-TIFF": lambda path, values: _tiff(
        path.with_suffix(".ome.tif"), values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate",
        metadata={"axes": "SYX"},
    ),
    "grey TIFF": lambda path, values: _tiff(path, values[:, :, 1], photometric="minisblack"),
    "PPM": lambda path, values: _ppm16(path, values),
    "PGM": lambda path, values: _ppm16(path, values[:, :, 1]),
}  # fmt: skip


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("kind", SIXTEEN)
class TestSixteenBits:
    def test_the_full_range_is_read_right(self, tmp_path, kind, opened):
        path = SIXTEEN[kind](tmp_path / "a.img", RGB.astype(np.uint16) * 257)
        grey = kind.startswith(("grey", "LA", "PGM"))
        with Image.open(path) as image:
            np.testing.assert_allclose(load_rgb(image if opened else path), THREE if grey else RGB, atol=1)

    @pytest.mark.parametrize("bits", [8, 10, 12, 14])
    def test_numbers_of_fewer_bits_are_refused(self, tmp_path, kind, opened, bits):
        path = SIXTEEN[kind](tmp_path / "a.img", RGB.astype(np.uint16) * (2**bits // 256))
        shade = "black" if bits == 8 else "dark"
        with Image.open(path) as image:
            said = ("Got 16-bit values", "of 65535", f"would be {shade}", f"{bits}-bit numbers", "save it as 8 bit")
            _refused(image if opened else path, str(path), *said)


class TestDepths:
    @pytest.mark.parametrize("bits", [8, 10, 12, 14])
    @pytest.mark.parametrize("alpha", [False, True])
    def test_arrays_of_fewer_bits_are_refused(self, bits, alpha):
        values = RGB.astype(np.uint16) * (2**bits // 256)
        values = np.dstack([values, np.full_like(GREY, 65535, np.uint16)]) if alpha else values
        _refused(values, f"{bits}-bit numbers")

    @pytest.mark.parametrize("bits", [8, 12, 14])
    def test_floats_of_fewer_bits_are_refused(self, tmp_path, bits):
        values = (RGB * (2**bits // 256) / 65535).astype(np.float32)
        _refused(values, "float values up to 0.", "of 1, which would be dark", "divide the camera's numbers")
        _refused(np.dstack([values, np.ones_like(values[:, :, 0])]), "would be dark")
        _refused(_tiff(tmp_path / "a.tif", values[:, :, 0], photometric="minisblack"), "would be dark")

    def test_dim_alpha_is_refused_too(self):
        _refused(np.dstack([RGB.astype(np.uint16) * 257, ALPHA.astype(np.uint16)]), "8-bit numbers")

    def test_twelve_bits_that_the_file_declares_are_scaled(self, tmp_path):
        path = _ppm16(tmp_path / "a.ppm", np.round(RGB / 255 * 4095), largest=4095)
        np.testing.assert_allclose(load_rgb(path), RGB, atol=1)
        _refused(_ppm16(path, RGB, largest=4095), "Got 12-bit values", "of 4095", "8-bit numbers")

    def test_jpeg_2000_of_sixteen_bits(self, tmp_path):
        path = tmp_path / "a.jp2"
        Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
        np.testing.assert_array_equal(load_rgb(path), THREE)
        Image.fromarray(GREY.astype(np.uint16)).save(path)
        _refused(path, "8-bit numbers")

    def test_jpeg_2000_colours_of_sixteen_bits_are_known_by_their_header(self, tmp_path):
        path = tmp_path / "a.jp2"
        Image.fromarray(RGB).save(path)
        with Image.open(path) as image:
            assert stored_bits(image) == 8
        content = path.read_bytes()
        at = content.index(b"\xff\x4f\xff\x51") + 42
        depths = b"".join(bytes([15]) + content[at + 3 * i + 1 : at + 3 * i + 3] for i in range(3))
        path.write_bytes(content[:at] + depths + content[at + 9 :])
        with Image.open(path) as image:
            assert stored_bits(image) == 16

    @pytest.mark.parametrize("dtype", ["int8", "int16"])
    def test_signed_numbers_are_refused(self, tmp_path, dtype):
        _refused(_tiff(tmp_path / "a.tif", (GREY // 2).astype(dtype), photometric="minisblack"), "signed numbers")

    def test_a_transparent_colour_of_sixteen_bits_is_white(self, tmp_path):
        values = RGB.astype(np.uint16) * 257
        assert (load_rgb(_png16(tmp_path / "a.png", values, values[7, 9]))[7, 9] == 255).all()
        pixels = load_rgb(_png16(tmp_path / "b.png", values[:, :, 1:2], values[7, 9, 1:2]))
        clear = GREY == GREY[7, 9]  # noqa: SIM300
        assert (pixels[clear] == 255).all()
        np.testing.assert_array_equal(pixels[~clear], THREE[~clear])

    @pytest.mark.parametrize("values", [GREY, GREY.astype(np.uint16) * 257, (GREY / 255).astype(np.float32)])
    def test_where_0_is_white_the_picture_is_turned_over(self, tmp_path, values):
        path = _tiff(tmp_path / "a.tif", values, photometric="miniswhite")
        if values.dtype == np.float32:
            with Image.open(path) as image:
                np.testing.assert_array_equal(load_rgb(image), 255 - THREE)
        np.testing.assert_array_equal(load_rgb(path), 255 - THREE)


class TestTransparency:
    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_a_wholly_transparent_image_is_refused(self, tmp_path, mode):
        clear = Image.fromarray(np.dstack([RGB, ALPHA * 0])).convert(mode if mode != "P" else "RGBA")
        options = {}
        if mode == "P":
            clear, options = Image.fromarray(GREY * 0).convert("P"), {"transparency": 0}
        clear.save(tmp_path / "a.png", **options)
        _refused(tmp_path / "a.png", "fully transparent", "save it without alpha")

    def test_sixteen_bits_too(self, tmp_path):
        values = np.dstack([RGB, ALPHA * 0]).astype(np.uint16) * 257
        _refused(_png16(tmp_path / "a.png", values), "fully transparent")
        _refused(values, "fully transparent")


class TestPages:
    def test_a_smaller_version_in_front_is_passed_over(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(RGB[::4, ::4].copy(), photometric="rgb", subfiletype=1)
            file.write(RGB, photometric="rgb")
        np.testing.assert_array_equal(load_rgb(path), RGB)
        with Image.open(path) as image:
            np.testing.assert_array_equal(load_rgb(image), RGB)
            assert image.tell() == 0

    def test_a_small_first_page_that_says_nothing_is_refused(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(RGB[::4, ::4].copy(), photometric="rgb")
            file.write(RGB, photometric="rgb")
        _refused(path, "page 1 is larger than page 0", "save only the picture")

    def test_a_smaller_page_behind_changes_nothing(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(RGB, photometric="rgb")
            file.write(RGB[::4, ::4].copy(), photometric="rgb")
        np.testing.assert_array_equal(load_rgb(path), RGB)

    @pytest.mark.parametrize(
        "options",
        [
            {"photometric": "minisblack"},
            {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite"}},
            {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}},
        ],
        ids=["plain", "ImageJ", "OME"],
    )
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_grey_pages_may_be_channels_and_are_refused(self, tmp_path, options, dtype):
        path = _tiff(
            tmp_path / "a.tif", RGB.transpose(2, 0, 1).astype(dtype) * (257 if dtype == np.uint16 else 1), **options
        )
        for read in (load_rgb, load_mask):
            _refused(path, "has 3 grey pages", "save it as one RGB page", read=read)
        with Image.open(path) as image:
            _refused(image, "has 3 grey pages")

    def test_imagej_planes_that_only_its_description_counts_are_refused(self, tmp_path):
        path = _tiff(
            tmp_path / "a.tif",
            GREY,
            photometric="minisblack",
            description="ImageJ=1.53\nimages=3\nchannels=3\n",
            metadata=None,
        )
        _refused(path, "has 3 grey pages")

    def test_a_page_that_the_caller_turned_to_is_taken(self, tmp_path):
        path = _tiff(tmp_path / "a.tif", RGB.transpose(2, 0, 1), photometric="minisblack")
        with Image.open(path) as image:
            image.seek(1)
            np.testing.assert_array_equal(load_rgb(image), THREE)

    def test_the_first_frame_of_an_animation_is_taken(self, tmp_path):
        frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(load_rgb(tmp_path / "a.gif"), THREE)


def test_what_pillow_cannot_read_says_how_to_save_it(tmp_path):
    path = _tiff(tmp_path / "a.tif", (RGB / 255).astype(np.float32), photometric="rgb")
    _refused(path, "is not a readable image", "with 8 bits per channel")


@pytest.mark.parametrize("kind", ["path", "pil"])
def test_a_truncated_file_is_refused_whatever_the_caller_told_pillow(tmp_path, monkeypatch, kind):
    Image.fromarray(make_blood_cells(1, domains=["lab_a"], random_state=0).images[0]).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    cut = tmp_path / "cut.jpg"
    with Image.open(cut) as opened, pytest.raises(ImageReadError, match="truncated"):
        load_rgb(cut if kind == "path" else opened)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_one_hot_pixel_does_not_make_camera_numbers_a_picture():
    image = make_blood_cells(1, domains=["lab_a"], image_size=64, random_state=0).images[0].astype(np.uint16) * 16
    image[2, 2] = 65535
    with pytest.raises(ImageReadError, match="look like 12-bit numbers"):
        load_rgb(image)
