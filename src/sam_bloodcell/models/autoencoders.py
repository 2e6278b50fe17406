"""Our networks of the cross-domain autoencoder: embeddings -> a few features -> the embeddings and the cell's crop.

All networks, including the papers' networks in `published`, have the same interface: `encode` returns `n_features`
features of whole inputs, and a call returns a `Reconstruction` for training.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# (channels out, kernel, stride) of the transposed convolutions after the first; the side grows
# 5 -> 12 -> 14 -> 31 -> 63 -> 127, then a 2 px kernel adds the last pixel. Each crop size stops where it is reached.
_GROWTH = ((200, 4, 2), (256, 3, 1), (200, 5, 2), (180, 3, 2), (150, 3, 2))
_STEPS = {32: 3, 64: 4, 128: 5}
CROP_SIZES = tuple(_STEPS)


class Reconstruction(NamedTuple):
    """The output of a network for a batch of B inputs."""

    features: Tensor  # (B, F), compared between domains
    crops: Tensor | None = None  # (B, 3, S, S) in [0, 1]
    embedding: Tensor | None = None  # (B, C): the pooled embedding; (B, C, h, w): the token map
    hidden: Tensor | None = None  # bool (B, h, w), the tokens that the encoder did not see; None if it saw all


def _unit(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def crop_decoder(n_components: int, crop_size: int) -> nn.Sequential:
    """Return BC-SAM's transposed convolutions, BxFx1x1 -> Bx3xSxS in [0, 1], without the last ones for 64 and 32 px."""
    if crop_size not in _STEPS:
        raise ValueError(f"Got crop_size={crop_size} but expected one of {CROP_SIZES}.")
    layers: list[nn.Module] = [_unit(nn.ConvTranspose2d(n_components, 150, 5), 150)]
    growth = _GROWTH[: _STEPS[crop_size]]
    for (width, *_), (channels, kernel, stride) in pairwise(((150,), *growth)):
        layers.append(_unit(nn.ConvTranspose2d(width, channels, kernel, stride), channels))
    layers += [_unit(nn.ConvTranspose2d(growth[-1][0], 128, 2), 128), nn.ConvTranspose2d(128, 3, 1), nn.Sigmoid()]
    return nn.Sequential(*layers)


class ConvAutoencoder(nn.Module):
    """Our version of BC-SAM's autoencoder (Li et al., ISBI 2024): token maps BxCxhxw, of any width C and any grid.

    It returns F = `n_components` features and crops with a side of `crop_size` pixels: 32, 64 or the paper's 128. With
    `embedding`, a linear layer also reconstructs the pooled embedding, unlike in the paper. `padding` is the padding of
    the strided convolution. With 1, the convolution also sees the border of the map. The paper has 0
    (`published.BCSAMAutoencoder`).
    """

    def __init__(
        self, token_width: int, n_components: int = 50, crop_size: int = 128, embedding: bool = False, padding: int = 1
    ) -> None:
        super().__init__()
        self.n_features = n_components
        self.encoder = nn.Sequential(
            _unit(nn.Conv2d(token_width, 256, 1), 256),
            _unit(nn.Conv2d(256, 256, 3, stride=2, padding=padding), 256),
            _unit(nn.Conv2d(256, n_components, 1), n_components),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.decoder = crop_decoder(n_components, crop_size)
        self.to_embedding = nn.Linear(n_components, token_width) if embedding else None

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens BxCxhxw -> features BxF."""
        return self.encoder(tokens)

    def decode(self, features: Tensor) -> Tensor:
        """Features BxF -> crops Bx3xSxS in [0, 1]."""
        return self.decoder(features[:, :, None, None])

    def forward(self, tokens: Tensor) -> Reconstruction:
        """Tokens -> features, crops and, with `embedding`, pooled embedding."""
        features = self.encode(tokens)
        embedding = self.to_embedding(features) if self.to_embedding else None
        return Reconstruction(features, self.decode(features), embedding)


class MaskedAutoencoder(nn.Module):
    """Our version of DoRL's masked-token autoencoder (Li et al., 2024; He et al., CVPR 2022) of token maps BxCxhxw.

    In training, a share `hidden_share` of the tokens is hidden from the encoder, and a decoder predicts them. The
    features are a linear map of the mean decoded token. Depth and width depend on the token width C: for 768, there are
    the paper's 12 + 4 blocks, and for 192, there are 3 + 1. The crops have a side of 32, 64 or the paper's 128 pixels.
    """

    def __init__(
        self, token_width: int, n_components: int = 50, crop_size: int = 128, hidden_share: float = 0.75
    ) -> None:
        super().__init__()
        heads = max(1, round(token_width / 64))
        self.n_features = n_components
        self.width, self.hidden_share = 64 * heads, hidden_share
        self.embed = nn.Linear(token_width, self.width)
        self.encoder_blocks = _blocks(self.width, heads, heads)
        self.mask_token = nn.Parameter(0.02 * torch.randn(self.width))
        self.decoder_blocks = _blocks(self.width, heads, max(1, heads // 3))
        self.to_tokens = nn.Linear(self.width, token_width)
        self.to_features = nn.Linear(self.width, n_components)
        self.decoder = crop_decoder(n_components, crop_size)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens BxCxhxw, none of them hidden -> features BxF."""
        return self.to_features(self._decoded(tokens, None).mean(1))

    def decode(self, features: Tensor) -> Tensor:
        """Features BxF -> crops Bx3xSxS in [0, 1]."""
        return self.decoder(features[:, :, None, None])

    def forward(self, tokens: Tensor) -> Reconstruction:
        """Tokens -> features, crops and token map; tokens are hidden only in training mode."""
        n, _, height, width = tokens.shape
        hidden = None
        if self.training:
            ranks = torch.rand(n, height * width, device=tokens.device).argsort(1).argsort(1)
            hidden = ranks >= max(1, round(height * width * (1 - self.hidden_share)))
        decoded = self._decoded(tokens, hidden)
        features = self.to_features(decoded.mean(1))
        embedding = self.to_tokens(decoded).mT.reshape(tokens.shape)
        hidden = None if hidden is None else hidden.view(n, height, width)
        return Reconstruction(features, self.decode(features), embedding, hidden)

    def _decoded(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        places = _sine_places(tokens.shape[2], tokens.shape[3], self.width).to(tokens.device)
        rows = self.embed(tokens.flatten(2).mT) + places
        if hidden is None:
            return self.decoder_blocks(self.encoder_blocks(rows) + places)
        seen = self.encoder_blocks(rows[~hidden].view(len(rows), -1, self.width))
        filled = self.mask_token.to(seen.dtype).expand(len(rows), rows.shape[1], -1)
        filled = filled.masked_scatter(~hidden[:, :, None], seen)
        return self.decoder_blocks(filled + places)


class VectorAutoencoder(nn.Module):
    """An MLP autoencoder of vectors of length C = `token_width`; encoder and decoder have one hidden layer each."""

    def __init__(self, token_width: int, n_components: int = 50, hidden_width: int = 256) -> None:
        super().__init__()
        self.n_features = n_components
        self.encoder = _mlp(token_width, hidden_width, n_components)
        self.decoder = _mlp(n_components, hidden_width, token_width)

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors BxC -> features BxF."""
        return self.encoder(vectors)

    def decode(self, features: Tensor) -> Tensor:
        """Features BxF -> vectors BxC."""
        return self.decoder(features)

    def forward(self, vectors: Tensor) -> Reconstruction:
        """Vectors -> features and vectors."""
        features = self.encode(vectors)
        return Reconstruction(features, embedding=self.decode(features))


class LinearAutoencoder(nn.Module):
    """The linear autoencoder of vectors of length C = `token_width` with the least squared error, in closed form.

    It spans the first F = `n_components` principal components (Baldi and Hornik, Neural Networks 1989). A fixed
    rotation of the components gives all features about the same variance. Otherwise, a classifier that standardises its
    features would amplify the last components, which are mostly noise. There is no training: `learn` is called for each
    part of the data, then `solve`.
    """

    mean: Tensor
    total: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, token_width: int, n_components: int = 50) -> None:
        super().__init__()
        self.n_features = n_components
        self.register_buffer("mean", torch.zeros(token_width))
        self.components = nn.Parameter(torch.zeros(n_components, token_width), requires_grad=False)
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("sums", torch.zeros(token_width))
        self.register_buffer("products", torch.zeros(token_width, token_width))

    def learn(self, vectors: Tensor, weights: Tensor) -> None:
        """Add vectors BxC with their weights B, in float64, to the statistics that `solve` uses."""
        self.double()
        weighted = vectors * weights[:, None]
        self.total += weights.sum()
        self.sums += weighted.sum(0)
        self.products += vectors.T @ weighted

    def solve(self) -> None:
        """Find the components of all vectors so far."""
        mean = self.sums / self.total
        covariance = self.products / self.total - torch.outer(mean, mean)
        variances, directions = torch.linalg.eigh(covariance)
        # If there are fewer cells than features, some directions have no variance and are arbitrary. New cells must not
        # vary in them.
        directions = directions * (variances > len(variances) * torch.finfo(torch.float32).eps * variances.max())
        directions = directions.flip(1)[:, : self.n_features].T
        # Signs are arbitrary, and would differ between machines.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        generator = torch.Generator().manual_seed(0)
        mixing = torch.randn(self.n_features, self.n_features, generator=generator, dtype=torch.float64)
        rotation = torch.linalg.qr(mixing).Q
        components = rotation[:, : len(directions)] @ (directions * largest.sign())
        # A saved network stores float32, and must compute the same features.
        self.mean, self.components.data = mean.float().double(), components.float().double()

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors BxC -> features BxF."""
        return (vectors - self.mean) @ self.components.T

    def decode(self, features: Tensor) -> Tensor:
        """Features BxF -> vectors BxC."""
        return features @ self.components + self.mean

    def forward(self, vectors: Tensor) -> Reconstruction:
        """Vectors -> features and vectors."""
        features = self.encode(vectors)
        return Reconstruction(features, embedding=self.decode(features))


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def _blocks(width: int, heads: int, depth: int) -> nn.Sequential:
    settings: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    blocks = [nn.TransformerEncoderLayer(width, heads, 4 * width, **settings) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.LayerNorm(width))


def _sine_places(height: int, width: int, channels: int) -> Tensor:
    """Return sines and cosines of each token's row and column, (h*w)xC; C must be a multiple of 4."""
    quarter = channels // 4
    frequency = 10_000 ** (-torch.arange(quarter) / quarter)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
