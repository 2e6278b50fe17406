import pytest
import torch

from sam_bloodcell.segmentation.augmentation import augment


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
