"""The network of a recipe: it is loaded once, run on square images, and freed on request."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..exceptions import WeightsUnavailableError, warn_caller
from ..models import devices
from ..models.inference import accelerate
from ..models.lora import Adapter, apply_adapter
from ..models.sam import CELL, CELL_MASK_TOKENS, SAM, PixelStats, normalise
from ..models.sam_tokens import AnyViT
from ..weights.adapters import packaged_adapter, read_adapter_file
from ..weights.backbones import Backbone, load_sam
from ..weights.vits import load_vit
from .recipe import TEXTURE, NetworkSpec, Recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# An adapter. For a worker, it is the path of the adapter's file, or "" for the adapter in the package.
AnyAdapter = Adapter | str | None


@dataclass(frozen=True)
class ViTSpec:
    """A small reference to a plain ViT, as `NetworkSpec`, for images of any size."""

    backbone: Backbone
    dtype: str
    device: str = "auto"


@dataclass
class _LoadedNetworks:
    """The SAM and the ViT that this process used last, which folds, candidates and chunks share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: int = field(default_factory=os.getpid)
    spec: NetworkSpec | None = None
    sam: SAM | None = None
    vit_spec: ViTSpec | None = None
    vit: AnyViT | None = None

    def own_lock(self) -> threading.Lock:
        """Return the lock of this process; a thread that only the parent process has may hold the parent's lock."""
        if os.getpid() != self.process:
            self.lock, self.process = threading.Lock(), os.getpid()
        return self.lock


_last = _LoadedNetworks()


def load_network(spec: NetworkSpec, adapter: AnyAdapter = None) -> SAM:
    """Return a network that is ready for inference; load it unless it was the last one used."""
    device = devices.choose(spec.device)  # also prepares a forked process, whose network may already be loaded
    with _last.own_lock():
        if _last.sam is None or _last.spec != spec:
            _last.sam = None  # frees the memory of the previous network
            _last.sam, _last.spec = _load(spec, adapter).to(device), spec
        return _last.sam


def load_vit_network(spec: ViTSpec) -> AnyViT:
    """Return a ViT that is ready for inference; load it unless it was the last one used."""
    device = devices.choose(spec.device)
    with _last.own_lock():
        if _last.vit is None or _last.vit_spec != spec:
            _last.vit = None
            _last.vit, _last.vit_spec = load_vit(spec.backbone).to(device, DTYPES[spec.dtype]), spec
        return _last.vit


def free_network() -> None:
    """Free the memory of the loaded networks, also on a GPU; the next use loads them again."""
    _last.sam = _last.spec = _last.vit = _last.vit_spec = None
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
    """Return the tokens (B, C, h, w) and the cell's probability (B, S, S) of square images (B, S, S, 3).

    If the recipe also pools the texture, the tokens have C more channels, the early tokens.
    """
    batch = _as_batch(pixels, recipe.pixel_stats, sam.image_encoder.patch_embed.proj.weight)
    early, tokens = sam.early_and_last_tokens(batch)
    probability = cell_probability(sam, tokens, recipe.prompt)
    if recipe.features is None and recipe.pooling == TEXTURE:
        tokens = torch.cat([tokens, early], dim=1)
    return tokens.float().cpu().numpy(), probability.cpu().numpy()


@torch.inference_mode()
def run_vit(
    vit: AnyViT, pixel_stats: PixelStats, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the CLS tokens, (B, C) or (B, 0), and patch tokens (B, C, h, w) of square images (B, S, S, 3)."""
    tokens = vit(_as_batch(pixels, pixel_stats, next(vit.parameters())))
    return tokens.cls.float().cpu().numpy(), tokens.patches.float().cpu().numpy()


def _as_batch(pixels: NDArray[np.uint8], pixel_stats: PixelStats, like: torch.Tensor) -> torch.Tensor:
    """Normalise images (B, S, S, 3) to Bx3xSxS, on the device and in the number type of `like`."""
    batch = torch.from_numpy(pixels)
    if like.device.type == "cuda":
        batch = batch.pin_memory()
    return normalise(batch.to(like.device, non_blocking=True), pixel_stats).to(like.dtype)


_Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]


def halved_if_too_large(run: Callable[[NDArray], _Arrays], pixels: NDArray[np.uint8]) -> _Arrays:
    """Run a network on images; a batch that does not fit into the memory is halved, with a warning."""
    try:
        return run(pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    # This code is not in the except block, because the exception would keep the memory of the failed pass.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = (len(pixels) + 1) // 2
    warn_caller(
        f"{len(pixels)} images in a forward pass are too many for the device's memory, so the pass is split in two. "
        f"Fix: batch_size={half}."
    )
    first, second = (halved_if_too_large(run, part) for part in (pixels[:half], pixels[half:]))
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def cell_probability(sam: SAM, tokens: torch.Tensor, prompt: str) -> torch.Tensor:
    """Return the probability (B, S, S) that a pixel belongs to the cell."""
    logits, predicted_iou = sam.mask_logits(tokens, center_prompt=prompt == "center")
    logits = F.interpolate(logits, sam.image_size, mode="bilinear")
    if logits.shape[1] == CELL_MASK_TOKENS:
        return logits.softmax(1)[:, CELL]
    # Plain SAM predicts three alternative masks; use the one with the highest predicted IoU.
    best = 1 + predicted_iou[:, 1:].argmax(1)
    return logits[torch.arange(len(logits)), best].sigmoid()
