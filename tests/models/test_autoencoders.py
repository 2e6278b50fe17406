import pytest
import torch
from torch import nn

from sam_bloodcell.models.autoencoders import CROP_SIZES, ConvAutoencoder, MaskedAutoencoder, VectorAutoencoder

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


both = pytest.mark.parametrize("architecture", [ConvAutoencoder, MaskedAutoencoder])


@pytest.mark.slow
@both
@pytest.mark.parametrize("crop_size", CROP_SIZES)
@pytest.mark.parametrize("token_width", [192, 768])
@torch.no_grad()
def test_shapes(architecture, token_width, crop_size):
    network = architecture(token_width, crop_size=crop_size).eval()
    features, crops, *_ = network(torch.randn(2, token_width, 14, 14))
    assert features.shape == (2, 50)
    assert crops.shape == (2, 3, crop_size, crop_size)
    assert crops.min() >= 0
    assert crops.max() <= 1
    torch.testing.assert_close(network.decode(features), crops)


@both
@torch.no_grad()
def test_any_grid_and_any_number_of_features(architecture):
    network = architecture(8, n_components=5, crop_size=32).eval()
    for grid in (4, 7, 32):
        assert network.encode(torch.randn(1, 8, grid, grid)).shape == (1, 5)


def test_both_halves_learn():
    network = ConvAutoencoder(8, n_components=5, crop_size=32)
    network(torch.randn(2, 8, 6, 6)).crops.square().mean().backward()
    # a bias before a BatchNorm cannot matter, so kernels are looked at
    assert all(p.grad.abs().max() > 0 for p in network.parameters() if p.ndim == 4)


@both
def test_an_unknown_crop_size_is_refused(architecture):
    with pytest.raises(ValueError, match=r"Got crop_size=100 but expected one of \(32, 64, 128\)"):
        architecture(8, crop_size=100)


def test_conv_reconstructs_the_pooled_embedding_where_asked():
    tokens = torch.randn(2, 8, 6, 6)
    assert ConvAutoencoder(8, crop_size=32)(tokens).embedding is None
    assert ConvAutoencoder(8, crop_size=32, embedding=True)(tokens).embedding.shape == (2, 8)


@pytest.mark.parametrize(("token_width", "blocks"), [(768, (12, 4)), (192, (3, 1)), (8, (1, 1))])
def test_masked_depth_follows_the_token_width(token_width, blocks):
    network = MaskedAutoencoder(token_width, crop_size=32)
    assert (len(network.encoder_blocks) - 1, len(network.decoder_blocks) - 1) == blocks  # less the norm at the end


def test_masked_hides_three_quarters_in_training_and_nothing_else():
    network, tokens = MaskedAutoencoder(8, n_components=5, crop_size=32), torch.randn(3, 8, 14, 14)
    made = network.train()(tokens)
    assert made.hidden.shape == (3, 14, 14)
    assert made.hidden.sum((1, 2)).tolist() == [147] * 3
    assert not torch.equal(made.hidden[0], made.hidden[1])
    assert made.embedding.shape == tokens.shape
    whole = network.eval()(tokens)
    assert whole.hidden is None
    torch.testing.assert_close(whole.features, network.encode(tokens))


def test_masked_features_do_not_see_what_is_hidden():
    network, tokens = MaskedAutoencoder(8, n_components=5, crop_size=32).train(), torch.randn(2, 8, 6, 6)
    torch.manual_seed(0)
    made = network(tokens)
    changed = torch.where(made.hidden[:, None], 100.0, tokens)
    torch.manual_seed(0)
    again = network(changed)
    assert torch.equal(again.hidden, made.hidden)
    torch.testing.assert_close(again.features, made.features)


def test_masked_tokens_know_their_place():
    network, tokens = MaskedAutoencoder(8, n_components=5, crop_size=32).eval(), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        assert not torch.allclose(network.encode(tokens), network.encode(tokens.flip(3)), atol=1e-4)


@pytest.mark.slow
def test_masked_learns_to_fill_in():
    torch.manual_seed(0)
    network = MaskedAutoencoder(8, n_components=5, crop_size=32)
    tokens = torch.randn(16, 8, 1, 1).expand(-1, -1, 4, 4)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        made = network(tokens)
        losses.append((made.embedding - tokens).square().mean(1)[made.hidden].mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_vector_shapes():
    network = VectorAutoencoder(30, n_components=5)
    made = network(torch.randn(4, 30))
    assert made.features.shape == (4, 5)
    assert made.embedding.shape == (4, 30)
    assert made.crops is None
    torch.testing.assert_close(network.decode(made.features), made.embedding)
