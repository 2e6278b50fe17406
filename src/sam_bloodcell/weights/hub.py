"""Weights in and out: the packaged backbone, local files, repos on the Hugging Face Hub, and adapter folders.

Nothing here unpickles: ``.pth`` files are read with ``weights_only=True``, all else is safetensors and JSON.
"""

import json
import os
import pickle
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from ..files import make_folder, replacing, write_text
from ..models.lora import Adapter
from . import remote
from .remote import WeightsUnavailableError

PACKAGED = Path(__file__).parent

# Backbones on the Hub by short name: repo and pinned revision.
HUB_BACKBONES = {
    "vit_b": ("facebook/sam-vit-base", "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f"),
    "vit_l": ("facebook/sam-vit-large", "6851e0441005b0fb96f2cc4dfac472f3d1b14af1"),
    "vit_h": ("facebook/sam-vit-huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67"),
}
_MODEL_FILE = "model.safetensors"
_ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "decoder.safetensors",
    "sam_bloodcell.json",
)

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
    """Where base weights come from.

    Attributes
    ----------
    name : str
        As the user gave it: short name, Hub repo id or path.
    revision : str or None
        Commit, tag or branch on the Hub.
    digest : str or None
        SHA-256 of the weights file; when it is known, no other file will do.
    """

    name: str
    revision: str | None = None
    digest: str | None = None

    def resolved(self) -> tuple[str, str | None]:
        """Hub repo id and revision, the pinned one where none was asked for."""
        repo, pinned = HUB_BACKBONES.get(self.name, (self.name, None))
        return repo, self.revision or pinned

    def described(self) -> str:
        """Name repo and revision in a message."""
        repo, revision = self.resolved()
        return f"'{repo}'{f' at revision {revision}' if revision else ''}"


def identify(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Backbone:
    """Fetch a backbone if need be, and fill in its commit on the Hub and its digest.

    Raises
    ------
    WeightsUnavailableError, ValueError
        As `load_backbone`.
    """
    path = locate_backbone(backbone, token=token, local_files_only=local_files_only)
    return Backbone(backbone.name, remote.commit_of(path) or backbone.revision, remote.digest_of(path))


def load_backbone(backbone: Backbone) -> dict[str, Tensor]:
    """Load base weights with segment-anything's names, float32.

    Raises
    ------
    WeightsUnavailableError
        If a Hub file cannot be fetched, or a file is damaged, no weights file, or not the one of the digest.
    ValueError
        If the name is neither known, nor a path, nor a Hub repo id.
    """
    path = locate_backbone(backbone)
    if backbone.digest is not None and (found := remote.digest_of(path)) != backbone.digest:
        raise WeightsUnavailableError(
            f"'{path}' is not the backbone that this was fitted on: its SHA-256 is {found[:12]}... instead of "
            f"{backbone.digest[:12]}.... Fix: restore {backbone.described()}, or fit again."
        )
    if backbone.name == "vit_tiny":
        state = read_tensors(path) | read_tensors(path.parent / "adapter" / "decoder.safetensors")
    else:
        state = read_tensors(path)
    return _segment_anything_names(state)


def locate_backbone(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Path:
    """Return the local weights file, fetched from the Hub into its cache if need be.

    Raises
    ------
    WeightsUnavailableError, ValueError
        As `load_backbone`.
    """
    if backbone.name == "vit_tiny":
        return PACKAGED / "vit_tiny" / "encoder.safetensors"
    path = Path(backbone.name)
    if path.is_dir():
        path = path / _MODEL_FILE
    if path.is_file():
        return path
    repo, revision = backbone.resolved()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or path.suffix in (".pth", ".safetensors"):
        known = ", ".join(["vit_tiny", *HUB_BACKBONES])
        raise ValueError(
            f"Got backbone={backbone.name!r} but expected one of {known}, a Hub repo id (owner/name), or an existing "
            f".pth or .safetensors file or a folder with {_MODEL_FILE}. Fix: check the spelling or the path."
        )
    return remote.fetch(
        repo,
        _MODEL_FILE,
        revision,
        token=token,
        local_files_only=local_files_only,
        command=_download_command(backbone.name, revision),
    )


def locate_adapter(
    source: str | os.PathLike,
    revision: str | None = None,
    *,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the local folder of an adapter, fetched from the Hub at `revision` if need be.

    Raises
    ------
    WeightsUnavailableError
        If a file is missing or cannot be fetched.
    """
    folder = Path(source)
    if not folder.is_dir():
        files = remote.fetch_all(str(source), _ADAPTER_FILES, revision, token=token, local_files_only=local_files_only)
        folder = files[0].parent
    missing = [name for name in _ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise WeightsUnavailableError(
            f"'{folder}' is no adapter folder: it lacks {', '.join(missing)}. "
            "Fix: pass a folder made by save_pretrained."
        )
    return folder


def read_adapter(source: str | os.PathLike, revision: str | None = None) -> Adapter:
    """Read an adapter folder (PEFT's layout, our decoder beside it) from disk or the Hub.

    Raises
    ------
    WeightsUnavailableError
        If a file is missing, damaged or cannot be fetched.
    """
    folder = locate_adapter(source, revision)
    ours = adapter_settings(folder)
    mean, std = ours["pixel_stats"]
    return Adapter(
        lora=read_tensors(folder / "adapter_model.safetensors"),
        lora_config=read_json(folder / "adapter_config.json"),
        decoder=read_tensors(folder / "decoder.safetensors"),
        pixel_stats=(tuple(mean), tuple(std)),
        image_size=ours["image_size"],
    )


def write_adapter(
    adapter: Adapter, folder: str | os.PathLike, backbone: Backbone, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write an adapter folder that `read_adapter` and ``peft.PeftModel.from_pretrained`` read.

    Parameters
    ----------
    adapter : Adapter
    folder : path
        Made if need be; files of the same names are replaced.
    backbone : Backbone
        What it was trained on; filled in as PEFT's base model and revision.
    dtype : torch.dtype
        Stored type of the tensors.
    """
    folder = make_folder(folder)
    repo, revision = backbone.resolved()
    config = adapter.lora_config | {
        "base_model_name_or_path": repo,
        "revision": revision,
        "inference_mode": True,
    }
    ours = {
        "kind": "adapter",
        "backbone": backbone.name,
        "revision": revision,
        "digest": backbone.digest,
        "image_size": adapter.image_size,
        "pixel_stats": adapter.pixel_stats,
    }
    for name, tensors in (("adapter_model", adapter.lora), ("decoder", adapter.decoder)):
        write_tensors({key: tensor.to(dtype) for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "sam_bloodcell.json", json.dumps(ours, indent=2) + "\n")
    return folder


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a ``.safetensors`` file, whole or not at all."""
    content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    with replacing(path) as draft:
        draft.write_bytes(content)


def pack_adapter(adapter: Adapter) -> bytes:
    """Put an adapter into the content of one file."""
    head = {"lora_config": adapter.lora_config, "pixel_stats": adapter.pixel_stats, "image_size": adapter.image_size}
    tensors = {f"lora/{key}": tensor.contiguous() for key, tensor in adapter.lora.items()}
    tensors |= {f"decoder/{key}": tensor.contiguous() for key, tensor in adapter.decoder.items()}
    text = json.dumps(head, sort_keys=True).encode()
    return len(text).to_bytes(8, "little") + text + save(tensors)


def unpack_adapter(content: bytes) -> Adapter:
    """Undo `pack_adapter`.

    Raises
    ------
    WeightsUnavailableError
        If the content is damaged.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        tensors, head = load(content[end:]), json.loads(content[8:end])
        mean, std = head["pixel_stats"]
    except (SafetensorError, ValueError, LookupError, TypeError) as exc:
        raise WeightsUnavailableError(f"The adapter's file is damaged: {exc}. Fix: delete it.") from exc
    lora, decoder = (
        {key.removeprefix(part): tensor for key, tensor in tensors.items() if key.startswith(part)}
        for part in ("lora/", "decoder/")
    )
    return Adapter(lora, head["lora_config"], decoder, (tuple(mean), tuple(std)), head["image_size"])


@cache
def packaged_adapter(name: str) -> Adapter | None:
    """Return the adapter that ships with a backbone, if one does."""
    folder = PACKAGED / name / "adapter"
    return read_adapter(folder) if name == "vit_tiny" else None


def packaged_autoencoder(name: str) -> Path | None:
    """Return the folder of the autoencoder that ships with a backbone, if one does."""
    return PACKAGED / name / "autoencoder" if name == "vit_tiny" else None


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the backbone, its revision, the image size and pixel statistics noted in an adapter folder."""
    return read_json(folder / "sam_bloodcell.json")


def read_json(path: Path) -> dict[str, Any]:
    """Read the settings beside weights.

    Raises
    ------
    WeightsUnavailableError
        If the file is absent, damaged, or holds anything but a table.
    """
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsUnavailableError(f"'{path}' cannot be read: {exc}. Fix: fetch or save it again.") from exc
    if not isinstance(settings, dict):
        raise WeightsUnavailableError(f"'{path}' holds no settings. Fix: fetch or save it again.")
    return settings


def read_tensors(path: Path, *, keep_dtype: bool = False) -> dict[str, Tensor]:
    """Read a ``.pth`` or ``.safetensors`` file of tensors, as float32 unless they are to keep their type.

    Raises
    ------
    WeightsUnavailableError
        If it is absent, damaged, or holds anything but a flat table of tensors.
    """
    try:
        pickled = path.suffix == ".pth"
        state = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as exc:
        raise WeightsUnavailableError(f"'{path}' is no readable weights file: {exc}. Fix: fetch it again.") from exc
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsUnavailableError(
            f"'{path}' is no readable weights file: it holds no flat table of tensors. Fix: save the network's "
            "state_dict() alone."
        )
    return state if keep_dtype else {key: value.float() for key, value in state.items()}


def _download_command(name: str, revision: str | None) -> str:
    """Return the command that caches exactly this revision."""
    default = HUB_BACKBONES.get(name, (name, None))[1]
    return f"sam-bloodcell download {name}" + (f" --revision {revision}" if revision != default else "")


def _segment_anything_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(key.startswith("vision_encoder.") for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed
