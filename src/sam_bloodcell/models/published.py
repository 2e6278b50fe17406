"""The papers' autoencoders, layer by layer, with the published names and shapes of parameters if possible."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoders import CROP_SIZES, ConvAutoencoder, Reconstruction

GRID = 14  # tokens per side; DoRL learns a position for each token
PAINTED = 128  # side in pixels of the crop that DoRL reconstructs from such a grid
HIDDEN_SHARE = 0.75
_HEAD_WIDTH = 64
_BLOCK_EPS = 1e-6  # of the norms in the published blocks; the encoder's last norm has torch's 1e-5


class BCSAMAutoencoder(ConvAutoencoder):
    """BC-SAM's autoencoder as published (Li et al., ISBI 2024): token maps BxCx14x14 -> 50 features -> crops.

    Its strided convolution has no padding (14 -> 6), unlike that of `ConvAutoencoder`. The width C of the tokens
    affects only the first convolution.
    """

    def __init__(self, token_width: int, n_components: int = 50, crop_size: int = 128, embedding: bool = False) -> None:
        super().__init__(token_width, n_components, crop_size, embedding, padding=0)


class DoRLAutoencoder(nn.Module):
    """DoRL's masked autoencoder as published (Li et al., DoRL, 2024), of token maps BxCx14x14.

    The features of a cell are the C numbers of the encoder's CLS token, if no token is hidden. A decoder predicts the
    hidden tokens. The crop is reconstructed from the decoder's token map, from which `n_components` numbers are also
    computed, only for the discrepancy between laboratories.

    All layers are as wide as the tokens. The paper has C = 768 and 12 heads. At another width, the heads are still
    about 64 wide (3 heads for 192), the MLPs are four times as wide as C, and the depth and the inner channels of the
    crop decoder do not change.

    Parameters
    ----------
    token_width : int
        C.
    n_components : int
        Number of values that the discrepancy compares.
    crop_size : int
        Side in pixels: the paper's 128, or 64 or 32, to which the reconstructed crop is averaged.
    depth : (int, int)
        Blocks of the encoder and of the decoder.
    """

    def __init__(
        self, token_width: int, n_components: int = 50, crop_size: int = PAINTED, depth: tuple[int, int] = (12, 4)
    ) -> None:
        super().__init__()
        if crop_size not in CROP_SIZES:
            raise ValueError(f"Got crop_size={crop_size} but expected one of {CROP_SIZES}.")
        self.n_features, self.crop_size, self.depth = token_width, int(crop_size), depth
        self.encoder = _Encoder(token_width, depth[0])
        self.decoder = _Decoder(token_width, depth[1], n_components)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens BxCx14x14, none of them hidden -> CLS tokens BxC."""
        return self.encoder(_rows(tokens), None)[:, 0]

    def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> Reconstruction:
        """Tokens -> numbers for the discrepancy, crops and all tokens; in training, three quarters are hidden.

        Tokens are hidden at random, unless `hidden`, bool (B, 196), selects them, the same number in every row.
        """
        rows = _rows(tokens)
        if hidden is None and self.training:
            ranks = torch.rand(rows.shape[:2], device=tokens.device).argsort(1).argsort(1)
            hidden = ranks >= int(rows.shape[1] * (1 - HIDDEN_SHARE))
        decoded = self.decoder(self.encoder(rows, hidden), hidden)
        embedding = decoded.mT.reshape(tokens.shape)
        crops = F.avg_pool2d(self.decoder.head(embedding), PAINTED // self.crop_size)
        # `hidden` is not returned, because the paper compares all tokens, not only the hidden ones.
        return Reconstruction(self.decoder.to_features(decoded.mean(1)), crops, embedding)


class _Encoder(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.cls_token = _learned(1, 1, width)
        self.pos_embedding = _learned(GRID**2, 1, width)
        self.transformer = _blocks(width, depth)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor, hidden: Tensor | None) -> Tensor:
        """Encode the seen tokens: Bx196xC -> Bx(1 + seen)xC, with the CLS token first."""
        n, _, width = rows.shape
        rows = rows + self.pos_embedding.transpose(0, 1)
        if hidden is not None:
            rows = rows[~hidden].view(n, -1, width)
        return self.layer_norm(self.transformer(torch.cat([self.cls_token.expand(n, -1, -1), rows], dim=1)))


class _Decoder(nn.Module):
    def __init__(self, width: int, depth: int, n_components: int) -> None:
        super().__init__()
        self.mask_token = _learned(1, 1, width)
        self.pos_embedding = _learned(GRID**2 + 1, 1, width)
        self.transformer = _blocks(width, depth)
        self.head = _painter(width)
        self.to_features = nn.Linear(width, n_components)

    def forward(self, seen: Tensor, hidden: Tensor | None) -> Tensor:
        """Predict the hidden tokens: encoded tokens Bx(1 + seen)xC -> all tokens Bx196xC."""
        rows = seen
        if hidden is not None:
            shown = F.pad(~hidden, (1, 0), value=True)[:, :, None]  # the CLS token is never hidden
            rows = self.mask_token.to(seen.dtype).expand(*shown.shape[:2], -1).masked_scatter(shown, seen)
        return self.transformer(rows + self.pos_embedding.transpose(0, 1))[:, 1:]


class _Block(nn.Module):
    """A pre-norm transformer block, BxNxC -> BxNxC."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _BLOCK_EPS)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width, _BLOCK_EPS)
        self.mlp = _MLP(width)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.attn(self.norm1(rows))
        return rows + self.mlp(self.norm2(rows))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = _heads(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        n, count, width = rows.shape
        q, k, v = self.qkv(rows).view(n, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, count, width))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(rows)))


def _blocks(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(depth)))


def _heads(width: int) -> int:
    """Return the number of heads: each is 64 wide, or as close to that as a divisor of the width allows."""
    wanted = max(1, round(width / _HEAD_WIDTH))
    return next(heads for heads in range(wanted, 0, -1) if width % heads == 0)


def _painter(width: int) -> nn.Sequential:
    """Transposed convolutions BxCx14x14 -> Bx3x128x128, without bounds; the side grows 28, 56, 57, 62, 128."""
    steps = ((width, 512, 4, 2), (512, 256, 4, 2), (256, 128, 4, 1), (128, 64, 8, 1), (64, 3, 8, 2))
    layers: list[nn.Module] = []
    for channels, out, kernel, stride in steps:
        layers += [nn.ConvTranspose2d(channels, out, kernel, stride, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _rows(tokens: Tensor) -> Tensor:
    """Token maps BxCx14x14 -> Bx196xC."""
    if tokens.shape[-2:] != (GRID, GRID):
        height, width = tokens.shape[-2:]
        raise ValueError(f"Got token maps of {height} x {width} tokens but expected {GRID} x {GRID}.")
    return tokens.flatten(2).mT


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
