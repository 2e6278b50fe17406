"""A plain Vision Transformer: image -> CLS token, register tokens and a map of patch tokens, at any image size.

The same network implements DINOv2 and networks that were trained from it (DinoBloom, RedDino), DINOv3, and the plain
ViT of Dosovitskiy et al. (ICLR 2021). `ViTLayout` describes their differences. The modules and their parameter names
are DINOv2's own.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sam import SAM_PIXEL_STATS, PixelStats

# ImageNet's statistics, which SAM also uses.
IMAGENET_PIXEL_STATS = SAM_PIXEL_STATS
# These map 0 to -1 and 255 to 1.
HALF_PIXEL_STATS: PixelStats = ((127.5,) * 3, (127.5,) * 3)
# Base of the periods of DINOv3's rotary positions.
_ROTARY_BASE = 100.0


@dataclass(frozen=True)
class ViTLayout:
    """Shape of a ViT, and the preprocessing of its library.

    Attributes
    ----------
    width, depth, heads, hidden : int
        Channels of a token, number of blocks, attention heads, channels within the MLP.
    patch : int
        Side of a patch in pixels.
    grid : int
        Side of the square table of learned positions in patches; 0 stands for DINOv3's rotary positions.
    registers : int
        Number of register tokens.
    swiglu, layer_scale : bool
        Whether the MLP is gated by SiLU (instead of a plain MLP with GELU), and whether each branch ends with
        LayerScale.
    eps : float
        The small number in the layer norms.
    antialias, offset
        How the table of positions is resized to other image sizes, which differs between libraries. `offset` is a
        number of patches that is added to the grid when the scale is computed (0.1 in the first DINOv2).
    image_size : int
        Side in pixels of the images on which the weights were trained, or with which they are usually used.
    pixel_stats : tuple
        ((mean R, G, B), (std R, G, B)) with which pixels are normalised, in 0-255 units.
    has_cls, any_size : bool
        Whether there is a CLS token, and whether the network accepts images of other sizes than `image_size`.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    grid: int
    registers: int = 0
    swiglu: bool = False
    layer_scale: bool = False
    eps: float = 1e-6
    antialias: bool = False
    offset: float = 0.0
    image_size: int = 224
    pixel_stats: PixelStats = IMAGENET_PIXEL_STATS
    has_cls: bool = True
    any_size: bool = True


class ViTTokens(NamedTuple):
    """Normalised tokens of a batch: `cls` BxC, `registers` BxRxC, `patches` BxCxhxw."""

    cls: Tensor
    registers: Tensor
    patches: Tensor


class ViT(nn.Module):
    """A Vision Transformer with a given layout; the side of its input is any multiple of the patch."""

    def __init__(self, layout: ViTLayout) -> None:
        super().__init__()
        width = layout.width
        self.layout = layout
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, layout.patch, stride=layout.patch)})
        if layout.grid:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + layout.grid**2, width))
        if layout.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, layout.registers, width))
        self.blocks = nn.ModuleList(Block(layout) for _ in range(layout.depth))
        self.norm = nn.LayerNorm(width, layout.eps)

    def forward(self, pixels: Tensor) -> ViTTokens:
        """Encode normalised pixels Bx3xHxW, h = H / patch and w = W / patch."""
        self._check_size(*pixels.shape[2:])
        patches = self.patch_embed["proj"](pixels)  # BxCxhxw
        batch, _, height, width = patches.shape
        x, rotation = patches.flatten(2).transpose(1, 2), None
        first: list[Tensor] = [self.cls_token]
        if self.layout.grid:
            positions = self._positions(height, width).to(x.dtype)
            x, first = x + positions[:, 1:], [self.cls_token + positions[:, :1]]
        else:
            rotation = rotary_positions(height, width, self.layout.width // self.layout.heads, x)
        if self.layout.registers:
            first.append(self.register_tokens)
        x = torch.cat([torch.cat(first, dim=1).expand(batch, -1, -1), x], dim=1)  # Bx(1 + R + hw)xC
        for block in self.blocks:
            x = block(x, rotation)
        x = self.norm(x)
        start = 1 + self.layout.registers
        return ViTTokens(x[:, 0], x[:, 1:start], x[:, start:].transpose(1, 2).unflatten(2, (height, width)))

    def _check_size(self, height: int, width: int) -> None:
        patch = self.layout.patch
        if height < patch or width < patch or height % patch or width % patch:
            fix = " x ".join(str(max(patch, round(side / patch) * patch)) for side in (height, width))
            raise ValueError(
                f"Got an image of {height} x {width} pixels but expected positive multiples of {patch}, the side of "
                f"the patches of this network. Fix: use {fix}."
            )

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the table of positions 1x(1 + hw)xC, in float32 if it was resized."""
        grid, offset = self.layout.grid, self.layout.offset
        if height == width == grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().transpose(1, 2).unflatten(2, (grid, grid))  # 1xCxgridxgrid
        size, scale = (None, ((height + offset) / grid, (width + offset) / grid)) if offset else ((height, width), None)
        table = F.interpolate(table, size, scale, mode="bicubic", antialias=self.layout.antialias)
        return torch.cat([self.pos_embed[:, :1].float(), table.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """Attention and MLP as residual branches, each after a layer norm, and with LayerScale if the layout has it."""

    def __init__(self, layout: ViTLayout) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(layout.width, layout.eps)
        self.attn = Attention(layout.width, layout.heads)
        self.ls1 = LayerScale(layout.width) if layout.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(layout.width, layout.eps)
        self.mlp = (SwiGLU if layout.swiglu else MLP)(layout.width, layout.hidden)
        self.ls2 = LayerScale(layout.width) if layout.layer_scale else nn.Identity()

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Compute the next tokens BxNxC."""
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Attention among all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Attend between tokens BxNxC."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each BxheadsxNxc
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Pass each token on by itself."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """The gated linear unit of the giant networks (Shazeer, 2020); `w12` computes its two factors."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Pass each token on by itself."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al., ICCV 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale tokens BxNxC."""
        return x * self.gamma


def rotary_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Return cosines and sines 2xhwxc of DINOv3's rotary positions, for c channels per head, like the tensor `like`.

    The row and the column of a patch's centre are scaled to -1 to 1 for any image size. Each of the two gives c/4
    angles of decreasing frequency. Channels i and i + c/2 are rotated together by angle i.
    """
    frequencies = _ROTARY_BASE ** -torch.arange(0, 1, 4 / channels, device=like.device)
    rows, columns = ((torch.arange(side, device=like.device) + 0.5) / side * 2 - 1 for side in (height, width))
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # hwx2
    angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1).tile(2)  # hwxc
    return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the patches' queries or keys, the last hw of BxheadsxNxc; CLS and registers have no position."""
    cos, sin = rotation
    first, x = x[:, :, : -len(cos)], x[:, :, -len(cos) :]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([first, x * cos + torch.cat([-b, a], dim=-1) * sin], dim=2)
