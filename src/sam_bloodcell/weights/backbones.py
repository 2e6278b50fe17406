"""Base weights: the name of a backbone, its file, and the network into which it is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..exceptions import WeightsUnavailableError, warn_caller
from ..models.sam import CELL_MASK_TOKENS, MASK_TOKENS, SAM, SAM_MASK_TOKENS, is_cellpose, load_weights, size_of
from . import hub
from .tensors import read_tensors, without_prefix

_PACKAGED = Path(__file__).parent

# Backbones on the Hub by short name: repo and pinned revision.
HUB_BACKBONES = {
    "vit_b": ("facebook/sam-vit-base", "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f"),
    "vit_l": ("facebook/sam-vit-large", "6851e0441005b0fb96f2cc4dfac472f3d1b14af1"),
    "vit_h": ("facebook/sam-vit-huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67"),
}
# Files of weights in transformers' layout, of which the first existing one is read. Large networks may have several
# parts.
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
_SHARD_LISTS = tuple(f"{name}.index.json" for name in MODEL_FILES)
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# Cellpose-SAM's repo has a file for each release. The first one is read unless another is named.
CELLPOSE = re.compile(r"(mouseland/cellpose-sam)(?:/(cpsam\w*))?")
_CELLPOSE_FILE = "cpsam"
CELLPOSE_LICENCE = "Cellpose-SAM was trained on images whose licence forbids commercial use (CC BY-NC)."
# micro-sam's models (Archit et al., Nature Methods 2025), such as vit_b_lm, are not on the Hub.
_MICRO_SAM = re.compile(r"vit_[tblh]_[a-z_]+")
# Every encoder has this key, in segment-anything's or transformers' spelling.
_ENCODER_MARKS = ("image_encoder.pos_embed", "vision_encoder.pos_embed")

# transformers' names -> segment-anything's, applied in order.
_RENAMES = [
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"\.layer_norm([1-4])\.", r".norm\1."),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.norm2", "neck.3"),
    (r"^shared_image_embedding\.", "prompt_encoder.shared_embedding."),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"point_embed\.", "point_embeddings."),
    (r"not_a_point_embeddings", "not_a_point_embed"),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"(mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d+|iou_prediction_head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d+|iou_prediction_head)\.proj_out\.", r"\1.layers.2."),
]


@dataclass(frozen=True)
class Backbone:
    """The source of base weights."""

    name: str  # as the user passed it: short name, Hub repo id or path
    revision: str | None = None  # commit, tag or branch on the Hub
    digest: str | None = None  # SHA-256 of the weights file; if it is known, other files are refused

    def resolved(self) -> tuple[str, str | None]:
        """Return the Hub repo id and the revision, by default the pinned one."""
        repo, pinned = HUB_BACKBONES.get(self.name, (self.name, None))
        cellpose = CELLPOSE.fullmatch(repo)
        return cellpose[1] if cellpose else repo, self.revision or pinned


def identify(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Backbone:
    """Download a backbone if it is missing, and return it with its commit on the Hub and its digest."""
    path = locate_backbone(backbone, token=token, local_files_only=local_files_only)
    return Backbone(backbone.name, hub.commit_of(path) or backbone.revision, hub.digest_of(path))


def load_backbone(backbone: Backbone) -> dict[str, Tensor]:
    """Load base weights in float32 with segment-anything's names; a file with another digest is refused."""
    path = locate_backbone(backbone)
    check_digest(backbone, path)
    state = cellpose_names(read_tensors(path))
    if is_cellpose(state):
        warn_of_licence(backbone)
        return state
    state = _segment_anything_names(without_prefix(state, marks=_ENCODER_MARKS))
    if backbone.name == "vit_tiny":
        state |= read_tensors(path.parent / "adapter" / "decoder.safetensors")
    return state


def cellpose_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Cellpose-SAM's tensors with segment-anything's names for the encoder, and other tensors as they are."""
    state = without_prefix(tensors, marks=("W2",))
    renamed = {re.sub(r"^encoder\.", "image_encoder.", key): value for key, value in state.items()}
    return renamed if is_cellpose(renamed) else tensors


def warn_of_licence(backbone: Backbone) -> None:
    """Warn that the licence of Cellpose's training images forbids commercial use."""
    warn_caller(
        f"backbone='{backbone.name}' is Cellpose-SAM. {CELLPOSE_LICENCE} Fix: make sure that this allows your use, or "
        "choose another backbone."
    )


def check_digest(backbone: Backbone, path: Path) -> None:
    """Raise if a file is not the one of the fit, provided that its digest is known."""
    if backbone.digest is not None and (found := hub.digest_of(path)) != backbone.digest:
        repo, revision = backbone.resolved()
        restore = f"restore '{repo}'" + (f" at revision {revision}" if revision else "")
        if backbone.name == "vit_tiny":
            restore = "install the version of sam-bloodcell that it was fitted with"
        raise WeightsUnavailableError(
            f"'{path}' is not the backbone that this was fitted on: its SHA-256 is {found[:12]}... instead of "
            f"{backbone.digest[:12]}.... Fix: {restore}, or fit again."
        )


def load_sam(backbone: Backbone, image_size: int, *, two_masks: bool) -> SAM:
    """Build a network for square images of `image_size` pixels a side, and load a backbone into it.

    With `two_masks`, it has two mask tokens (background and cell), as in the papers. Otherwise, it has as many as the
    file. A file of Cellpose-SAM is only accepted with `two_masks`, and its prompt encoder and mask decoder are
    initialised from scratch.
    """
    state = load_backbone(backbone)
    without_decoder = is_cellpose(state)
    if without_decoder and not two_masks:
        raise ValueError(
            f"'{backbone.name}' is Cellpose-SAM, which has no mask decoder to find the cell. Fix: "
            f"ViTEmbedder('{backbone.name}'), which takes the masks from another network, or fit(X, masks=...) or an "
            "adapter, which add a decoder."
        )
    bare = "pos_embed" in state and any(key.startswith("neck.") for key in state)
    whole = without_decoder or any(key.startswith("mask_decoder.") for key in state)
    if bare or ("image_encoder.pos_embed" in state and not whole):
        raise ValueError(
            f"'{backbone.name}' has only SAM's image encoder, but its prompt encoder and mask decoder are needed to "
            "find the cell. Fix: pass the complete checkpoint of the encoder."
        )
    mask_tokens = CELL_MASK_TOKENS if two_masks else len(state.get(MASK_TOKENS, ())) or SAM_MASK_TOKENS
    return fill_sam(backbone, state, image_size, mask_tokens)


def fill_sam(backbone: Backbone, state: dict[str, Tensor], image_size: int, mask_tokens: int = CELL_MASK_TOKENS) -> SAM:
    """Build a network and load tensors into it; Cellpose-SAM has none for the prompt encoder and the mask decoder."""
    try:
        sam = SAM(size_of(state), image_size, mask_tokens)
        if is_cellpose(state):
            fresh = {key: value for key, value in sam.state_dict().items() if not key.startswith("image_encoder.")}
            state = state | fresh
        load_weights(sam, state)
    except ValueError as exc:
        raise ValueError(f"The weights of backbone={backbone.name!r} cannot be used. {exc}") from exc
    return sam


def locate_backbone(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Path:
    """Return the path of the weights file; if it is missing, download it from the Hub into the Hub's cache."""
    if backbone.name == "vit_tiny":
        return _PACKAGED / "vit_tiny" / "encoder.safetensors"
    path = Path(backbone.name)
    if path.is_dir() and (file := model_file(path)):
        return file
    if path.is_file():
        return path
    repo, revision = backbone.resolved()
    cellpose = CELLPOSE.fullmatch(backbone.name)
    if path.is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or path.suffix in WEIGHT_SUFFIXES:
        raise ValueError(_unknown(backbone.name))
    command = f"sam-bloodcell download {backbone.name}"
    if revision != Backbone(backbone.name).resolved()[1]:
        command += f" --revision {revision}"
    access: dict[str, Any] = {"token": token, "local_files_only": local_files_only, "command": command}
    return hub.fetch_first(repo, [cellpose[2] or _CELLPOSE_FILE] if cellpose else MODEL_FILES, revision, **access)


def model_file(folder: Path) -> Path | None:
    """Return the single file of weights in transformers' layout in a folder, or None."""
    for name in MODEL_FILES:
        if (folder / name).is_file():
            return folder / name
    if any((folder / name).is_file() for name in _SHARD_LISTS):
        raise ValueError(
            f"Got backbone='{folder}' but expected a folder with {MODEL_FILES[0]}: its weights are cut into several "
            'files. Fix: save them as one, model.save_pretrained(folder, max_shard_size="100GB").'
        )
    return None


def _unknown(name: str) -> str:
    """Return an error message that lists the possible backbones."""
    known = ", ".join(["vit_tiny", *HUB_BACKBONES])
    fix = "check the spelling or the path."
    if _MICRO_SAM.fullmatch(name):
        fix = f"download micro-sam's {name} from its page on Zenodo or BioImage.IO, and pass the path of its file."
    return (
        f"Got backbone={name!r} but expected one of {known}, a Hub repo id (owner/name), or an existing file of "
        f"weights ({', '.join(WEIGHT_SUFFIXES)}) or a folder with {' or '.join(MODEL_FILES)}. Fix: {fix}"
    )


def packaged_folder(name: str, part: str) -> Path | None:
    """Return the folder of the "adapter" or "autoencoder" that is packaged with a backbone, or None."""
    return _PACKAGED / name / part if name == "vit_tiny" else None


def _segment_anything_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(key.startswith("vision_encoder.") for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed
