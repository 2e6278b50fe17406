import os
import pickle
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageCms

from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.images import load_mask, load_rgb
from sam_bloodcell.images.collections import as_image_list
from sam_bloodcell.images.frames import load_square, pad_to_square, resize
from sam_bloodcell.images.reading import read_content

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def _three(grey):
    return np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2)


def _on_white(rgb, alpha):
    alpha = alpha[:, :, None] / 255
    return rgb * alpha + 255 * (1 - alpha)


def _save(path, image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def _rejected(image, *fragments, row=None):
    with pytest.raises(ImageReadError) as caught:
        load_rgb(image, row)
    for fragment in fragments:
        assert fragment in str(caught.value)


class TestFiles:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff"])
    @pytest.mark.parametrize("as_text", [True, False])
    def test_lossless_under_unicode_and_spaces(self, tmp_path, suffix, as_text):
        folder = tmp_path / "Zellen früh 血"
        folder.mkdir()
        path = _save(folder / f"a cell é.{suffix}", RGB)
        pixels = load_rgb(str(path) if as_text else path)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, RGB)

    def test_jpeg_within_its_loss(self, tmp_path):
        flat = np.full((16, 16, 3), (200, 120, 180), np.uint8)
        path = _save(tmp_path / "a.jpeg", flat, quality=95)
        np.testing.assert_allclose(load_rgb(path).astype(int), flat, atol=2)

    def test_cmyk_jpeg(self, tmp_path):
        cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta + yellow ink
        path = _save(tmp_path / "a.jpg", cmyk, quality=100)
        np.testing.assert_allclose(load_rgb(path).astype(int), np.full((8, 8, 3), (255, 0, 0)), atol=3)

    def test_16_bit_grey_png_is_scaled_by_its_range(self, tmp_path):
        values = np.array([[0, 257, 128 * 257], [65535, 300, 128]], np.uint16)
        path = _save(tmp_path / "a.png", values)
        np.testing.assert_array_equal(load_rgb(path), _three([[0, 1, 128], [255, 1, 0]]))

    @pytest.mark.parametrize(
        ("orientation", "upright"),
        [(1, RGB), (2, RGB[:, ::-1]), (3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB))],
    )
    def test_exif_rotation_is_applied(self, tmp_path, orientation, upright):
        exif = Image.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(load_rgb(_save(tmp_path / "a.png", RGB, exif=exif)), upright)

    def test_exif_rotated_jpeg(self, tmp_path):
        halves = np.zeros((16, 32, 3), np.uint8)
        halves[:, 16:] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
        pixels = load_rgb(_save(tmp_path / "a.jpg", halves, exif=exif, quality=95))
        assert pixels.shape == (32, 16, 3)
        np.testing.assert_allclose(pixels.astype(int), np.rot90(halves, -1), atol=2)

    def test_first_page_of_several(self, tmp_path):
        pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
        path = _save(tmp_path / "stack.tif", pages[0], save_all=True, append_images=pages[1:])
        np.testing.assert_array_equal(load_rgb(path), RGB)
        assert "The first frame or colour page" in load_rgb.__doc__

    def test_a_colour_profile_changes_nothing(self, tmp_path):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        np.testing.assert_array_equal(load_rgb(_save(tmp_path / "a.png", RGB, icc_profile=profile)), RGB)

    def test_the_suffix_does_not_decide(self, tmp_path):
        np.testing.assert_array_equal(load_rgb(_save(tmp_path / "a.jpg", RGB, format="TIFF")), RGB)

    def test_one_pixel(self, tmp_path):
        np.testing.assert_array_equal(load_rgb(_save(tmp_path / "a.png", RGB[:1, :1])), RGB[:1, :1])


def _palette(transparent=False):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    if transparent:
        image.info["transparency"] = 1
    return image


class TestModes:
    @pytest.mark.parametrize("on_disk", [True, False])
    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            pytest.param(Image.fromarray(RGB), RGB, id="RGB"),
            pytest.param(Image.fromarray(GREY), _three(GREY), id="L"),
            pytest.param(Image.fromarray(GREY > 99), _three((GREY > 99) * 255), id="1"),
            pytest.param(
                _palette(),
                np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]),
                id="P",
            ),
            pytest.param(
                _palette(transparent=True),
                np.array([[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [255, 255, 255]]]),
                id="P-transparent",
            ),
        ],
    )
    def test_exact(self, tmp_path, image, expected, on_disk):
        if on_disk:
            options = {"transparency": 1} if "transparency" in image.info else {}
            image = _save(tmp_path / "a.png", image, **options)
        np.testing.assert_array_equal(load_rgb(image), expected)

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_alpha_is_composited_on_white(self, tmp_path, mode):
        alpha = np.array([[0, 128, 255, 64, 1]] * 6, np.uint8)
        colour = RGB if mode == "RGBA" else _three(GREY)
        image = Image.fromarray(np.dstack([colour, alpha])).convert(mode)
        expected = _on_white(colour if mode == "RGBA" else _three(Image.fromarray(colour).convert("L")), alpha)
        for source in (image, _save(tmp_path / "a.png", image)):
            pixels = load_rgb(source).astype(float)
            np.testing.assert_allclose(pixels, expected, atol=1)
            np.testing.assert_array_equal(pixels[:, 0], 255)
            np.testing.assert_array_equal(pixels[:, 2], expected[:, 2])

    def test_the_callers_image_is_left_alone(self):
        image = Image.fromarray(RGB)
        load_rgb(image)[:] = 0
        np.testing.assert_array_equal(np.asarray(image), RGB)


class TestArrays:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            pytest.param(RGB, RGB, id="HxWx3"),
            pytest.param(GREY, _three(GREY), id="HxW"),
            pytest.param(GREY[:, :, None], _three(GREY), id="HxWx1"),
            pytest.param(RGB[:1, :1], RGB[:1, :1], id="1x1"),
            pytest.param(RGB[::-1, ::2], RGB[::-1, ::2], id="strided"),
            pytest.param(GREY > 99, _three((GREY > 99) * 255), id="bool"),
            pytest.param(RGB.astype(np.uint16) * 257, RGB, id="uint16"),
            pytest.param((RGB.astype(np.uint16) * 257).astype(">u2"), RGB, id="uint16-big-endian"),
            pytest.param((RGB / 255).astype(np.float16), RGB, id="float16"),
            pytest.param((RGB / 255).astype(np.float32), RGB, id="float32"),
            pytest.param(RGB / 255, RGB, id="float64"),
            pytest.param(np.zeros((2, 2)), np.zeros((2, 2, 3)), id="float-zeros"),
            pytest.param(np.dstack([RGB, np.full_like(GREY, 255)]), RGB, id="RGBA-opaque"),
        ],
    )
    def test_exact(self, values, expected):
        pixels = load_rgb(values)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected)

    @pytest.mark.parametrize(
        ("values", "fragments"),
        [
            pytest.param(np.array([[0, np.nan]]), ("nan", "expected 0 to 1", "replace NaN"), id="nan"),
            pytest.param(np.array([[0, np.inf]]), ("from 0 to inf", "divide 0-255 values by 255"), id="inf"),
            pytest.param(np.array([[0, 200.0]]), ("from 0 to 200", "divide 0-255 values by 255"), id="0-255"),
            pytest.param(np.array([[-0.5, 1]]), ("from -0.5 to 1",), id="negative-float"),
            pytest.param(np.array([[-1, 4]], np.int8), ("type int8", ".astype('uint8')"), id="negative-int"),
            pytest.param(RGB.astype(np.int64), ("type int64", ".astype('uint8')"), id="int64"),
            pytest.param(np.zeros((3, 8, 8)), ("(3, 8, 8)", "put the colour channel last"), id="CHW"),
            pytest.param(np.zeros((0, 5, 3), np.uint8), ("(0, 5, 3)", "expected (H, W)"), id="empty"),
            pytest.param(np.zeros(9, np.uint8), ("(9,)",), id="1-D"),
            pytest.param(None, ("Got None but expected an image", "leave this row out"), id="none"),
            pytest.param(float("nan"), ("Got nan", "leave this row out"), id="missing-in-a-table"),
            pytest.param(7, ("shape ()",), id="number"),
            pytest.param(np.dstack([RGB, np.zeros_like(GREY)]), ("fully transparent",), id="RGBA-clear"),
            pytest.param([[1], [1, 2]], ("a list that is not an array", "pass a path"), id="ragged"),
            pytest.param(
                GREY.astype(np.uint16), ("16-bit values up to", "would be black", "save it as 8 bit"), id="dim"
            ),
            pytest.param(np.zeros((1, 20_000), np.uint8), ("too large to be one cell: 20000 x 1 px",), id="wide"),
        ],
    )
    def test_wrong_arrays_name_the_row_and_the_fix(self, values, fragments):
        _rejected(values, "Row 7: ", "Fix: ", *fragments, row=7)


class TestBrokenFiles:
    def test_error_is_an_os_error_and_a_value_error_and_survives_pickling(self):
        assert issubclass(ImageReadError, OSError)
        assert issubclass(ImageReadError, ValueError)
        assert str(pickle.loads(pickle.dumps(ImageReadError("Row 3: no")))) == "Row 3: no"

    def test_missing(self, tmp_path):
        path = tmp_path / "nö such.png"
        _rejected(path, f"Row 3: '{path}' does not exist. Fix: check the path and the working folder.", row=3)

    def test_row_is_left_out_where_unknown(self, tmp_path):
        with pytest.raises(ImageReadError, match=r"^'.*x\.png' does not exist"):
            load_rgb(tmp_path / "x.png")

    def test_folder(self, tmp_path):
        _rejected(tmp_path, f"Row 0: '{tmp_path}' is a folder. Fix: pass the image files in it.", row=0)

    @pytest.mark.parametrize(("content", "size"), [(b"", "(0 bytes)"), (b"no image\n", "(9 bytes)")])
    def test_empty_and_text(self, tmp_path, content, size):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        _rejected(path, f"Row 2: '{path}' is not a readable image {size}. Fix: remove", row=2)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
    @pytest.mark.parametrize("opened", [False, True])
    def test_truncated(self, tmp_path, suffix, opened):
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = _save(tmp_path / f"a.{suffix}", noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        fragments = ("Row 5: ", f"'{path}' cannot be read: ", "Fix: copy it again or remove it.")
        if opened:
            with Image.open(path) as image:
                _rejected(image, *fragments, row=5)
        else:
            _rejected(path, *fragments, row=5)

    @pytest.mark.parametrize("limit", [20, 10], ids=["twice-the-limit", "over-the-limit"])
    def test_decompression_bomb(self, tmp_path, monkeypatch, limit):
        path = _save(tmp_path / "a.png", RGB)  # 30 pixels: Pillow warns at limit 20, raises at limit 10
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        _rejected(path, f"Row 1: '{path}' is too large to be one cell", "30 pixels", "Fix: crop it.", row=1)

    def test_name_too_long(self):
        _rejected("a" * 5000, "Row 1: ", "cannot be read", row=1)

    def test_too_wide_to_be_padded(self, tmp_path):
        path = _save(tmp_path / "a.png", np.zeros((2, 20_000), np.uint8))
        _rejected(path, f"Row 4: '{path}' is too large to be one cell: 20000 x 2 px. Fix: crop it.", row=4)

    def test_kinds_that_run_other_programs_are_not_tried(self, tmp_path):
        path = _save(tmp_path / "a.png", RGB, format="EPS")
        _rejected(path, "Row 0: ", "is not a readable image", "PNG", row=0)

    @pytest.mark.parametrize("read", [load_rgb, load_mask, read_content])
    def test_what_is_no_file_is_not_waited_for(self, tmp_path, read):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ImageReadError, match=r"^Row 3: '.*pipe\.png' is not a file. Fix: pass image files"):
            read(tmp_path / "pipe.png", 3)

    @pytest.mark.parametrize("read", [load_rgb, load_mask, read_content])
    def test_zero_byte_in_the_name(self, read):
        with pytest.raises(ImageReadError, match=r"^Row 1: 'a.b' cannot be read: embedded null byte"):
            read("a\0b", 1)

    def test_a_flipped_bit_is_found_out(self, tmp_path):
        path = _save(tmp_path / "a.png", RGB, compress_level=0)
        content = bytearray(path.read_bytes())
        content[content.index(b"IDAT") + 30] ^= 1
        path.write_bytes(content)
        _rejected(path, "cannot be read", "broken PNG file")

    def test_32_bit_integers(self):
        _rejected(Image.new("I", (2, 2), 70_000), "beyond 65535", "Fix: save it as 8 or 16 bit.")


class TestMasks:
    CODES = np.array([[0, 0, 128], [0, 255, 128]], np.uint8)

    @pytest.mark.parametrize("kind", ["uint8", "uint16", "int64", "bool", "float32", ">u2"])
    def test_arrays(self, kind):
        mask = load_mask(self.CODES.astype(kind))
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, self.CODES > 0)

    @pytest.mark.parametrize("kind", ["uint8", "uint16", "bool"])
    @pytest.mark.parametrize("on_disk", [True, False])
    def test_images_keep_small_codes(self, tmp_path, kind, on_disk):
        image = Image.fromarray(self.CODES.astype(kind))
        mask = load_mask(_save(tmp_path / "m.png", image) if on_disk else image)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, self.CODES > 0)

    def test_transparent_ground_is_no_cell(self, tmp_path):
        white = np.full((2, 3), 255, np.uint8)
        rgba = np.dstack([white, white, white, (self.CODES > 0) * np.uint8(255)])
        np.testing.assert_array_equal(load_mask(_save(tmp_path / "m.png", rgba)), self.CODES > 0)

    def test_colour(self):
        np.testing.assert_array_equal(load_mask(_three(self.CODES)), self.CODES > 0)

    def test_empty(self, tmp_path):
        path = _save(tmp_path / "m.png", np.zeros((4, 4), np.uint8))
        message = f"Row 4: The mask '{path}' is empty. Fix: remove the cell or draw its mask."
        with pytest.raises(ImageReadError, match=re.escape(message)):
            load_mask(path, 4)
        with pytest.raises(ImageReadError, match=r"^Row 0: The mask is empty\. Fix: "):
            load_mask(np.zeros((4, 4), bool), 0)

    def test_nan(self, tmp_path):
        values = np.array([[0, np.nan]], np.float32)
        for mask in (values, _save(tmp_path / "m.tif", values)):
            with pytest.raises(ImageReadError, match=r"Row 2: .*The mask contains NaN\. Fix: write 0 outside"):
                load_mask(mask, 2)

    def test_missing(self, tmp_path):
        with pytest.raises(ImageReadError, match=r"^Row 6: '.*gone\.png' does not exist"):
            load_mask(tmp_path / "gone.png", 6)


class _Polars:
    """As much of a polars table as is needed: columns, no iloc."""

    columns = ("path",)
    shape = (2, 1)

    def __getitem__(self, name):
        return pd.Series({"path": ["a.png", "b.png"]}[name])


class TestCollections:
    PATHS = ("a.png", "b.png")

    @pytest.mark.parametrize(
        "X",
        [
            pytest.param(["a.png", "b.png"], id="list"),
            pytest.param(("a.png", "b.png"), id="tuple"),
            pytest.param(pd.Series(["a.png", "b.png"], index=[7, 3]), id="series"),
            pytest.param(pd.DataFrame({"file": ["a.png", "b.png"]}, index=[7, 3]), id="dataframe"),
            pytest.param(np.array([["a.png"], ["b.png"]], object), id="column"),
            pytest.param(np.array(["a.png", "b.png"]), id="text-array"),
            pytest.param(_Polars(), id="polars"),
            pytest.param(dict.fromkeys(["a.png", "b.png"]).keys(), id="dict-view"),
            pytest.param(filter(None, ["a.png", "b.png"]), id="filter"),
            pytest.param(pd.Series(["a.png", "b.png"], dtype="string[pyarrow]"), id="arrow-text"),
            pytest.param(pd.Series(["a.png", "b.png"], dtype="category"), id="categorical"),
            pytest.param(pa.array(["a.png", "b.png"]), id="arrow-array"),
            pytest.param(pa.chunked_array([["a.png"], ["b.png"]]), id="arrow-chunks"),
            pytest.param(pa.table({"file": ["a.png", "b.png"]}), id="arrow-table"),
        ],
    )
    def test_paths(self, X):
        images = as_image_list(X)
        assert len(images) == 2
        assert tuple(images[row] for row in range(2)) == self.PATHS

    def test_generator(self):
        assert list(as_image_list(name for name in self.PATHS)) == list(self.PATHS)

    def test_stack_of_images(self):
        stack = np.stack([RGB, 255 - RGB])
        images = as_image_list(stack)
        assert len(images) == 2
        np.testing.assert_array_equal(images[1], 255 - RGB)

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            pytest.param("a.png", "Got one image as X but expected a collection. Fix: pass [X].", id="path"),
            pytest.param(Image.fromarray(RGB), "Got one image as X but expected a collection", id="PIL"),
            pytest.param(RGB, "shape (6, 5, 3) but expected (n, H, W, 3). Fix: for one image pass X[None]", id="RGB"),
            pytest.param(GREY, "shape (6, 5) but expected (n, H, W, 3)", id="grey"),
            pytest.param([], "Got an empty X but expected at least one image. Fix: check", id="empty"),
            pytest.param(np.zeros((0, 4, 4, 3)), "Got an empty X", id="empty-array"),
            pytest.param(iter(()), "Got an empty X", id="empty-generator"),
            pytest.param(
                pd.DataFrame({"file": ["a"], "label": ["b"]}),
                "Got X with the columns file, label but expected a column 'path'. Fix: X.rename(",
                id="table",
            ),
            pytest.param(np.array([["a", "b"]], object), "shape (1, 2) but expected one path per image", id="columns"),
            pytest.param(np.array("a.png"), "shape () but expected one path per image", id="0-d"),
            pytest.param(b"a.png", "Got one image as X but expected a collection", id="bytes"),
            pytest.param(BytesIO(b"GIF"), "Got one image as X but expected a collection", id="open-file"),
            pytest.param(torch.from_numpy(RGB), "shape (6, 5, 3) but expected (n, H, W, 3)", id="one-tensor"),
        ],
    )
    def test_errors_name_the_fix(self, X, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            as_image_list(X)

    @pytest.mark.parametrize(
        ("X", "fix"),
        [
            pytest.param({"a.png", "b.png"}, r"Got X as a set .* Fix: pass a list, such as sorted\(paths\)", id="set"),
            pytest.param({0: "a.png"}, r"Got X as a dict .* such as list\(images.values\(\)\)", id="dict"),
        ],
    )
    def test_collections_without_an_order_are_refused(self, X, fix):
        with pytest.raises(TypeError, match=fix):
            as_image_list(X)

    def test_tensors_are_arrays(self):
        np.testing.assert_array_equal(as_image_list(torch.from_numpy(RGB)[None]), RGB[None])

    @pytest.mark.parametrize("missing", [pd.NA, pd.NaT, None, float("nan"), np.float32("nan"), ["a.png"], {"a": 1}])
    def test_what_is_no_image_is_named_with_its_row(self, missing):
        with pytest.raises(ImageReadError, match=r"^Row 3: Got .* but expected an image or a path. Fix: leave"):
            load_rgb(missing, 3)

    @pytest.mark.parametrize("encoded", [b"GIF", bytearray(b"GIF"), BytesIO(b"GIF"), np.bytes_(b"a.png")])
    def test_encoded_images_and_open_files_are_refused_with_the_way_to_open_them(self, encoded):
        with pytest.raises(ImageReadError, match=r"^Row 3: Got an object of type \w+ but .* with PIL.Image.open"):
            load_rgb(encoded, 3)

    def test_errors_use_the_arguments_name(self):
        with pytest.raises(ValueError, match=r"Got an empty masks but"):
            as_image_list([], "masks")


class TestGeometry:
    def test_wide_image_gets_its_edge_rows_repeated(self):
        padded = pad_to_square(RGB[:2])  # 2 x 5
        assert padded.shape == (5, 5, 3)
        np.testing.assert_array_equal(padded[1:3], RGB[:2])
        np.testing.assert_array_equal(padded[0], RGB[0])
        np.testing.assert_array_equal(padded[3:], np.stack([RGB[1], RGB[1]]))

    def test_tall_mask(self):
        mask = np.zeros((6, 3), bool)
        mask[2, 1] = True
        padded = pad_to_square(mask)
        assert padded.shape == (6, 6)
        assert np.argwhere(padded).tolist() == [[2, 2]]

    def test_square_is_unchanged(self):
        np.testing.assert_array_equal(pad_to_square(RGB[:5]), RGB[:5])

    def test_resize(self):
        np.testing.assert_array_equal(resize(RGB[:5], 5), RGB[:5])
        blocks = np.kron(np.array([[10, 200], [90, 40]], np.uint8), np.ones((8, 8), np.uint8))
        small = resize(_three(blocks), 4)
        assert small.shape == (4, 4, 3)
        assert small[[0, 0, 3, 3], [0, 3, 0, 3], 0].tolist() == [10, 200, 90, 40]

    def test_resize_antialiases(self):
        stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
        np.testing.assert_allclose(resize(_three(stripes), 8).astype(int), 127, atol=8)

    def test_load_square(self, tmp_path):
        path = _save(tmp_path / "a.png", RGB)
        np.testing.assert_array_equal(load_square(path, 6), pad_to_square(RGB))
        assert load_square(np.ones((1, 1)), 16).tolist() == np.full((16, 16, 3), 255).tolist()
        with pytest.raises(ImageReadError, match=r"^Row 9: "):
            load_square(tmp_path / "gone.png", 16, 9)
