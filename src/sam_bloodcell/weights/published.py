"""Reading of the papers' published adapters: LoRA factors, prompt encoder and mask decoder in one ``.pth``."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..models.lora import Adapter, config_values, lora_config
from ..models.sam import CELL_MASK_TOKENS, SAM, SIZES, EncoderSize, differences
from .tensors import read_tensors, without_prefix

# Channel mean and standard deviation of the published run's training images, R G B, in 0-255 units.
PUBLISHED_PIXEL_STATS = ((215.03, 187.76, 200.47), (41.30, 56.92, 21.95))

_FACTOR = re.compile(r"w_[ab]_(\d{3}|[1-9]\d{3,})")
_PARTS = ("w_a_", "w_b_", "prompt_encoder.", "mask_decoder.")


def read_published_adapter(
    path: str | os.PathLike, *, backbone: str = "vit_b", image_size: int = 224,
    pixel_stats: tuple[tuple[float, ...], tuple[float, ...]] = PUBLISHED_PIXEL_STATS,
) -> Adapter:  # fmt: skip
    """Read the adapter that the published code of BC-SAM (Li et al., ISBI 2024) saves.

    The file numbers its factors block by block, query before value: ``w_a_000`` (r x C) and ``w_b_000`` (C x r) belong
    to the query of block 0, ``w_a_001`` and ``w_b_001`` to its value, and so on. The product of the two factors is
    added to the weight without scaling. The prompt encoder and the mask decoder (two mask tokens) have the names of
    segment-anything. The file does not contain the encoder.

    Parameters
    ----------
    path : str or path
        File with any suffix, from which only tensors are unpickled.
    backbone : str, default="vit_b"
        Backbone on which the adapter was trained. For vit_b, vit_l and vit_h, the file's shapes are checked.
    image_size : int, default=224
        Image side in pixels at which the adapter was trained, which the file does not contain.
    pixel_stats : tuple, optional
        ((mean R, G, B), (std R, G, B)) of the training images in 0-255 units. By default, they are those of the
        published run.

    Returns
    -------
    Adapter
        The adapter, for `SAMLoRAEmbedder`.

    Raises
    ------
    WeightsUnavailableError
        If the file is missing or damaged, or contains anything but tensors.
    ValueError
        If the file is not an adapter of this code (the message lists all differences), or a std is not positive.
    """
    if not all(0 < std < math.inf for std in pixel_stats[1]):
        raise ValueError(f"Got std={pixel_stats[1]} but expected positive numbers. Fix: pass those of 0-255 pixels.")
    state = without_prefix(read_tensors(Path(path)), marks=("mask_decoder.iou_token.weight",))
    problems = _differences(state, _expected_shapes(state, SIZES.get(backbone)))
    if problems:
        raise ValueError(
            f"'{path}' is not an adapter of the published code for {backbone}:\n  " + "\n  ".join(problems) + "\n"
            "Fix: pass the .pth that its training wrote, whole, and the backbone it was trained on; an adapter of this "
            "package is a folder."
        )
    return Adapter(
        lora={_peft_name(key): value for key, value in state.items() if _FACTOR.fullmatch(key)},
        lora_config=config_values(lora_config(rank=len(state["w_a_000"]))),
        decoder={key: value for key, value in state.items() if not _FACTOR.fullmatch(key)},
        pixel_stats=pixel_stats,
        image_size=image_size,
        source=os.fspath(path),
    )


def _peft_name(key: str) -> str:
    """Return PEFT's name of a factor: ``w_a_003`` is A of the value of block 1."""
    _, factor, number = key.split("_")
    block, part = divmod(int(number), 2)
    return f"base_model.model.blocks.{block}.attn.qkv.{'qv'[part]}.lora_{factor.upper()}.weight"


def _expected_shapes(state: Mapping[str, Tensor], size: EncoderSize | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a complete file, for an encoder of `size`; if it is None, the factors determine the size."""
    with torch.device("meta"):
        sam = SAM(EncoderSize(width=1, depth=0, heads=1, global_blocks=()), mask_tokens=CELL_MASK_TOKENS)
    shapes = {key: tuple(value.shape) for key, value in sam.state_dict().items() if key.startswith(_PARTS)}
    factors = (value.shape for key, value in sorted(state.items()) if key.startswith("w_a_") and value.ndim == 2)
    rank, width = next(factors, (4, 1))
    numbers = {int(key.split("_")[2]) for key in state if _FACTOR.fullmatch(key)} or {0}
    depth = min(max(numbers) // 2 + 1, len(numbers))
    if size is not None:
        width, depth = size.width, size.depth
    for number in range(2 * depth):
        shapes[f"w_a_{number:03d}"] = (rank, width)
        shapes[f"w_b_{number:03d}"] = (width, rank)
    return shapes


def _differences(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Describe the problems of a file, one per line; a missing part is one problem."""
    absent = [part for part in _PARTS if not any(key.startswith(part) for key in state)]
    lines = [line for line in differences(state, shapes) if not line.startswith(tuple(absent))]
    return [*(f"{part}*: missing" for part in absent), *lines]
