"""Weights of plain ViTs, such as DINOv2 and DinoBloom: the name of a backbone, its file and its network."""

import re
from pathlib import Path
from typing import Any

import torch

from ..exceptions import WeightsUnavailableError
from ..models.sam import differences, is_cellpose, own_size
from ..models.sam_tokens import AnyViT, SAMTokens
from ..models.vit import ViT, ViTLayout
from . import hub
from .backbones import (
    CELLPOSE,
    HUB_BACKBONES,
    MODEL_FILES,
    WEIGHT_SUFFIXES,
    Backbone,
    cellpose_names,
    check_digest,
    fill_sam,
    locate_backbone,
    model_file,
    warn_of_licence,
)
from .tensors import read_json, read_tensors
from .vit_names import dinov2_names

# A repo on the Hub and, if it has several files, one of them: MarrLab/DinoBloom/pytorch_model_s.bin.
_ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+))?")

# Repos with a file for each size of network, and one of these files.
_ONE_OF_SEVERAL = {"MarrLab/DinoBloom": "pytorch_model_s.bin"}


def identify_vit(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Backbone:
    """Download a ViT if it is missing, and return it with its commit on the Hub and its digest."""
    path = locate_vit(backbone, token=token, local_files_only=local_files_only)
    return Backbone(backbone.name, hub.commit_of(path) or backbone.revision, hub.digest_of(path))


def load_vit(backbone: Backbone) -> AnyViT:
    """Load a ViT, in float32 and ready for inference, with the layout of its file.

    A file with another digest than the backbone's is refused. From Cellpose-SAM, only the encoder is loaded.
    """
    path = locate_vit(backbone)
    check_digest(backbone, path)
    tensors = cellpose_names(read_tensors(path))
    if is_cellpose(tensors):
        warn_of_licence(backbone)
        return SAMTokens(fill_sam(backbone, tensors, own_size(tensors))).eval()
    try:
        state, layout = dinov2_names(tensors)
        with torch.device("meta"):
            vit = ViT(layout)
        wrong = differences(state, {key: tuple(value.shape) for key, value in vit.state_dict().items()})
        if wrong:
            more = [f"and {len(wrong) - 10} more"] if len(wrong) > 10 else []
            raise ValueError("The file does not fit this ViT:\n  " + "\n  ".join(wrong[:10] + more))
        _check_config(path.with_name("config.json"), layout)
    except ValueError as exc:
        raise ValueError(f"The weights of backbone={backbone.name!r} cannot be used. {exc}") from exc
    vit.load_state_dict(state, assign=True)
    return vit.eval().requires_grad_(False)


def locate_vit(backbone: Backbone, *, token: str | None = None, local_files_only: bool = False) -> Path:
    """Return the path of the weights file; if it is missing, download it from the Hub into the Hub's cache.

    The name of the backbone is a folder, a file, a Hub repo id (owner/name), or a file in such a repo
    (owner/name/file).
    """
    path = Path(backbone.name)
    if path.is_file():
        return path
    if CELLPOSE.fullmatch(backbone.name) and not path.exists():
        return locate_backbone(backbone, token=token, local_files_only=local_files_only)
    if path.is_dir() and (file := model_file(path)):
        return file
    match = _ON_HUB.fullmatch(backbone.name)
    names_a_file = path.suffix in WEIGHT_SUFFIXES
    if match is None or path.exists() or bool(match[2]) != names_a_file or backbone.name in _ONE_OF_SEVERAL:
        raise ValueError(_unknown(backbone.name))
    if match[2] and Path(path.parts[0]).is_dir():  # a path that begins with an existing folder
        raise ValueError(_unknown(backbone.name))
    repo, name = match.groups()
    access: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
    if name:  # so that the command in an error downloads no other size
        access["command"] = f"hf download {repo} {name}"
        access["command"] += f" --revision {backbone.revision}" if backbone.revision else ""
    return hub.fetch_first(repo, [name] if name else MODEL_FILES, backbone.revision, **access)


def is_vit(name: str, *, with_adapter: bool = False) -> bool:
    """Return whether a backbone is for `ViTEmbedder`; a file on the Hub is downloaded if it is missing.

    These backbones are plain ViTs, and Cellpose-SAM unless an adapter has the decoder that it lacks. The result is
    False if the backbone cannot be found or read. Loading it as Segment Anything then raises an error with the reason.
    """
    if name == "vit_tiny" or name in HUB_BACKBONES:
        return False
    try:
        path = locate_vit(Backbone(name))
        if not Path(name).exists() and name.count("/") > 1 and not CELLPOSE.fullmatch(name):  # a file in a Hub repo
            return True
        state = cellpose_names(read_tensors(path, keep_dtype=True))
    except (WeightsUnavailableError, ValueError):
        if name in _ONE_OF_SEVERAL:
            raise
        return False
    return not with_adapter if is_cellpose(state) else any(key.endswith("cls_token") for key in state)


def _check_config(path: Path, layout: ViTLayout) -> None:
    """Raise if transformers' settings next to the weights differ from the layout in a property that no tensor has."""
    told = read_json(path) if path.is_file() else {}
    activation = "silu" if layout.swiglu and not layout.grid else "gelu"  # DINOv2's settings never name that of SwiGLU
    expected = {"num_attention_heads": layout.heads, "hidden_act": activation, "layer_norm_eps": layout.eps}
    for name, value in expected.items():
        if told.get(name, value) != value:
            raise ValueError(
                f"'{path}' has {name}={told[name]!r} but expected {value!r} for a ViT with these weights. Fix: "
                "pass another backbone."
            )


def _unknown(name: str) -> str:
    """Return an error message that lists the possible backbones."""
    fix = "check the spelling or the path."
    if name == "vit_tiny" or name in HUB_BACKBONES:
        fix = "for Segment Anything, use SAMLoRAEmbedder."
    if name in _ONE_OF_SEVERAL:
        fix = f"pass one of its files, such as {name}/{_ONE_OF_SEVERAL[name]}."
    return (
        f"Got backbone={name!r} but expected a Hub repo id (facebook/dinov2-small), a file in a Hub repo "
        "(MarrLab/DinoBloom/pytorch_model_s.bin), or an existing file of weights "
        f"({', '.join(WEIGHT_SUFFIXES)}) or a folder with {' or '.join(MODEL_FILES)}. Fix: {fix}"
    )
