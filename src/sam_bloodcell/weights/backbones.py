"""Base weights: which backbone, where its file is, and the network that it fills."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..exceptions import WeightsUnavailableError
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
# Files of weights in transformers' layout, the first that is there; a large network's may be cut into several.
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
_SHARD_LISTS = tuple(f"{name}.index.json" for name in MODEL_FILES)
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# Cellpose-SAM's repo has a file for each release: the first one is meant unless another is named.
CELLPOSE = re.compile(r"(mouseland/cellpose-sam)(?:/(cpsam\w*))?")
_CELLPOSE_FILE = "cpsam"
CELLPOSE_LICENCE = "Cellpose-SAM was trained on images under a licence without commercial use (CC BY-NC)."
# micro-sam's models (Archit et al., Nature Methods 2025), such as vit_b_lm, are not on the Hub.
_MICRO_SAM = re.compile(r"vit_[tblh]_[a-z_]+")
# Every encoder has it, under the name of segment-anything or of transformers.
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
    """Where base weights come from."""

    name: str  # as the user gave it: short name, Hub repo id or path
    revision: str | None = None  # commit, tag or branch on the Hub
    digest: str | None = None  # SHA-256 of the weights file; when it is known, no other file will do

    def resolved(self) -> tuple[str, str | None]:
        """Hub repo id and revision, the pinned one where none was asked for."""
        repo, pinned = HUB_BACKBONES.get(self.name, (self.name, None))
        cellpose = CELLPOSE.fullmatch(repo)
        return cellpose[1] if cellpose else repo, self.revision or pinned


def identify(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Backbone:
    """Download a backbone if it is missing, and fill in its commit on the Hub and its digest."""
    path = locate_backbone(backbone, token=token, local_files_only=local_files_only)
    return Backbone(backbone.name, hub.commit_of(path) or backbone.revision, hub.digest_of(path))


def load_backbone(backbone: Backbone) -> dict[str, Tensor]:
    """Load base weights with segment-anything's names, float32; a file with another digest is refused."""
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
    """Say that Cellpose's training images are not free for all uses."""
    warnings.warn(
        f"backbone='{backbone.name}' is Cellpose-SAM. {CELLPOSE_LICENCE} Fix: make sure that this allows what you do; "
        "for other uses, take another backbone.",
        stacklevel=2,
    )


def check_digest(backbone: Backbone, path: Path) -> None:
    """Refuse another file than the one that was fitted on, where that is known."""
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

    With `two_masks` it has two mask tokens (background and cell), as in the papers, instead of as many as the file.
    Only then a file of Cellpose-SAM will do: its prompt encoder and mask decoder start fresh.
    """
    state = load_backbone(backbone)
    without_decoder = is_cellpose(state)
    if without_decoder and not two_masks:
        raise ValueError(
            f"'{backbone.name}' is Cellpose-SAM, which has no mask decoder to find the cell. Fix: "
            f"ViTEmbedder('{backbone.name}'), which takes the masks from another network, or fit(X, masks=...) or an "
            "adapter, which bring a decoder."
        )
    bare = "pos_embed" in state and any(key.startswith("neck.") for key in state)
    whole = without_decoder or any(key.startswith("mask_decoder.") for key in state)
    if bare or ("image_encoder.pos_embed" in state and not whole):
        raise ValueError(
            f"'{backbone.name}' holds SAM's image encoder alone, but its prompt encoder and mask decoder are needed to "
            "find the cell. Fix: pass the whole checkpoint that the encoder was taken from."
        )
    mask_tokens = CELL_MASK_TOKENS if two_masks else len(state.get(MASK_TOKENS, ())) or SAM_MASK_TOKENS
    return fill_sam(backbone, state, image_size, mask_tokens)


def fill_sam(backbone: Backbone, state: dict[str, Tensor], image_size: int, mask_tokens: int = CELL_MASK_TOKENS) -> SAM:
    """Build a network and load tensors into it; those of Cellpose-SAM leave prompt encoder and mask decoder fresh."""
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
    """Return the local weights file, downloaded from the Hub into its cache if missing."""
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
    """Return a folder's one file of weights in transformers' layout, if it has one."""
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
    """Say what a backbone may be."""
    known = ", ".join(["vit_tiny", *HUB_BACKBONES])
    fix = "check the spelling or the path."
    if _MICRO_SAM.fullmatch(name):
        fix = f"download micro-sam's {name} from its page on Zenodo or BioImage.IO, and pass the path of its file."
    return (
        f"Got backbone={name!r} but expected one of {known}, a Hub repo id (owner/name), or an existing file of "
        f"weights ({', '.join(WEIGHT_SUFFIXES)}) or a folder with {' or '.join(MODEL_FILES)}. Fix: {fix}"
    )


def packaged_folder(name: str, part: str) -> Path | None:
    """Return the folder of the "adapter" or "autoencoder" that ships with a backbone, if one does."""
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
