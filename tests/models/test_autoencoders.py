import pytest
import torch
from torch import nn

from sam_bloodcell.models.autoencoders import CROP_SIZES, ConvAutoencoder

# channels in, channels out, kernel, stride (Li et al., ISBI 2024)
PAPER_ENCODER = [(768, 256, 1, 1), (256, 256, 3, 2), (256, 50, 1, 1)]
PAPER_DECODER = [
    (50, 150, 5, 1),
    (150, 200, 4, 2),
    (200, 256, 3, 1),
    (256, 200, 5, 2),
    (200, 180, 3, 2),
    (180, 150, 3, 2),
    (150, 128, 2, 1),
    (128, 3, 1, 1),
]


def _layers(module, kind):
    return [
        (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
        for layer in module.modules()
        if isinstance(layer, kind)
    ]


def _kinds(module):
    return [type(layer).__name__ for layer in module.modules() if not list(layer.children())]


def test_the_papers_layers():
    network = ConvAutoencoder(768)
    assert _layers(network.encoder, nn.Conv2d) == PAPER_ENCODER
    assert _layers(network.decoder, nn.ConvTranspose2d) == PAPER_DECODER
    assert _kinds(network.encoder) == ["Conv2d", "BatchNorm2d", "ReLU"] * 3 + ["AdaptiveAvgPool2d", "Flatten"]
    expected = ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 7 + ["ConvTranspose2d", "Sigmoid"]
    assert _kinds(network.decoder) == expected


@pytest.mark.parametrize("crop_size", CROP_SIZES)
@pytest.mark.parametrize("token_width", [192, 768])
@torch.no_grad()
def test_shapes(token_width, crop_size):
    network = ConvAutoencoder(token_width, crop_size=crop_size).eval()
    features, crops = network(torch.randn(2, token_width, 14, 14))
    assert features.shape == (2, 50)
    assert crops.shape == (2, 3, crop_size, crop_size)
    assert crops.min() >= 0
    assert crops.max() <= 1
    torch.testing.assert_close(network.decode(features), crops)


@torch.no_grad()
def test_any_grid_and_any_number_of_features():
    network = ConvAutoencoder(8, n_components=5, crop_size=32).eval()
    for grid in (4, 7, 32):
        assert network.encode(torch.randn(1, 8, grid, grid)).shape == (1, 5)


def test_both_halves_learn():
    network = ConvAutoencoder(8, n_components=5, crop_size=32)
    _, crops = network(torch.randn(2, 8, 6, 6))
    crops.square().mean().backward()
    # a bias before a BatchNorm cannot matter, so kernels are looked at
    assert all(p.grad.abs().max() > 0 for p in network.parameters() if p.ndim == 4)


def test_an_unknown_crop_size_is_refused():
    with pytest.raises(ValueError, match=r"Got crop_size=100 but expected one of \(32, 64, 128\)"):
        ConvAutoencoder(8, crop_size=100)
