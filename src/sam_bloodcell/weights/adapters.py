"""Adapters on disk: a folder in PEFT's layout with our decoder beside it, or one file that travels to workers."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..exceptions import WeightsUnavailableError
from ..files import make_folder, write_text
from ..models.lora import Adapter
from . import hub
from .backbones import Backbone, packaged_folder
from .tensors import read_json, read_tensors, write_tensors

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "decoder.safetensors", "sam_bloodcell.json")


def locate_adapter(source: str | os.PathLike, revision: str | None = None, **access: Any) -> Path:
    """Return the local folder of an adapter, fetched if need be; `access` is handed on to `hub.locate_folder`."""
    return hub.locate_folder(source, "adapter", _ADAPTER_FILES, revision, **access)


def read_adapter(source: str | os.PathLike, revision: str | None = None) -> Adapter:
    """Read an adapter folder (PEFT's layout, our decoder beside it) from disk or the Hub."""
    folder = locate_adapter(source, revision)
    settings = adapter_settings(folder)
    mean, std = settings["pixel_stats"]
    return Adapter(
        lora=read_tensors(folder / "adapter_model.safetensors"),
        lora_config=read_json(folder / "adapter_config.json"),
        decoder=read_tensors(folder / "decoder.safetensors"),
        pixel_stats=(tuple(mean), tuple(std)),
        image_size=settings["image_size"],
    )


def write_adapter(
    adapter: Adapter, folder: str | os.PathLike, backbone: Backbone, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write an adapter folder that `read_adapter` and ``peft.PeftModel.from_pretrained`` read.

    The backbone is what the adapter was trained on, and is filled in as PEFT's base model. The tensors are stored as
    `dtype`. The folder is made if need be; files of the same names are replaced.
    """
    folder = make_folder(folder)
    repo, revision = backbone.resolved()
    config = adapter.lora_config | {"base_model_name_or_path": repo, "revision": revision, "inference_mode": True}
    base = {"backbone": backbone.name, "revision": revision, "digest": backbone.digest}
    settings = {"kind": "adapter", **base, "image_size": adapter.image_size, "pixel_stats": adapter.pixel_stats}
    for name, tensors in (("adapter_model", adapter.lora), ("decoder", adapter.decoder)):
        write_tensors({key: tensor.to(dtype) for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "sam_bloodcell.json", json.dumps(settings, indent=2) + "\n")
    return folder


def write_adapter_file(adapter: Adapter, path: str | os.PathLike) -> None:
    """Write an adapter as one ``.safetensors`` file, whole or not at all; its settings are in the metadata."""
    head = {"lora_config": adapter.lora_config, "pixel_stats": adapter.pixel_stats, "image_size": adapter.image_size}
    tensors = {f"lora/{key}": tensor for key, tensor in adapter.lora.items()}
    tensors |= {f"decoder/{key}": tensor for key, tensor in adapter.decoder.items()}
    write_tensors(tensors, Path(path), metadata={"adapter": json.dumps(head)})


def read_adapter_file(path: str | os.PathLike) -> Adapter:
    """Read the file that `write_adapter_file` wrote."""
    try:
        with safe_open(path, "pt") as file:
            head = json.loads(file.metadata()["adapter"])
        lora_config, (mean, std), image_size = head["lora_config"], head["pixel_stats"], head["image_size"]
    except (SafetensorError, ValueError, LookupError, TypeError) as exc:
        raise WeightsUnavailableError(f"The adapter's file '{path}' is damaged: {exc}. Fix: delete it.") from exc
    tensors = read_tensors(Path(path), keep_dtype=True)
    lora, decoder = (
        {key.removeprefix(part): tensor for key, tensor in tensors.items() if key.startswith(part)}
        for part in ("lora/", "decoder/")
    )
    return Adapter(lora, lora_config, decoder, (tuple(mean), tuple(std)), image_size)


@cache
def packaged_adapter(name: str) -> Adapter | None:
    """Return the adapter that ships with a backbone, if one does."""
    folder = packaged_folder(name, "adapter")
    return read_adapter(folder) if folder else None


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the backbone, its revision, the image size and pixel statistics noted in an adapter folder."""
    return read_json(folder / "sam_bloodcell.json")
