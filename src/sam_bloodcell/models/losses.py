"""The papers' losses, as pure functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return the mean over classes of 1 - Dice between the softmax of logits (B, K, H, W) and int labels (B, H, W).

    `smooth` gives a class that is absent from both a Dice of 1.
    """
    probability = logits.softmax(1)
    one_hot = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    dims = (0, 2, 3)
    overlap = (probability * one_hot).sum(dims)
    total = probability.square().sum(dims) + one_hot.sum(dims)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def segmentation_loss(logits: Tensor, target: Tensor, dice_weight: float = 0.8) -> dict[str, Tensor]:
    """Return BC-SAM's 0.8 Dice + 0.2 cross-entropy, and both terms, of logits (B, 2, H, W), background first."""
    dice = dice_loss(logits, target)
    cross_entropy = F.cross_entropy(logits, target)
    loss = dice_weight * dice + (1 - dice_weight) * cross_entropy
    return {"loss": loss, "dice_loss": dice, "cross_entropy": cross_entropy}


def ssim(a: Tensor, b: Tensor, window: int = 11, sigma: float = 1.5, *, padded: bool = False) -> Tensor:
    """Return the mean structural similarity (Wang et al., IEEE TIP 2004), in [-1, 1], of images (B, C, H, W) in [0, 1].

    The Gaussian window has a side of `window` pixels, which must not exceed H or W. With `padded`, as in the papers'
    code, windows are also centred on the pixels near the border, and pixels outside the image are zero.
    """
    if min(a.shape[-2:]) < window and not padded:
        raise ValueError(f"Got images of {tuple(a.shape[-2:])} px but expected at least window={window} px a side.")
    offsets = torch.arange(window, device=a.device, dtype=torch.float32) - (window - 1) / 2
    bell = torch.exp(-offsets.square() / (2 * sigma**2))
    bell = bell / bell.sum()
    channels = a.shape[1]
    rows = bell.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = bell.view(1, 1, 1, -1).expand(channels, 1, 1, -1)

    margin = window // 2 if padded else 0

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, rows, groups=channels, padding=(margin, 0))
        return F.conv2d(x, columns, groups=channels, padding=(0, margin))

    # The variances are small differences of large numbers, which half precision would make negative.
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        mean_a, mean_b = blur(a), blur(b)
        var_a = blur(a * a) - mean_a.square()
        var_b = blur(b * b) - mean_b.square()
        covariance = blur(a * b) - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        structure = (2 * covariance + c2) / (var_a + var_b + c2)
        return (luminance * structure).mean()
