"""LoRA on the query and value projections of SAM's encoder, with unmodified PEFT.

SAM computes query, key and value in one linear layer, and PEFT cannot adapt a part of a layer. `split_qkv` splits the
layer for training, and `fuse_qkv` fuses it again for inference.
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..exceptions import warn_caller
from .sam import SAM, differences

_DECODER_PREFIXES = ("prompt_encoder.", "mask_decoder.")


@dataclass(eq=False)
class Adapter:
    """The result of segmentation training: everything except the frozen base weights."""

    lora: dict[str, Tensor]  # PEFT's own adapter state; empty if no LoRA was trained
    lora_config: dict[str, Any]  # PEFT's LoraConfig as JSON-ready values
    decoder: dict[str, Tensor]  # prompt encoder and mask decoder, in segment-anything's names
    pixel_stats: tuple[tuple[float, ...], tuple[float, ...]]  # means and standard deviations of R, G, B in 0-255 units
    image_size: int  # side of the training images in pixels
    source: str = ""  # the source from which it was read, for messages
    # Settings of the embedder that saved it, where they were not the defaults. They are not part of the digest, since
    # the weights are the same.
    prompt: str | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        self.lora, self.decoder = _plain(self.lora), _plain(self.decoder)

    def digest(self) -> str:
        """Return the SHA-256 of the contents, which is computed once because adapters are replaced, not changed."""
        if self not in _digests:
            head = json.dumps([self.lora_config, self.pixel_stats, self.image_size], sort_keys=True)
            digest = hashlib.sha256(head.encode())
            for key, tensor in [*sorted(self.lora.items()), *sorted(self.decoder.items())]:
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.numpy().tobytes())
            _digests[self] = digest.hexdigest()
        return _digests[self]

    def packed(self) -> dict[str, Any]:
        """Return the adapter as plain values and numpy arrays."""
        arrays = {name: {key: t.numpy() for key, t in getattr(self, name).items()} for name in ("lora", "decoder")}
        return {**vars(self), **arrays}

    @classmethod
    def unpacked(cls, values: dict[str, Any]) -> "Adapter":
        """Undo `packed`."""
        lora, decoder = (
            {key: torch.from_numpy(array.copy()) for key, array in values[name].items()} for name in ("lora", "decoder")
        )
        return cls(**values | {"lora": lora, "decoder": decoder})


_digests: WeakKeyDictionary[Adapter, str] = WeakKeyDictionary()


class SplitQKV(nn.Module):
    """Replacement for SAM's fused projection: three linear layers with concatenated outputs."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        for name, weight, bias in zip("qkv", fused.weight.chunk(3), fused.bias.chunk(3), strict=True):
            part = nn.Linear(fused.in_features, fused.out_features // 3, device="meta")
            part.weight = nn.Parameter(weight.detach().clone())
            part.bias = nn.Parameter(bias.detach().clone())
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Project ...xC to ...x3C, query first."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    def fused(self) -> nn.Linear:
        """Return the single linear layer that computes the same."""
        parts = [self.q, self.k, self.v]
        layer = nn.Linear(self.q.in_features, 3 * self.q.out_features, device="meta")
        layer.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        layer.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))
        return layer


def split_qkv(encoder: Any) -> None:
    """Split every block's fused projection, in place."""
    for block in encoder.blocks:
        block.attn.qkv = SplitQKV(block.attn.qkv)


def fuse_qkv(encoder: Any) -> None:
    """Fuse every block's projection again, in place."""
    for block in encoder.blocks:
        block.attn.qkv = block.attn.qkv.fused()


def lora_config(
    rank: int, *, alpha: float | None = None, dropout: float = 0.0, blocks: Sequence[int] | None = None
) -> Any:
    """Return the ``peft.LoraConfig`` of factors on q and v; parameters as in `add_lora`."""
    if blocks is not None and not len(blocks):
        raise ValueError("Got blocks=[] but expected at least one block number. Fix: blocks=None adapts all.")
    adapted = r"\d+" if blocks is None else "|".join(str(int(block)) for block in blocks)
    return _peft().LoraConfig(
        r=int(rank),  # numpy's own numbers cannot be written as JSON
        lora_alpha=int(rank) if alpha is None else np.asarray(alpha).item(),
        lora_dropout=float(dropout),
        target_modules=rf".*blocks\.({adapted})\.attn\.qkv\.(q|v)",
        bias="none",
    )


def add_lora(
    sam: SAM, rank: int = 4, *, alpha: float | None = None, dropout: float = 0.0, blocks: Sequence[int] | None = None
) -> Any:
    """Freeze the encoder and return it as a ``peft.PeftModel`` with trainable LoRA factors on q and v.

    Only the blocks in `blocks` are adapted, by default all. `sam` is changed in place, and its decoder stays trainable.
    The product of the factors is scaled by alpha / rank. By default, alpha is the rank, which is the papers' scaling of
    1.
    """
    _check_blocks(sam, blocks)
    config = lora_config(rank, alpha=alpha, dropout=dropout, blocks=blocks)
    split_qkv(sam.image_encoder)
    return _peft().get_peft_model(sam.image_encoder, config)


def extract_adapter(sam: SAM, peft_model: Any, pixel_stats: tuple[tuple[float, ...], tuple[float, ...]]) -> Adapter:
    """Return copies of the trained parts on the CPU."""
    return Adapter(
        lora=_on_cpu(_peft().get_peft_model_state_dict(peft_model)),
        lora_config=config_values(peft_model.peft_config["default"]),
        decoder=_on_cpu({key: value for key, value in sam.state_dict().items() if key.startswith(_DECODER_PREFIXES)}),
        pixel_stats=pixel_stats,
        image_size=sam.image_size,
    )


def config_values(config: Any) -> dict[str, Any]:
    """Return a ``peft.LoraConfig`` as JSON-ready values."""
    return json.loads(json.dumps(config.to_dict(), default=sorted))


def resume_adapter(
    sam: SAM, adapter: Adapter, rank: int = 4, *, alpha: float | None = None, dropout: float = 0.0,
    blocks: Sequence[int] | None = None,
) -> Any:  # fmt: skip
    """Start training from an adapter: its decoder, and its LoRA factors if they have this rank in these blocks.

    Return the encoder as `add_lora` does. The factors keep the adapter's configuration, including its alpha. With
    another `alpha`, they are rescaled, so that the output of the network does not change. If the rank or the blocks
    differ, the factors are initialised from scratch, with a warning.
    """
    _check_blocks(sam, blocks)
    _load_decoder(sam, adapter)
    if not adapter.lora:
        return add_lora(sam, rank, alpha=alpha, dropout=dropout, blocks=blocks)
    _check_lora(sam, adapter)
    found = {int(match[1]) for key in adapter.lora if (match := re.search(r"\bblocks\.(\d+)\.", key))}
    wanted = set(range(sam.size.depth)) if blocks is None else {int(block) for block in blocks}
    own_rank = _own_config(adapter).r
    if (own_rank, found) != (rank, wanted):
        warn_caller(
            f"The LoRA factors start fresh: those of the adapter{_named(adapter)} have rank {own_rank} in blocks "
            f"{sorted(found)}, but the training asks for rank {rank} in blocks {sorted(wanted)}. Fix: to train them "
            "further, ask for the adapter's rank and blocks."
        )
        return add_lora(sam, rank, alpha=alpha, dropout=dropout, blocks=blocks)
    adapter = adapter if alpha is None else _with_alpha(adapter, alpha)
    return _put_lora(sam, adapter, lora_dropout=dropout)


def apply_adapter(sam: SAM, adapter: Adapter) -> None:
    """Merge an adapter into plain SAM of the same size, in place; the result runs as fast as plain SAM."""
    _load_decoder(sam, adapter)
    if not adapter.lora:
        return
    _check_lora(sam, adapter)
    sam.image_encoder = _put_lora(sam, adapter).merge_and_unload()
    fuse_qkv(sam.image_encoder)


def _load_decoder(sam: SAM, adapter: Adapter) -> None:
    shapes = {key: value.shape for key, value in sam.state_dict().items() if key.startswith(_DECODER_PREFIXES)}
    wrong = differences(adapter.decoder, shapes)
    if wrong:
        raise ValueError(
            f"The decoder of the adapter{_named(adapter)} is incomplete or of another network; {len(wrong)} of "
            f"{len(shapes)} tensors differ, the first: {'; '.join(wrong[:3])}. Fix: fetch or save it again, whole."
        )
    sam.load_state_dict(adapter.decoder, strict=False)


def _put_lora(sam: SAM, adapter: Adapter, **changes: Any) -> Any:
    """Add an adapter's factors to the encoder, in place, and return it as a ``peft.PeftModel``."""
    split_qkv(sam.image_encoder)
    model = _peft().get_peft_model(sam.image_encoder, _own_config(adapter, **changes))
    _peft().set_peft_model_state_dict(model, adapter.lora)
    return model


def _check_lora(sam: SAM, adapter: Adapter) -> None:
    """Raise unless an adapter's factors are those that its configuration defines for such an encoder."""
    with torch.device("meta"):
        encoder = SAM(sam.size, sam.image_size).image_encoder
        split_qkv(encoder)
        try:
            model = _peft().get_peft_model(encoder, _own_config(adapter, init_lora_weights=True))
        except ValueError as exc:
            raise ValueError(
                f"The LoRA adapter{_named(adapter)} cannot be put on SAM's encoder: {exc} Fix: pass one of "
                "linear layers in the encoder's blocks, with separate query, key and value (attn.qkv.q, .k and .v)."
            ) from exc
        shapes = {key: value.shape for key, value in _peft().get_peft_model_state_dict(model).items()}
    wrong = differences(adapter.lora, shapes)
    unknown = [key for key in adapter.lora if key not in shapes]
    missing = [key for key in shapes if key not in adapter.lora]
    if len(wrong) > len(unknown) + len(missing):
        raise ValueError(
            f"The LoRA adapter{_named(adapter)} does not fit an encoder {sam.size.width} wide with {sam.size.depth} "
            f"blocks. Fix: pass the backbone that it was trained on. The first difference: {wrong[-1]}."
        )
    if unknown:
        raise ValueError(
            f"The LoRA adapter{_named(adapter)} has keys that this encoder lacks: {unknown[:5]}. Fix: pass the "
            "backbone that it was trained on, and the adapter_config.json that was saved with it."
        )
    if missing:
        raise ValueError(
            f"The LoRA adapter{_named(adapter)} is incomplete: it lacks {len(missing)} of {len(shapes)} tensors, the "
            f"first: {missing[0]}. Fix: fetch or save it again, whole."
        )


def _check_blocks(sam: SAM, blocks: Sequence[int] | None) -> None:
    outside = [] if blocks is None else [block for block in blocks if block not in range(sam.size.depth)]
    if outside:
        raise ValueError(
            f"Got {', '.join(map(str, outside))} among blocks but expected numbers from 0 to {sam.size.depth - 1}: "
            f"the encoder has {sam.size.depth} blocks. Fix: leave them out."
        )


def _with_alpha(adapter: Adapter, alpha: float) -> Adapter:
    """Return an adapter that computes the same with another alpha, by rescaling its factors B."""
    own = _own_config(adapter)
    ratio = alpha / own.lora_alpha
    pattern = {part: value * ratio for part, value in (own.alpha_pattern or {}).items()}
    lora = {key: value / ratio if ".lora_B." in key else value for key, value in adapter.lora.items()}
    return replace(
        adapter, lora=lora, lora_config=adapter.lora_config | {"lora_alpha": alpha, "alpha_pattern": pattern}
    )


def _named(adapter: Adapter) -> str:
    return f" '{adapter.source}'" if adapter.source else ""


def _own_config(adapter: Adapter, **changes: Any) -> Any:
    """Return the ``peft.LoraConfig`` that an adapter was saved with, without the source of its base and its task."""
    kind = adapter.lora_config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(
            f"The adapter{_named(adapter)} is of the type {kind} but expected LORA. Fix: pass a LoRA adapter."
        )
    elsewhere = {"base_model_name_or_path": None, "task_type": None, "inference_mode": False}
    return _peft().LoraConfig(**_known_to_peft(adapter.lora_config) | elsewhere | changes)


def _known_to_peft(lora_config: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings of a newer PEFT that the installed PEFT does not know; raise if one is switched on."""
    known = {field.name for field in fields(_peft().LoraConfig)}
    unknown = {key: value for key, value in lora_config.items() if key not in known and key != "peft_version"}
    # A number is only a parameter of a feature that another key switches on.
    switched_on = [
        key for key, value in unknown.items() if value and (value is True or not isinstance(value, int | float))
    ]
    if switched_on:
        raise ValueError(
            f"The adapter uses {', '.join(switched_on)}, which the installed PEFT does not know. "
            "Fix: pip install --upgrade peft."
        )
    return {key: value for key, value in lora_config.items() if key in known}


@cache
def _peft() -> ModuleType:
    """Import PEFT; hide a torchvision that cannot be imported, because PEFT's own imports would fail with it."""
    broken = False
    if "peft" not in sys.modules and find_spec("torchvision") is not None:
        try:
            import_module("torchvision")
        except Exception:  # a mismatched build may raise anything
            broken = True
            sys.modules["torchvision"] = None  # type: ignore[assignment]
    if sys.flags.optimize > 1 and "peft" not in sys.modules:
        _let_transformers_do_without_docstrings()
    try:
        import peft
    finally:
        if broken:
            del sys.modules["torchvision"]
    return peft


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that numpy can read; files may also contain parameters of a network, half floats and views."""
    return {
        key: (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().contiguous()
        for key, value in state.items()
    }


def _let_transformers_do_without_docstrings() -> None:
    """Switch off the completion of docstrings in transformers, which PEFT imports; it fails under ``python -OO``."""

    def unchanged(thing: Any = None, **_: Any) -> Any:
        return unchanged if thing is None else thing

    utils: Any = import_module("transformers.utils")
    utils.auto_docstring = unchanged


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in state.items()}
