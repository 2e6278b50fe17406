"""Names of a ViT's tensors: conversion from transformers and timm to DINOv2's names, and the network's layout."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.vit import HALF_PIXEL_STATS, ViTLayout
from .tensors import without_prefix

_MARKS = ("embeddings.cls_token", "cls_token")
# Parts that do not affect the tokens: heads, and layers that hide patches in training.
_UNUSED = re.compile(r"(embeddings\.)?mask_token|(pooler|head|classifier|dino_head|ibot_head)\..*")
# transformers' names -> DINOv2's, applied in order, for all releases, because files keep the names of their release.
_RENAMES = [
    (r"^embeddings\.(cls_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attn\.([qkv])\w+\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
]
# Published networks whose heads are not 64 channels wide, as (positions are learned, width): number of heads.
_HEADS = {(True, 1152): 16, (True, 1280): 16, (True, 1408): 16, (True, 1664): 16, (False, 4096): 32}


def dinov2_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ViTLayout]:
    """Return a ViT's tensors with DINOv2's names, and the layout that follows from names and shapes.

    Prefixes of a wrapper or a larger network are removed, and so are all tensors outside the ViT. If a file contains
    the student and the teacher of a training, the teacher is read, because teachers are what is published.
    """
    state = _vit_alone(without_prefix(state, marks=()))
    transformers = "embeddings.cls_token" in state
    own = not transformers and "mask_token" in state  # timm does not store it
    state = {key: value for key, value in state.items() if not _UNUSED.fullmatch(key)}
    rotary = "embeddings.patch_embeddings.weight" in state
    state = _transformers_names(state, rotary) if transformers else _timm_names(state)
    layout = _layout(state, rotary)
    return state, replace(layout, **_habits(layout, transformers, own))


def _habits(layout: ViTLayout, transformers: bool, own: bool) -> dict[str, Any]:
    """Return properties of a library that files lack: the resizing of positions, and the epsilon of layer norms."""
    if not transformers:
        # The first DINOv2 resizes its positions with an offset. DINOv2 with registers resizes them as timm does.
        return {"offset": 0.1} if own and not layout.registers else {"antialias": True}
    if not layout.grid:
        return {"eps": 1e-5}
    return {"antialias": layout.registers > 0, "eps": 1e-6 if layout.layer_scale else 1e-12}


def _vit_alone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefixes = {key[: -len(mark)] for key in state for mark in _MARKS if key == mark or key.endswith(f".{mark}")}
    prefix = min(prefixes, key=lambda found: ("teacher" not in found, len(found), found), default="")
    short = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    # The blocks of a large network may be in chunks. Block 7 is then blocks.1.7.
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value for key, value in short.items()}


def _transformers_names(state: dict[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    blocks = {key.rpartition(".attn.")[0] for key in renamed if ".attn." in key}
    for block in blocks:
        if rotary and f"{block}.attn.k.bias" not in renamed and f"{block}.attn.q.bias" in renamed:
            # The keys of DINOv3 have no bias.
            renamed[f"{block}.attn.k.bias"] = torch.zeros_like(renamed[f"{block}.attn.q.bias"])
        gated = f"{block}.mlp.gate_proj.weight" in renamed
        for part in ("weight", "bias"):
            _join(renamed, [f"{block}.attn.{name}.{part}" for name in "qkv"], f"{block}.attn.qkv.{part}")
            if gated:
                _join(renamed, [f"{block}.mlp.{n}_proj.{part}" for n in ("gate", "up")], f"{block}.mlp.w12.{part}")
            _join(renamed, [f"{block}.mlp.up_proj.{part}"], f"{block}.mlp.fc1.{part}")
            _join(renamed, [f"{block}.mlp.down_proj.{part}"], f"{block}.mlp.{'w3' if gated else 'fc2'}.{part}")
    return renamed


def _join(state: dict[str, Tensor], parts: list[str], whole: str) -> None:
    if all(part in state for part in parts):
        state[whole] = torch.cat([state.pop(part) for part in parts])


def _timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {("register_tokens" if key == "reg_token" else key): value for key, value in state.items()}
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        # If there are registers, timm adds the position of CLS to CLS itself.
        state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is None or second is None or len(first) != 2 * second.shape[-1]:
        return state
    return {key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): state[key] for key in state}


def _layout(state: Mapping[str, Tensor], rotary: bool) -> ViTLayout:
    """Read the layout of tensors with DINOv2's names."""
    swiglu = "blocks.0.mlp.w3.weight" in state
    try:
        width, _, _, patch = state["patch_embed.proj.weight"].shape
        _, hidden = state[f"blocks.0.mlp.{'w3' if swiglu else 'fc2'}.weight"].shape
        grid = 0 if rotary else math.isqrt(state["pos_embed"].shape[1] - 1)
        registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    except (KeyError, ValueError, IndexError) as exc:
        missing = f"it has no '{exc.args[0]}'" if isinstance(exc, KeyError) else str(exc)
        raise ValueError(
            f"This file is not a ViT in the layout of DINOv2, DINOv3, transformers or timm: {missing}. Its first keys "
            f"are {sorted(state)[:3]}. Fix: pass the weights of a plain ViT with a CLS token."
        ) from None
    heads = _HEADS.get((not rotary, width), width // 64 if width % 64 == 0 else 0)
    if not heads:
        raise ValueError(
            f"Got a ViT of {width} channels but expected a multiple of 64, the width of one attention head in "
            "published networks. Fix: pass another backbone."
        )
    layout = ViTLayout(
        width=width,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        heads=heads,
        hidden=hidden,
        patch=patch,
        grid=grid,
        registers=registers,
        swiglu=swiglu,
        layer_scale="blocks.0.ls1.gamma" in state,
    )
    if layout.layer_scale or rotary:
        return layout
    # The usual pixel statistics of plain ViTs of transformers and timm, and the image size of their training.
    return replace(layout, image_size=patch * grid, pixel_stats=HALF_PIXEL_STATS)
