import numpy as np
import pytest
import torch

from sam_bloodcell.models.lora import add_lora
from sam_bloodcell.models.training import TrainingPlan
from sam_bloodcell.segmentation.finetuning import _dice, augment, split, train_segmentation
from sam_bloodcell.segmentation.pairs import channel_stats

EVERY_ROW = np.arange(8), np.arange(0)


def _discs(n=8, size=64):
    """Dark discs on a bright field, off the middle: uint8 (n, S, S, 3) and bool (n, S, S)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    centres = rng.uniform(0.35 * size, 0.65 * size, (n, 2))
    inside = np.stack([np.hypot(y - a, x - b) < 0.25 * size for a, b in centres])
    pixels = np.where(inside[..., None], [120, 60, 140], [220, 200, 210])
    noise = rng.integers(-10, 10, pixels.shape)
    return (pixels + noise).astype(np.uint8), inside


def _train(sam, pixels, inside, *, rows=EVERY_ROW, stats=None, epochs=6, batch_size=4):
    plan = TrainingPlan(epochs, steps_per_epoch=2, learning_rate=1e-3, warmup_steps=2)
    stats = stats or channel_stats(pixels)
    return train_segmentation(sam, pixels, inside, plan, rows=rows, pixel_stats=stats, batch_size=batch_size, seed=0)


def test_training_learns_the_discs_and_leaves_the_encoder(tiny_sam):
    sam = tiny_sam()
    add_lora(sam)
    frozen = {name: p.clone() for name, p in sam.named_parameters() if not p.requires_grad}
    history = _train(sam, *_discs())
    assert [list(row) for row in history] == [["epoch", "learning_rate", "loss", "dice_loss", "cross_entropy"]] * 6
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    for name, parameter in sam.named_parameters():
        if name in frozen:
            torch.testing.assert_close(parameter, frozen[name], rtol=0, atol=0)


def test_the_split_sets_a_share_aside():
    trained, aside = split(16, 0.25, seed=0)
    assert len(aside) == 4
    assert sorted([*trained, *aside]) == list(range(16))
    _, other = split(16, 0.25, seed=1)
    assert aside.tolist() != other.tolist()
    assert [len(part) for part in split(4, 0.1, seed=0)] == [3, 1]
    assert [len(part) for part in split(4, 0.0, seed=0)] == [4, 0]
    with pytest.raises(ValueError, match=r"Got 1 image with masks but validation_fraction=0.1 sets 1 aside\. Fix: add"):
        split(1, 0.1, seed=0)


def test_what_is_set_aside_is_validated_on_and_not_trained_on(tiny_sam):
    rows = split(8, 0.25, seed=0)
    pixels, inside = _discs()
    histories = []
    for changed_rows in ([], rows[1]):  # the same training whatever the cells set aside show
        changed = pixels.copy()
        changed[changed_rows] = 255 - changed[changed_rows]
        torch.manual_seed(0)
        sam = tiny_sam()
        add_lora(sam)
        histories.append(_train(sam, changed, inside, rows=rows, stats=channel_stats(pixels), epochs=2))
    losses, dice = ([[row[name] for row in history] for history in histories] for name in ("loss", "dice"))
    assert losses[0] == losses[1]
    assert dice[0] != dice[1]
    assert all(0 <= score <= 1 for score in dice[0])


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


def test_dice_is_a_number_where_no_cell_is_and_none_is_found():
    def background(images):  # logits of a network that sees no cell
        return torch.stack([torch.ones(len(images), 4, 4), torch.zeros(len(images), 4, 4)], 1)

    truth = torch.zeros(2, 16, 16, dtype=torch.bool)
    truth[1, 2:5] = True
    assert _dice(background, torch.zeros(2, 3, 16, 16), truth, None).tolist() == [1, 0]
