import csv

import numpy as np
import pytest
import torch
from PIL import Image

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.models.sam import normalise
from sam_bloodcell.segmentation.pairs import channel_stats, read_pairs, read_with_stain_masks


def test_pairs_become_squares_of_one_size():
    image = np.zeros((20, 40, 3), np.uint8)
    image[5:15, 10:30] = 200
    pixels, inside = read_pairs([image], [image[:, :, 0]], size=32)
    assert (pixels.shape, pixels.dtype) == ((1, 32, 32, 3), np.uint8)
    assert (inside.shape, inside.dtype) == ((1, 32, 32), bool)
    # 10 x 20 px of a 40 px square at 32 px: 8 x 16, in the middle
    assert inside.sum() == 8 * 16
    assert inside[0, 12:20, 8:24].all()
    assert ((pixels[0, :, :, 0] > 100) == inside[0]).all()


def test_as_many_masks_as_images():
    image = np.ones((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"Got 1 masks for 2 images but expected one mask per image.*Fix: leave out"):
        read_pairs([image, image], [image[:, :, 0]], 16)


def test_a_mask_of_another_size_names_the_row():
    image, good, bad = np.ones((8, 8, 3), np.uint8), np.ones((8, 8)), np.ones((8, 9))
    with pytest.raises(ImageReadError, match=r"Row 1: the mask is \(8, 9\) px but its image is \(8, 8\)\. Fix: export"):
        read_pairs([image, image], [good, bad], 16)


def test_an_empty_mask_names_the_row():
    image = np.ones((8, 8, 3), np.uint8)
    with pytest.raises(ImageReadError, match=r"Row 1: .*mask.*empty"):
        read_pairs([image, image], [np.ones((8, 8)), np.zeros((8, 8))], 16)


def test_an_absent_mask_names_the_row():
    image = np.ones((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"Got no mask in rows 1 but expected one mask per image\. Fix: leave these"):
        read_pairs([image, image], [np.ones((8, 8)), None], 16)


def test_channel_stats_by_hand():
    pixels = np.array([[[[0, 10, 255], [2, 10, 255]]], [[[4, 10, 255], [6, 10, 0]]]], np.uint8)
    mean, std = channel_stats(pixels)
    assert mean == pytest.approx((3, 10, 191.25))
    assert std == pytest.approx((5**0.5, 0, (255**2 * 3 / 16) ** 0.5))
    assert all(type(value) is float for value in mean + std)


def test_normalised_channels_have_mean_0_and_deviation_1():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    normal = normalise(torch.from_numpy(pixels), channel_stats(pixels))
    assert (normal.shape, normal.dtype) == ((8, 3, 64, 64), torch.float32)
    assert normal.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert normal.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    by_hand = normalise(torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8), ((8, 20, 40), (2, 1, 5)))
    assert by_hand.flatten().tolist() == [1, 0, -2]


def test_stain_masks_leave_out_what_shows_no_cell():
    cells = make_blood_cells(1, domains=["lab_a"], random_state=0)
    images = [*cells.images[:2], np.full((50, 60, 3), 230, np.uint8)]
    with pytest.warns(UserWarning, match=r"no plausible cell in 1 of 3 images, .*: rows 2\."):
        pixels, inside = read_with_stain_masks(images, 64)
    assert (pixels.shape, inside.shape) == ((2, 64, 64, 3), (2, 64, 64))
    with pytest.raises(ValueError, match=r"No stained cell was found in any image\. Fix: check the images"):
        read_with_stain_masks(images[2:], 64)


@pytest.mark.cells
def test_real_cells_and_masks_pair_up(cells_root):
    with (cells_root / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mask"]][::25][:8]
    images = [cells_root / row["path"] for row in rows]
    masks = [cells_root / row["mask"] for row in rows]
    pixels, inside = read_pairs(images, masks, 64)
    share = inside.mean((1, 2))
    assert ((share > 0.01) & (share < 0.9)).all()
    # stained cells are darker than what lies around them
    darker = [image[cell].mean() < image[~cell].mean() for image, cell in zip(pixels, inside, strict=True)]
    assert np.mean(darker) > 0.8


def _cell(height=64, width=64, radius=14):
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - 0.4 * height, x - 0.55 * width) < radius


def _saved(path, pixels, orientation=1, **options):
    image = Image.fromarray(pixels)
    if orientation != 1:
        image.getexif()[0x0112] = orientation
        options["exif"] = image.getexif()
    image.save(path, **options)
    return path


def test_a_mask_that_vanishes_leaves_its_cell_out_with_a_warning(tmp_path):
    cell, speck = _cell(512, 512, 100), np.zeros((512, 512), bool)
    speck[300, 300] = True
    path = _saved(tmp_path / "speck.png", speck)
    images = [np.full((512, 512, 3), 9, np.uint8), np.full((512, 512, 3), 200, np.uint8)]
    with pytest.warns(
        UserWarning, match=r"1 of 2 masks are doubtful:\nRow 0: the mask '.*speck\.png' has no pixel left"
    ):
        pixels, inside = read_pairs(images, [path, cell], 32)
    assert pixels.shape == (1, 32, 32, 3)
    assert (pixels == 200).all()
    assert inside.any((1, 2)).tolist() == [True]
    with pytest.raises(
        ValueError, match=r"No mask has a pixel left at 32 px; the first: Row 0: the mask '.*speck\.png'"
    ):
        read_pairs(images[:1], [path], 32)


def test_doubtful_masks_are_named_in_one_warning(tmp_path):
    cell = _cell()
    everything = _saved(tmp_path / "all.png", np.full((64, 64), 255, np.uint8))
    cross = np.zeros((64, 64), np.uint8)
    cross[30], cross[:, 30] = 255, 255
    masks = [cell, everything, _saved(tmp_path / "cross.png", cross), _saved(tmp_path / "turned.png", ~cell)]
    with pytest.warns(UserWarning, match="3 of 4 masks are doubtful") as caught:
        _, inside = read_pairs([np.ones((64, 64, 3), np.uint8)] * 4, masks, 64)
    (message,) = [str(warning.message) for warning in caught]
    assert f"Row 1: The mask '{everything}' covers 100% of its image." in message
    assert f"Row 2: The mask '{masks[2]}' touches all four borders." in message
    assert f"Row 3: The mask '{masks[3]}' is white around one black part, which is read as the cell." in message
    assert (inside[3] == cell).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_drawn_on_the_stored_pixels_is_turned_with_its_image(tmp_path, orientation):
    cell = _cell(40, 64)
    stored = np.where(cell[..., None], 60, 220).astype(np.uint8).repeat(3, 2)
    image = _saved(tmp_path / "cell.png", stored, orientation)
    if orientation >= 5:  # sides are swapped, which tells that the mask lies as the file does
        pixels, inside = read_pairs([image], [_saved(tmp_path / "mask.png", cell)], 64)
    else:
        pixels, inside = read_pairs([image], [_saved(tmp_path / "mask.png", cell, orientation)], 64)
    assert ((pixels[0, :, :, 0] < 140) == inside[0]).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turn_that_sizes_do_not_tell_is_a_warning(tmp_path, orientation):
    image = _saved(tmp_path / "cell.png", np.full((64, 64, 3), 9, np.uint8), orientation)
    mask = _saved(tmp_path / "mask.png", _cell())
    said = rf"Row 0: the image '.*cell\.png' has the EXIF orientation {orientation} but its mask '.*mask\.png' has 1"
    with pytest.warns(UserWarning, match=said):
        read_pairs([image], [mask], 64)
    with Image.open(image) as opened, pytest.warns(UserWarning, match="has the EXIF orientation"):
        read_pairs([opened], [_cell()], 64)
