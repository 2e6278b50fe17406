"""Tensors and JSON on disk. Nothing is unpickled; files of ``torch.save`` are read with ``weights_only=True``."""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..exceptions import WeightsUnavailableError
from ..files import replacing

# Names under which training programs store the network's state, next to that of the optimiser and others.
_NETWORK_STATES = ("model_state", "model_state_dict", "state_dict", "model", "teacher")
# Parts of names that wrappers of a network add: DataParallel and torch.compile.
_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")


def write_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a ``.safetensors`` file atomically."""
    content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)
    with replacing(path) as draft:
        draft.write_bytes(content)


def read_tensors(path: Path, *, keep_dtype: bool = False) -> dict[str, Tensor]:
    """Read a file of tensors that safetensors or ``torch.save`` wrote, recognised by its content.

    From the checkpoint of a training, the state of the network is read. The tensors are returned without gradients, on
    the CPU, and as float32 unless they keep their type. NaN and infinite values are refused.
    """
    state = _network_state(_load(path))
    if state is None:
        raise WeightsUnavailableError(
            f"'{path}' is not a readable weights file: it contains no flat table of tensors. Fix: save only the "
            "network's state_dict()."
        )
    tensors = {key: value.detach() if keep_dtype else value.detach().float() for key, value in state.items()}
    damaged = [key for key, value in tensors.items() if not value.isfinite().all()]
    if damaged:
        raise WeightsUnavailableError(
            f"'{path}' holds NaN or infinite numbers in {len(damaged)} of {len(tensors)} tensors, the first: "
            f"{damaged[0]}. Fix: fetch it again, or train it again with a lower learning rate."
        )
    return tensors


def without_prefix(state: Mapping[str, Tensor], *, marks: tuple[str, ...]) -> dict[str, Tensor]:
    """Remove prefixes that a wrapper or a larger network added to names, such as ``module.`` or ``sam.``.

    A prefix is anything before a name in `marks`. Names are not changed if two of them would become equal.
    """
    bare = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    if len(bare) < len(state):
        return dict(state)
    found = [key[: -len(mark)] for key in bare for mark in marks if key == mark or key.endswith(f".{mark}")]
    prefix = min(found, key=len, default="")
    short = {key.removeprefix(prefix): value for key, value in bare.items()}
    return bare if len(short) < len(bare) else short


def read_json(path: Path) -> dict[str, Any]:
    """Read the settings next to weights."""
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsUnavailableError(f"'{path}' cannot be read: {exc}. Fix: fetch or save it again.") from exc
    if not isinstance(settings, dict):
        raise WeightsUnavailableError(f"'{path}' holds no settings. Fix: fetch or save it again.")
    return settings


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(9)
            # A safetensors file begins with the length of its header in 8 bytes, and the header is a JSON object.
            if start[8:] == b"{":
                return load_file(path)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)  # with a path, torch would use the suffix
    except pickle.UnpicklingError as exc:
        raise WeightsUnavailableError(f"'{path}' is not a readable weights file: {_refusal(exc, start)}") from exc
    except Exception as exc:  # both readers may raise nearly anything for a damaged file
        raise WeightsUnavailableError(
            f"'{path}' is not a readable weights file: {exc!s:.200}. Fix: fetch it again."
        ) from exc


def _refusal(exc: Exception, start: bytes) -> str:
    """Describe what torch's reader found, because its own message advises to unpickle."""
    needed = re.search(r"GLOBAL ([\w.]+)", str(exc))
    if needed is None:
        return f"neither safetensors nor torch.save wrote it whole; it begins with {start!r}. Fix: fetch it again."
    return (
        f"besides tensors it contains Python objects ({needed[1]}), which could run any code and are not read. Fix: if "
        "you trust its author, load it with torch.load(..., weights_only=False) and save its state_dict() alone."
    )


def _network_state(content: Any) -> Mapping[str, Tensor] | None:
    """Return the flat table of tensors in the content of a file, or None."""
    while isinstance(content, Mapping):
        if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
            return content
        content = next((content[name] for name in _NETWORK_STATES if isinstance(content.get(name), Mapping)), None)
    return None
