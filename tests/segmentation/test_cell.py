import numpy as np
import pytest
from scipy import ndimage

from sam_bloodcell.images.frames import pad_to_square, resize
from sam_bloodcell.segmentation.cell import (
    CROP_BORDER,
    CROP_SIZE,
    GREY,
    QUALITY,
    cell_crop,
    cell_mask,
    fill_holes,
    find_cell,
    published_crop,
    spread_tokens,
    token_weights,
    unframe,
)


class TestCellMask:
    def test_keeps_the_largest_component(self):
        probability = np.zeros((12, 12))
        probability[0:2, 0:2] = 0.99
        probability[5:9, 5:10] = 0.6
        expected = np.zeros((12, 12), bool)
        expected[5:9, 5:10] = True
        np.testing.assert_array_equal(cell_mask(probability), expected)

    def test_size_counts_not_order(self):
        probability = np.zeros((12, 12))
        probability[0:5, 0:5] = 0.6
        probability[8:10, 8:10] = 1
        assert cell_mask(probability).sum() == 25

    def test_fills_holes_but_not_bays(self):
        probability = np.ones((7, 7))
        probability[3, 3] = 0  # a hole
        probability[0, 2] = 0  # a bay
        mask = cell_mask(probability)
        assert mask[3, 3]
        assert not mask[0, 2]

    def test_threshold_is_exclusive(self):
        assert not cell_mask(np.full((4, 4), 0.5)).any()

    def test_empty(self):
        mask = cell_mask(np.zeros((4, 5), np.float32))
        assert mask.dtype == bool
        assert mask.shape == (4, 5)
        assert not mask.any()


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.7, 1])
def test_holes_are_those_of_scipy(share):
    mask = np.random.default_rng(0).random((60, 50)) < share
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


class TestFindCell:
    def test_quality_by_hand(self):
        probability = np.zeros((10, 20))
        probability[0:4, 2:7] = 0.8  # 20 px, 5 of them on the border's 56
        probability[7:9, 15:17] = 0.9
        mask, quality = find_cell(probability)
        np.testing.assert_array_equal(mask, cell_mask(probability))
        assert quality.dtype == QUALITY
        assert quality["area"] == pytest.approx(20 / 200)
        assert quality["components"] == 2
        assert quality["border"] == pytest.approx(5 / 56)
        assert quality["confidence"] == pytest.approx(0.8)
        assert not quality["fallback"]

    @pytest.mark.parametrize("pixels", [0, 1])
    def test_the_whole_image_stands_in_for_nothing_and_for_a_speck(self, pixels):
        probability = np.zeros((40, 40))
        probability.flat[810 : 810 + pixels] = 0.75
        mask, quality = find_cell(probability)
        assert mask.all()
        assert quality["fallback"]
        assert quality["area"] == pytest.approx(pixels / 1600)
        assert (quality["components"], quality["border"]) == (pixels, 0)
        assert quality["confidence"] == 0.75 * pixels


class TestCellCrop:
    def test_exact_when_nothing_is_resized(self):
        side = CROP_SIZE - 2 * CROP_BORDER
        image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        mask = np.zeros((200, 200), bool)
        mask[30 : 30 + side, 50 : 50 + side] = True
        mask[30:40, 50:60] = False  # a corner outside the cell, inside its box
        crop = cell_crop(image, mask)
        expected = np.full((CROP_SIZE, CROP_SIZE, 3), GREY, np.uint8)
        inner = image[30 : 30 + side, 50 : 50 + side].copy()
        inner[:10, :10] = GREY
        expected[CROP_BORDER:-CROP_BORDER, CROP_BORDER:-CROP_BORDER] = inner
        assert (CROP_SIZE, CROP_BORDER, GREY) == (128, 10, 128)
        assert crop.dtype == np.uint8
        np.testing.assert_array_equal(crop, expected)

    @pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20), (1, 1)])
    def test_keeps_the_cells_shape(self, height, width):
        image = np.zeros((100, 120, 3), np.uint8)
        mask = np.zeros((100, 120), bool)
        mask[10 : 10 + height, 5 : 5 + width] = True
        crop = cell_crop(image, mask)
        assert crop.shape == (128, 128, 3)
        inside = crop[:, :, 0] < GREY // 2
        scale = CROP_SIZE / (max(height, width) + 2 * CROP_BORDER)
        assert inside.any(axis=1).sum() == pytest.approx(height * scale, abs=2)
        assert inside.any(axis=0).sum() == pytest.approx(width * scale, abs=2)
        rows, columns = np.nonzero(inside)
        assert rows.mean() == pytest.approx(63.5, abs=scale)
        assert columns.mean() == pytest.approx(63.5, abs=scale)

    def test_a_full_mask_keeps_the_image(self):
        image = np.random.default_rng(0).integers(0, 256, (108, 108, 3), dtype=np.uint8)
        crop = cell_crop(image, np.ones((108, 108), bool))
        np.testing.assert_array_equal(crop[10:-10, 10:-10], image)
        assert (crop[:10] == GREY).all()

    def test_inputs_are_left_alone(self):
        image, mask = np.zeros((9, 9, 3), np.uint8), np.eye(9, dtype=bool)
        cell_crop(image, mask)
        assert not image.any()
        np.testing.assert_array_equal(mask, np.eye(9, dtype=bool))


class TestPublishedCrop:
    def crop_of(self, image, cell, **settings):
        return published_crop(image, np.where(cell, 0.9, 0.1), **settings)

    def test_exact_where_nothing_is_stretched(self):
        side = CROP_SIZE - 2 * CROP_BORDER
        image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        cell = np.zeros((200, 200), bool)
        cell[30 : 31 + side, 50 : 51 + side] = True  # the box loses its last row and column
        cell[60:70, 80:90] = False  # a hole
        cell[62:64, 82:84] = True  # another component, in the hole
        cell[0:5, 0:5] = True
        inner = image[30 : 30 + side, 50 : 50 + side].copy()
        inner[30:40, 30:40] = GREY
        expected = np.full((CROP_SIZE, CROP_SIZE, 3), GREY, np.uint8)
        expected[CROP_BORDER:-CROP_BORDER, CROP_BORDER:-CROP_BORDER] = inner
        crop = self.crop_of(image, cell)
        assert crop.dtype == np.uint8
        np.testing.assert_array_equal(crop, expected)

    @pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20)])
    def test_the_cell_is_stretched_to_a_square(self, height, width):
        image = np.zeros((100, 120, 3), np.uint8)
        cell = np.zeros((100, 120), bool)
        cell[10 : 11 + height, 5 : 6 + width] = True
        inside = self.crop_of(image, cell)[:, :, 0] < GREY // 2
        assert inside.any(axis=1).sum() == pytest.approx(CROP_SIZE * height / (height + 2 * CROP_BORDER), abs=4)
        assert inside.any(axis=0).sum() == pytest.approx(CROP_SIZE * width / (width + 2 * CROP_BORDER), abs=4)

    def test_the_spline_stays_within_the_colours(self):
        image = np.random.default_rng(0).choice([0, 255], (40, 40, 3)).astype(np.uint8)
        framed = np.full((49, 49, 3), float(GREY))
        framed[10:39, 10:39] = image[5:34, 5:34]
        cell = np.zeros((40, 40), bool)
        cell[5:35, 5:35] = True
        expected = [ndimage.zoom(framed[..., channel], CROP_SIZE / 49, order=3) for channel in range(3)]
        assert np.max(expected) > 300  # past the colours, where it is cut and does not wrap
        expected = np.stack(expected, axis=-1).clip(0, 255)
        np.testing.assert_allclose(self.crop_of(image, cell), expected, atol=0.51)

    def test_one_pixel_and_the_whole_image(self):
        image = np.random.default_rng(0).integers(0, 100, (109, 109, 3), dtype=np.uint8)
        cell = np.zeros((109, 109), bool)
        cell[7, 9] = True
        crop = self.crop_of(image, cell)
        assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
        assert crop.min() < GREY
        whole = self.crop_of(image, np.zeros((109, 109), bool), whole=True)
        np.testing.assert_array_equal(whole[10:-10, 10:-10], image[:-1, :-1])


class TestTokenWeights:
    def test_share_by_hand(self):
        mask = np.zeros((4, 6), bool)
        mask[0:2, 0:3] = True  # 6 of the first block's 6 pixels
        mask[0:2, 3] = True  # 2 of the second's
        mask[3, 5] = True  # 1 of the last's
        weights = token_weights(mask, (2, 2))
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, np.array([[6, 2], [0, 1]]) / 9, rtol=1e-6)

    def test_sums_to_one(self):
        mask = np.random.default_rng(0).random((224, 224)) > 0.7
        weights = token_weights(mask, (14, 14))
        assert weights.shape == (14, 14)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        by_hand = np.array(
            [[mask[16 * i : 16 * i + 16, 16 * j : 16 * j + 16].sum() for j in range(14)] for i in range(14)]
        )
        np.testing.assert_allclose(weights, by_hand / mask.sum(), rtol=1e-5)

    def test_uniform_for_a_full_mask(self):
        weights = token_weights(np.ones((32, 48), bool), (2, 3))
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, np.full((2, 3), 1 / 6), rtol=1e-6)

    def test_divides_the_pixels_between_tokens(self):
        mask = np.random.default_rng(0).random((6, 10)) > 0.5
        fine = token_weights(np.kron(mask, np.ones((2, 2), bool)), (4, 4))  # 12 x 20: multiples of 4
        found = token_weights(mask, (4, 4))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, fine, rtol=1e-5)


class TestUnframe:
    @pytest.mark.parametrize("shape", [(40, 100), (100, 40), (80, 80)])
    def test_undoes_the_square_frame(self, shape):
        mask = np.zeros(shape, np.uint8)
        mask[10:30, 12:28] = 255
        framed = resize(pad_to_square(mask), 64) / 255
        back = unframe(framed, shape)
        assert back.shape == shape
        assert ((back > 0.5) == (mask > 0)).mean() > 0.97


def test_the_spread_of_tokens_is_their_deviation_under_the_mask():
    tokens = np.random.default_rng(0).normal(5, 2, (1, 3, 4, 4)).astype(np.float32)
    mask = np.zeros((8, 8), bool)
    mask[:4, 2:8] = True
    inside = tokens[0, :, :2, 1:].reshape(3, -1)
    np.testing.assert_allclose(spread_tokens(tokens, [mask])[0], inside.std(1), rtol=1e-4)
