"""Faster inference with SAM's encoder, with the same output."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sam import SAM

# Up to this number of tokens, two matrix products and a softmax are faster than torch's fused kernel on a CPU (in
# bfloat16).
_SHORT = 512


def accelerate(sam: SAM) -> SAM:
    """Replace every block's attention by a `FoldedAttention`, in place; weights can no longer be loaded or trained."""
    for block in sam.image_encoder.blocks:
        block.attn = FoldedAttention(block.attn)
    return sam.eval().requires_grad_(False)


class FoldedAttention(nn.Module):
    """SAM's attention with its relative positions (MViTv2, Li et al., CVPR 2022) folded into queries and keys.

    SAM adds to the attention of query q on key k the terms q . H[row(q) - row(k)] and q . W[column(q) - column(k)].
    Here these h + w terms are appended to each query, and the one-hot code of its row and column is appended to each
    key. One product then computes the sum, so there is no (hw x hw) table of positions, and any fused kernel can be
    used. The maps must have the grid of the relative positions of `attention`.
    """

    qkv: nn.Linear
    proj: nn.Linear
    rows: Tensor
    columns: Tensor
    code: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        rows, columns = (_pairwise(table.detach()) for table in (attention.rel_pos_h, attention.rel_pos_w))
        height, width = len(rows), len(columns)
        code = torch.cat([torch.eye(height).repeat_interleave(width, 0), torch.eye(width).repeat(height, 1)], dim=1)
        self.register_buffer("rows", rows, persistent=False)  # hxhxc: query's row, key's row
        self.register_buffer("columns", columns, persistent=False)  # wxwxc
        self.register_buffer("code", code.to(rows), persistent=False)  # hwx(h + w)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each BxhxwxC map."""
        batch, height, width, channels = x.shape
        n, heads = height * width, batch * self.num_heads
        q, k, v = self.qkv(x).view(batch, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).reshape(3, heads, n, -1)
        grid = q.view(heads, height, width, -1)
        by_row = torch.einsum("bhwc,hkc->bhwk", grid, self.rows).reshape(heads, n, height)
        by_column = torch.einsum("bhwc,wkc->bhwk", grid, self.columns).reshape(heads, n, width)
        q = torch.cat([q * self.scale, by_row, by_column], dim=-1)
        k = torch.cat([k, self.code.expand(heads, -1, -1)], dim=-1)
        if x.device.type == "cpu" and n <= _SHORT:
            attended = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        else:
            # The fused kernels require values as wide as keys.
            wide = F.pad(v, (0, height + width))
            attended = F.scaled_dot_product_attention(q[None], k[None], wide[None], scale=1.0)[0, ..., : v.shape[-1]]
        attended = attended.view(batch, self.num_heads, n, -1).transpose(1, 2)
        return self.proj(attended.reshape(batch, height, width, channels))


def _pairwise(table: Tensor) -> Tensor:
    """Return relative positions (2n - 1)xC as nxnxC, by query and key."""
    n = (len(table) + 1) // 2
    place = torch.arange(n)
    return table[place[:, None] - place[None] + n - 1]
