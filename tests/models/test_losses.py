import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sam_bloodcell.models.losses import dice_loss, segmentation_loss, ssim


def _certain(target, strength=50.0):
    """Logits of a network that is sure of `target`."""
    return strength * F.one_hot(target, 2).movedim(-1, 1).float()


def test_dice_by_hand():
    target = torch.tensor([[[1, 0], [0, 0]]])
    # p = 1/2 everywhere: cell 2*0.5/(4*0.25+1) = 1/2; background 2*1.5/(1+3) = 3/4
    assert dice_loss(torch.zeros(1, 2, 2, 2), target).item() == pytest.approx(1 - (0.5 + 0.75) / 2, abs=1e-4)


@pytest.mark.parametrize("fill", [0, 1])
def test_a_perfect_prediction_costs_nothing_even_when_a_class_is_absent(fill):
    target = torch.full((2, 4, 4), fill)
    logits = _certain(target).requires_grad_()
    terms = segmentation_loss(logits, target)
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.isfinite().all()


def test_the_opposite_prediction_costs_one_dice():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[:, 1:3, 1:3] = 1
    assert dice_loss(_certain(1 - target), target).item() == pytest.approx(1, abs=1e-4)


def test_segmentation_loss_is_the_papers_mixture():
    logits, target = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    terms = segmentation_loss(logits, target)
    assert set(terms) == {"loss", "dice_loss", "cross_entropy"}
    probability = logits.softmax(1).gather(1, target[:, None])
    assert terms["cross_entropy"].item() == pytest.approx(-probability.log().mean().item(), abs=1e-5)
    expected = 0.8 * terms["dice_loss"] + 0.2 * terms["cross_entropy"]
    torch.testing.assert_close(terms["loss"], expected)


def test_an_image_is_like_itself():
    image = torch.rand(2, 3, 32, 32)
    assert ssim(image, image).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(32, 40), (11, 11)])
def test_ssim_is_scikit_images(shape):
    from skimage import metrics

    rng = np.random.default_rng(0)
    a = rng.random((3, *shape))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)
    expected = []
    for first, second in zip(a, b, strict=True):
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
        _, full = metrics.structural_similarity(first, second, data_range=1, full=True, **settings)
        expected.append(full[5 : shape[0] - 5, 5 : shape[1] - 5].mean())
    ours = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None]).item()
    assert ours == pytest.approx(np.mean(expected), abs=1e-6)


def test_ssim_needs_room_for_its_window():
    image = torch.rand(1, 3, 10, 32)
    with pytest.raises(ValueError, match=r"Got images of \(10, 32\) px but expected at least window=11"):
        ssim(image, image)


def test_padded_windows_see_zeros_outside_the_image():
    a, b = torch.rand(2, 1, 3, 20, 24)
    padded = [F.pad(image, (5, 5, 5, 5)) for image in (a, b)]
    torch.testing.assert_close(ssim(a, b, padded=True), ssim(*padded))
    assert ssim(a, b, padded=True) != ssim(a, b)
    assert ssim(a[..., :8], a[..., :8], padded=True).item() == pytest.approx(1, abs=1e-5)  # smaller than the window
