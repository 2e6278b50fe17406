"""Tensors and JSON on disk. Nothing is unpickled: ``.pth`` files are read with ``weights_only=True``."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..exceptions import WeightsUnavailableError
from ..files import replacing


def write_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a ``.safetensors`` file, whole or not at all."""
    content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)
    with replacing(path) as draft:
        draft.write_bytes(content)


def read_tensors(path: Path, *, keep_dtype: bool = False) -> dict[str, Tensor]:
    """Read a ``.pth`` or ``.safetensors`` file of tensors, as float32 unless they are to keep their type."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Read the settings beside weights."""
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsUnavailableError(f"'{path}' cannot be read: {exc}. Fix: fetch or save it again.") from exc
    if not isinstance(settings, dict):
        raise WeightsUnavailableError(f"'{path}' holds no settings. Fix: fetch or save it again.")
    return settings
