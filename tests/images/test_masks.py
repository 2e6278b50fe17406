"""Masks as programs write them: other grounds, soft edges, noise, palettes, codes."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter
from scipy import ndimage

from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.images import load_mask

Y, X = np.mgrid[:96, :120]
CELL = np.hypot(Y - 44, (X - 50) / 1.2) < 26
NUCLEUS = ndimage.binary_erosion(CELL, iterations=9)
GREY = CELL.astype(np.uint8) * np.uint8(255)
CODED = np.where(NUCLEUS, 255, np.where(CELL, 128, 0)).astype(np.uint8)


def _overlap(mask):
    return (mask & CELL).sum() / (mask | CELL).sum()


def _saved(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def _palette(indices, colours):
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putpalette([*colours, *([0] * (768 - len(colours)))])
    return image


class TestSoftEdges:
    @pytest.mark.parametrize("quality", [10, 30, 75, 95])
    def test_noise_of_a_jpeg_is_no_cell(self, tmp_path, quality):
        path = _saved(tmp_path / "m.jpg", GREY, quality=quality)
        assert _overlap(load_mask(path)) > 0.99
        with Image.open(path) as image:
            copied = _saved(tmp_path / "copy.png", image.convert("RGB"))
        assert _overlap(load_mask(copied)) > 0.99
        assert _overlap(load_mask(np.asarray(Image.open(path)))) > 0.99

    def test_nucleus_and_cytoplasm_in_a_jpeg_both_count(self, tmp_path):
        assert _overlap(load_mask(_saved(tmp_path / "m.jpg", CODED, quality=75))) > 0.97

    @pytest.mark.parametrize(("suffix", "options"), [("webp", {"quality": 50}), ("jp2", {"quality_layers": [20]})])
    def test_other_lossy_formats(self, tmp_path, suffix, options):
        assert _overlap(load_mask(_saved(tmp_path / f"m.{suffix}", GREY, **options))) > 0.99

    @pytest.mark.parametrize("pixels", [GREY, CODED], ids=["one code", "two codes"])
    def test_soft_edges_are_cut_at_half(self, tmp_path, pixels):
        soft = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))
        assert _overlap(load_mask(_saved(tmp_path / "m.png", soft))) > 0.985
        small = Image.fromarray(pixels).resize((480, 384), Image.Resampling.BICUBIC).resize((120, 96))
        assert _overlap(load_mask(_saved(tmp_path / "m.png", small))) > 0.985

    def test_probabilities_are_cut_at_half(self):
        assert _overlap(load_mask(ndimage.gaussian_filter(CELL.astype(np.float32), 1.5))) > 0.98


class TestCodes:
    @pytest.mark.parametrize("largest", [1, 2, 3, 255])
    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
    def test_every_code_counts(self, tmp_path, largest, suffix):
        coded = (CELL.astype(np.uint8) * max(1, largest // 2)).astype(np.uint8)
        coded[NUCLEUS] = largest
        np.testing.assert_array_equal(load_mask(_saved(tmp_path / f"m.{suffix}", coded)), CELL)

    def test_a_thin_rim_counts(self):
        coded = np.where(ndimage.binary_erosion(CELL, iterations=2), 255, np.where(CELL, 100, 0)).astype(np.uint8)
        np.testing.assert_array_equal(load_mask(coded), CELL)

    def test_numbers_of_many_cells_count(self):
        numbers = np.zeros((160, 160), np.uint16)
        numbers[8:, :152] = np.kron(np.arange(361).reshape(19, 19), np.ones((8, 8), np.uint16))
        np.testing.assert_array_equal(load_mask(numbers), numbers > 0)

    def test_a_palette_of_colours_is_judged_by_its_index(self, tmp_path):
        path = _saved(tmp_path / "m.png", _palette(CELL, [68, 1, 84, 253, 231, 37]))
        np.testing.assert_array_equal(load_mask(path), CELL)
        np.testing.assert_array_equal(load_mask(_palette(CELL, [])), CELL)

    def test_a_palette_of_greys_is_judged_by_them(self, tmp_path):
        path = _saved(tmp_path / "m.png", _palette(~CELL, [255, 255, 255, 0, 0, 0]))
        np.testing.assert_array_equal(load_mask(path), CELL)

    @pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16"])
    def test_a_tiff_holds_its_numbers_whichever_is_white(self, tmp_path, photometric, dtype):
        if (photometric, dtype) == ("minisblack", "bool"):
            photometric = None  # as tifffile writes it
        tifffile.imwrite(tmp_path / "m.tif", CELL.astype(dtype), photometric=photometric)
        np.testing.assert_array_equal(load_mask(tmp_path / "m.tif"), CELL)


class TestGround:
    @pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
    def test_a_black_cell_on_white_is_read_with_a_warning(self, tmp_path, mode):
        path = _saved(tmp_path / "m.png", Image.fromarray(255 - GREY).convert(mode))
        with pytest.warns(UserWarning, match=r"Row 4: The mask '.*m\.png' is white around one black part"):
            mask = load_mask(path, 4)
        np.testing.assert_array_equal(mask, CELL)

    def test_in_a_jpeg_too(self, tmp_path):
        with pytest.warns(UserWarning, match="is white around one black part"):
            assert _overlap(load_mask(_saved(tmp_path / "m.jpg", 255 - GREY))) > 0.99

    @pytest.mark.parametrize("pixels", [~CELL, (~CELL).astype(np.uint8), (~CELL).astype(np.float32)])
    def test_arrays_of_true_and_of_codes_are_never_turned_over(self, pixels):
        with pytest.warns(UserWarning, match="The mask touches all four borders"):
            np.testing.assert_array_equal(load_mask(pixels), ~CELL)

    def test_a_cell_that_fills_its_crop_is_not_turned_over(self, tmp_path):
        fills = np.hypot(Y - 48, X - 60) < 62
        fills[40:60, 50:70] = False
        with pytest.warns(UserWarning, match=r"The mask '.*' touches all four borders\. Fix: make sure"):
            mask = load_mask(_saved(tmp_path / "m.png", fills.astype(np.uint8) * np.uint8(255)))
        np.testing.assert_array_equal(mask, fills)

    def test_a_mask_of_nearly_everything_is_a_warning(self, tmp_path):
        colours = np.where(CELL[..., None], [253, 231, 37], [68, 1, 84]).astype(np.uint8)  # as matplotlib saves it
        path = _saved(tmp_path / "m.png", colours)
        with pytest.warns(UserWarning, match=r"The mask '.*m\.png' covers 100% of its image\. Fix: make sure"):
            assert load_mask(path).all()

    def test_a_wholly_transparent_mask_is_empty(self, tmp_path):
        path = _saved(tmp_path / "m.png", np.dstack([GREY, GREY, GREY, GREY * 0]))
        with pytest.raises(ImageReadError, match="is empty"):
            load_mask(path)


@pytest.mark.parametrize(("ground", "cell"), [(0.02, 0.98), (0.4, 0.6)])
def test_probabilities_are_cut_at_a_half(ground, cell):
    inside = np.zeros((32, 32), bool)
    inside[8:20, 10:22] = True
    np.testing.assert_array_equal(load_mask(np.where(inside, cell, ground).astype(np.float32)), inside)


def test_logits_are_no_mask():
    logits = np.full((32, 32), -4.5)
    logits[8:20, 8:20] = 4.5
    with pytest.raises(ImageReadError, match=r"fractions from -4.5 to 4.5, such as a model's logits. Fix: pass mask >"):
        load_mask(logits)
