"""The network of a recipe: loaded once, run on square images, and freed when it is no longer wanted."""

import os
import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..exceptions import WeightsUnavailableError
from ..models import devices
from ..models.inference import accelerate
from ..models.lora import Adapter, apply_adapter
from ..models.sam import CELL, CELL_MASK_TOKENS, SAM, normalise
from ..weights.adapters import packaged_adapter, read_adapter_file
from ..weights.backbones import load_sam
from .recipe import NetworkSpec, Recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Whole, or where it has to travel, the path of its file; "" for one that ships with the package.
AnyAdapter = Adapter | str | None


@dataclass
class _LoadedNetwork:
    """The network that this process used last: folds, candidates and chunks share it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: int = field(default_factory=os.getpid)
    spec: NetworkSpec | None = None
    sam: SAM | None = None


_last = _LoadedNetwork()


def load_network(spec: NetworkSpec, adapter: AnyAdapter = None) -> SAM:
    """Return a network ready for inference, loaded unless it was the last one used."""
    device = devices.choose(spec.device)  # also readies a forked process, whose network may be loaded already
    if os.getpid() != _last.process:  # the lock may be held by a thread that a forked process does not have
        _last.lock, _last.process = threading.Lock(), os.getpid()
    with _last.lock:
        if _last.sam is None or _last.spec != spec:
            _last.sam = None  # frees the memory of the one before
            _last.sam, _last.spec = _load(spec, adapter).to(device), spec
        return _last.sam


def free_network() -> None:
    """Free the memory of the loaded network, also on a GPU; the next use loads it again."""
    _last.sam = _last.spec = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load(spec: NetworkSpec, adapter: AnyAdapter) -> SAM:
    sam = load_sam(spec.backbone, spec.image_size, two_masks=adapter is not None)
    if adapter is not None:
        apply_adapter(sam, _fetch_adapter(spec, adapter) if isinstance(adapter, str) else adapter)
    return accelerate(sam).set_encoder_dtype(DTYPES[spec.dtype])


def _fetch_adapter(spec: NetworkSpec, path: str) -> Adapter:
    if not path and (packaged := packaged_adapter(spec.backbone.name)):
        return packaged
    if not os.path.exists(path):  # noqa: PTH110
        raise WeightsUnavailableError(
            f"This worker cannot read the adapter '{path}'. Fix: set cache_dir to a folder that all workers share."
        )
    adapter = read_adapter_file(path)
    if adapter.digest() != spec.adapter:
        raise WeightsUnavailableError(f"'{path}' is not the adapter of this embedder. Fix: delete it.")
    return adapter


@torch.inference_mode()
def run_network(sam: SAM, recipe: Recipe, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run the network on square images (B, S, S, 3): tokens (B, C, h, w) and the cell's probability (B, S, S)."""
    weight = sam.image_encoder.patch_embed.proj.weight
    batch = torch.from_numpy(pixels)
    if weight.device.type == "cuda":
        batch = batch.pin_memory()
    batch = normalise(batch.to(weight.device, non_blocking=True), recipe.pixel_stats)
    tokens = sam.tokens(batch.to(weight.dtype))
    probability = cell_probability(sam, tokens, recipe.prompt)
    return tokens.float().cpu().numpy(), probability.cpu().numpy()


def cell_probability(sam: SAM, tokens: torch.Tensor, prompt: str) -> torch.Tensor:
    """Probability (B, S, S) that a pixel belongs to the cell."""
    logits, predicted_iou = sam.mask_logits(tokens, center_prompt=prompt == "center")
    logits = F.interpolate(logits, sam.image_size, mode="bilinear")
    if logits.shape[1] == CELL_MASK_TOKENS:
        return logits.softmax(1)[:, CELL]
    # Plain SAM: of its three alternatives, the one that it trusts most.
    best = 1 + predicted_iou[:, 1:].argmax(1)
    return logits[torch.arange(len(logits)), best].sigmoid()
