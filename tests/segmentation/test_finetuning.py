import csv

import numpy as np
import pytest
import torch

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.models.lora import add_lora
from sam_bloodcell.segmentation.finetuning import (
    SegmentationPlan,
    augment,
    channel_stats,
    fit_segmentation,
    normalise,
    read_pairs,
    read_with_stain_masks,
)


def _discs(n=8, size=64):
    """Dark discs on a bright field, off the middle: uint8 (n, S, S, 3) and bool (n, S, S)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    centres = rng.uniform(0.35 * size, 0.65 * size, (n, 2))
    inside = np.stack([np.hypot(y - a, x - b) < 0.25 * size for a, b in centres])
    pixels = np.where(inside[..., None], [120, 60, 140], [220, 200, 210])
    noise = rng.integers(-10, 10, pixels.shape)
    return (pixels + noise).astype(np.uint8), inside


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
    with pytest.raises(ImageReadError, match=r"Row 1: the mask is \(8, 9\) px but its image \(8, 8\)\. Fix: export"):
        read_pairs([image, image], [good, bad], 16)


def test_an_empty_mask_names_the_row():
    image = np.ones((8, 8, 3), np.uint8)
    with pytest.raises(ImageReadError, match=r"Row 1: .*mask.*empty"):
        read_pairs([image, image], [np.ones((8, 8)), np.zeros((8, 8))], 16)


def test_channel_stats_by_hand():
    pixels = np.array([[[[0, 10, 255], [2, 10, 255]]], [[[4, 10, 255], [6, 10, 0]]]], np.uint8)
    mean, std = channel_stats(pixels)
    assert mean == pytest.approx((3, 10, 191.25))
    assert std == pytest.approx((5**0.5, 0, (255**2 * 3 / 16) ** 0.5))
    assert all(type(value) is float for value in mean + std)


def test_normalised_channels_have_mean_0_and_deviation_1():
    pixels, _ = _discs()
    normal = normalise(torch.from_numpy(pixels), channel_stats(pixels))
    assert (normal.shape, normal.dtype) == ((8, 3, 64, 64), torch.float32)
    assert normal.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert normal.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    by_hand = normalise(torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8), ((8, 20, 40), (2, 1, 5)))
    assert by_hand.flatten().tolist() == [1, 0, -2]


def _augmented(seed, n=64):
    images = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    turned, masks = augment(images, images[:, :1].clone(), torch.Generator().manual_seed(seed))
    return images, turned, masks


def test_augmentation_turns_image_and_mask_alike():
    images, turned, masks = _augmented(0)
    assert turned.shape == images.shape
    torch.testing.assert_close(masks, turned[:, :1], rtol=0, atol=0)


def test_augmentation_is_decided_by_its_generator():
    _, first, _ = _augmented(0)
    _, same, _ = _augmented(0)
    _, other, _ = _augmented(1)
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert (first != other).any()


def test_half_are_turned_and_a_quarter_tilted():
    images, turned, _ = _augmented(0, n=400)
    quarter_turns = {(k, axis): torch.rot90(images, k, (2, 3)).flip(axis) for k in range(4) for axis in (2, 3)}
    exact = torch.stack([(turned == way).flatten(1).all(1) for way in quarter_turns.values()])
    untouched = (turned == images).flatten(1).all(1)
    tilted = ~exact.any(0) & ~untouched
    assert exact.any(1).all()  # every way occurs
    assert exact.any(0).float().mean() == pytest.approx(0.5, abs=0.08)
    assert untouched.float().mean() == pytest.approx(0.25, abs=0.07)
    assert tilted.float().mean() == pytest.approx(0.25, abs=0.07)
    assert (turned >= 0).all()
    assert (turned <= 1).all()


def _plan(**changes):
    return SegmentationPlan(
        **{"epochs": 6, "warmup_epochs": 1, "learning_rate": 1e-3, "weight_decay": 0.0, "batch_size": 4, "seed": 0}
        | changes
    )


def _fitted(tiny_sam, seed=0):
    sam = tiny_sam()
    add_lora(sam)
    frozen = {name: p.clone() for name, p in sam.named_parameters() if not p.requires_grad}
    pixels, inside = _discs()
    history = fit_segmentation(sam, pixels, inside, channel_stats(pixels), _plan(seed=seed))
    return sam, frozen, history


def test_training_learns_the_discs_and_leaves_the_encoder(tiny_sam):
    sam, frozen, history = _fitted(tiny_sam)
    assert list(history.columns) == ["epoch", "learning_rate", "loss", "dice_loss", "cross_entropy"]
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    for name, parameter in sam.named_parameters():
        if name in frozen:
            torch.testing.assert_close(parameter, frozen[name], rtol=0, atol=0)


def test_the_split_sets_a_share_aside():
    trained, aside = _plan(validation_fraction=0.25).split(16)
    assert len(aside) == 4
    assert sorted([*trained, *aside]) == list(range(16))
    _, other = _plan(validation_fraction=0.25, seed=1).split(16)
    assert aside.tolist() != other.tolist()
    assert [len(part) for part in _plan(validation_fraction=0.1).split(4)] == [3, 1]
    assert [len(part) for part in _plan().split(4)] == [4, 0]
    with pytest.raises(ValueError, match=r"Got 1 image with masks but validation_fraction=0.1 sets 1 aside\. Fix: add"):
        _plan(validation_fraction=0.1).split(1)


def test_what_is_set_aside_is_validated_on_and_not_trained_on(tiny_sam):
    plan = _plan(epochs=2, validation_fraction=0.25)
    aside = plan.split(8)[1]
    pixels, inside = _discs()
    stats = channel_stats(pixels)
    histories = []
    for rows in (slice(None), aside):  # the same training whatever the cells set aside show
        changed = pixels.copy()
        if isinstance(rows, np.ndarray):
            changed[rows] = 255 - changed[rows]
        torch.manual_seed(0)
        sam = tiny_sam()
        add_lora(sam)
        histories.append(fit_segmentation(sam, changed, inside, stats, plan))
    assert histories[0]["loss"].tolist() == histories[1]["loss"].tolist()
    assert histories[0]["dice"].tolist() != histories[1]["dice"].tolist()
    assert histories[0]["dice"].between(0, 1).all()


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
