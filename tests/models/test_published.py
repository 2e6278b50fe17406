"""The papers' networks: what they are made of. tests/weights/test_published_autoencoders.py has their numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sam_bloodcell.models.autoencoders import CROP_SIZES, ConvAutoencoder
from sam_bloodcell.models.published import BCSAMAutoencoder, DoRLAutoencoder


@pytest.fixture
def dorl(randomise):
    return randomise(DoRLAutoencoder(8, 5, depth=(2, 1)))


@pytest.fixture
def tokens():
    return torch.randn(2, 8, 14, 14)


def test_bcsam_does_not_pad_its_strided_convolution():
    tokens = torch.randn(1, 768, 14, 14)
    assert BCSAMAutoencoder(768).encoder[:2](tokens).shape == (1, 256, 6, 6)
    assert ConvAutoencoder(768).encoder[:2](tokens).shape == (1, 256, 7, 7)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (192, 3), (1024, 16), (1280, 20), (8, 1), (200, 2)])
def test_dorl_is_as_deep_at_every_width_and_its_heads_as_wide(width, heads):
    with torch.device("meta"):
        network = DoRLAutoencoder(width)
    encoder, decoder = network.encoder.transformer, network.decoder.transformer
    assert (len(encoder), len(decoder)) == network.depth == (12, 4)
    assert {block.attn.heads for block in (*encoder, *decoder)} == {heads}
    assert {block.mlp.fc1.out_features for block in (*encoder, *decoder)} == {4 * width}
    assert network.n_features == width


def test_dorl_has_the_papers_layers():
    with torch.device("meta"):
        network = DoRLAutoencoder(768)
    painter = [layer for layer in network.decoder.head if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in painter] == [
        (768, 512, 4, 2), (512, 256, 4, 2), (256, 128, 4, 1), (128, 64, 8, 1), (64, 3, 8, 2),
    ]  # fmt: skip
    assert [type(layer) for layer in network.decoder.head[1::2]] == [nn.ReLU] * 4
    assert all(block.attn.qkv.bias is None for block in network.encoder.transformer)
    assert network.decoder.to_features.out_features == 50


def test_dorls_features_are_the_cls_token_of_all_tokens(dorl, tokens):
    with torch.no_grad():
        features = dorl.train().encode(tokens)  # nothing is hidden even where training goes on
        assert features.shape == (2, 8)
        torch.testing.assert_close(dorl.eval().encode(tokens), features)
        tokens[0, 0, 13, 13] += 10
        assert (dorl.encode(tokens)[0] - features[0]).abs().max() > 1e-3


def test_dorl_hides_three_quarters_in_training_and_nothing_else(dorl, tokens):
    seen = []
    dorl.encoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    for mode in (True, False):
        made = dorl.train(mode)(tokens)
        assert made.features.shape == (2, 5)
        assert made.embedding.shape == tokens.shape
        assert made.hidden is None  # all tokens are compared
    assert seen == [1 + 49, 1 + 196]


def test_each_cell_hides_tokens_of_its_own(dorl, tokens):
    hidden = torch.zeros(2, 196, dtype=torch.bool)
    hidden[0, :10], hidden[1, 50:60] = True, True
    changed = tokens.clone()
    changed.flatten(2)[0, :, :10], changed.flatten(2)[1, :, 50:60] = 100, 100
    made, again = dorl(tokens, hidden), dorl(changed, hidden)
    torch.testing.assert_close(again.features, made.features)
    torch.testing.assert_close(again.crops, made.crops)
    assert (dorl(changed).features - dorl(tokens).features).abs().max() > 1e-3


@pytest.mark.parametrize("crop_size", CROP_SIZES)
def test_smaller_crops_are_averages_of_the_painted_one(dorl, tokens, crop_size):
    small = DoRLAutoencoder(8, 5, crop_size, depth=(2, 1)).eval()
    small.load_state_dict(dorl.state_dict())
    with torch.no_grad():
        found = small(tokens).crops
        assert found.shape == (2, 3, crop_size, crop_size)
        torch.testing.assert_close(found, F.avg_pool2d(dorl(tokens).crops, 128 // crop_size))


def test_dorl_learns_in_every_part():
    network = DoRLAutoencoder(8, 5, depth=(1, 1)).train()
    made = network(torch.randn(2, 8, 14, 14))
    (made.crops.square().mean() + made.embedding.square().mean() + made.features.square().mean()).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_what_does_not_fit_dorl_is_refused(dorl):
    with pytest.raises(ValueError, match="Got token maps of 6 x 7 tokens but expected 14 x 14"):
        dorl.encode(torch.randn(1, 8, 6, 7))
    with pytest.raises(ValueError, match=r"Got crop_size=100 but expected one of \(32, 64, 128\)"):
        DoRLAutoencoder(8, crop_size=100)
