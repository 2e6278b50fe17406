"""Adapters on disk: a folder in PEFT's layout that also contains our decoder, or one file for workers."""

import json
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..exceptions import WeightsUnavailableError, warn_caller
from ..files import make_folder, replacing_files, write_text
from ..models.lora import Adapter
from . import hub
from .backbones import Backbone, packaged_folder
from .tensors import read_json, read_tensors, write_tensors

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "decoder.safetensors", "sam_bloodcell.json")
_PICKLED_FACTORS = "adapter_model.bin"  # PEFT's earlier format, which is still an option


def locate_adapter(source: str | os.PathLike, revision: str | None = None, **access: Any) -> Path:
    """Return the local folder of an adapter, downloaded if missing; `access` is passed to `hub.locate_folder`."""
    folder, files = Path(source), list(_ADAPTER_FILES)
    if (folder / _PICKLED_FACTORS).is_file() and not (folder / files[1]).is_file():
        files[1] = _PICKLED_FACTORS
    return hub.locate_folder(source, "adapter", files, revision, **access)


def read_adapter(
    source: str | os.PathLike, revision: str | None = None, *, backbone: Backbone | None = None
) -> Adapter:
    """Read an adapter folder (in PEFT's layout, with our decoder) from disk or the Hub.

    A warning appears if the adapter was not trained on this `backbone`.
    """
    folder = locate_adapter(source, revision)
    settings = adapter_settings(folder)
    if backbone is not None and settings.get("digest") not in (None, backbone.digest):
        warn_caller(
            f"The adapter '{source}' was trained on the weights of '{settings['backbone']}' "
            f"({settings['digest'][:12]}...) but is used with other weights, '{backbone.name}' "
            f"({str(backbone.digest)[:12]}...). Fix: pass the backbone that it was trained on."
        )
    factors = folder / _ADAPTER_FILES[1]
    mean, std = settings["pixel_stats"]
    config = read_json(folder / "adapter_config.json")
    wrong = [key for key in ("r", "lora_alpha") if not isinstance(config.get(key), int | float) or config[key] <= 0]
    if wrong or not config.get("target_modules"):
        key = (wrong or ["target_modules"])[0]
        raise WeightsUnavailableError(
            f"'{folder / 'adapter_config.json'}' has {key}={config.get(key)!r} but expected "
            f"{'a number above 0' if wrong else 'the names of layers'}. Fix: fetch or save the adapter again."
        )
    return Adapter(
        lora=read_tensors(factors if factors.is_file() else folder / _PICKLED_FACTORS),
        lora_config=config,
        decoder=read_tensors(folder / "decoder.safetensors"),
        pixel_stats=(tuple(mean), tuple(std)),
        image_size=settings["image_size"],
        source=os.fspath(source),
        prompt=settings.get("prompt"),
        pooling=settings.get("pooling"),
    )


def write_adapter(
    adapter: Adapter, folder: str | os.PathLike, backbone: Backbone, *, dtype: torch.dtype = torch.float32,
    prompt: str | None = None, pooling: str | None = None,
) -> Path:  # fmt: skip
    """Write an adapter folder that `read_adapter` and ``peft.PeftModel.from_pretrained`` read.

    `backbone` is the backbone on which the adapter was trained, and is stored as PEFT's base model. The tensors are
    stored as `dtype`. A `prompt` and a `pooling` are stored for embedders that use the adapter. The folder is created
    if it is missing, and files with the same names are replaced.
    """
    folder = make_folder(folder)
    repo, revision = backbone.resolved()
    config = adapter.lora_config | {"base_model_name_or_path": repo, "revision": revision, "inference_mode": True}
    base = {"backbone": backbone.name, "revision": revision, "digest": backbone.digest}
    settings = {"kind": "adapter", **base, "image_size": adapter.image_size, "pixel_stats": adapter.pixel_stats}
    settings |= {name: value for name, value in (("prompt", prompt), ("pooling", pooling)) if value is not None}
    with replacing_files(folder) as draft:
        for name, tensors in (("adapter_model", adapter.lora), ("decoder", adapter.decoder)):
            write_tensors({key: tensor.to(dtype) for key, tensor in tensors.items()}, draft / f"{name}.safetensors")
        write_text(draft / "adapter_config.json", json.dumps(config, indent=2) + "\n")
        write_text(draft / "sam_bloodcell.json", json.dumps(settings, indent=2) + "\n")
    return folder


def write_adapter_file(adapter: Adapter, path: str | os.PathLike) -> None:
    """Write an adapter as one ``.safetensors`` file, atomically; its settings are in the metadata."""
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
    """Return the adapter that is packaged with a backbone, or None."""
    folder = packaged_folder(name, "adapter")
    return read_adapter(folder) if folder else None


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the backbone, its revision, the image size and the pixel statistics of an adapter folder, after checks."""
    path = folder / "sam_bloodcell.json"
    settings = read_json(path)
    lacking = [name for name in ("backbone", "revision", "image_size", "pixel_stats") if name not in settings]
    if lacking or settings.get("kind", "adapter") != "adapter":
        raise WeightsUnavailableError(
            f"'{path}' has no settings of an adapter: it lacks {', '.join(lacking) or 'the kind adapter'}. "
            "Fix: fetch or save the adapter again."
        )
    try:
        mean, std = ([float(value) for value in row] for row in settings["pixel_stats"])
    except (TypeError, ValueError):
        mean = std = []
    if (len(mean), len(std)) != (3, 3) or not all(map(math.isfinite, mean)) or not all(0 < s < math.inf for s in std):
        raise WeightsUnavailableError(
            f"'{path}' has pixel_stats={settings['pixel_stats']} but expected three means and three positive "
            "standard deviations of R, G and B. Fix: fetch or save the adapter again."
        )
    return settings
