"""The settings of a fit: our defaults for each architecture, and those of the two papers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import Interval, Options, StrOptions

from ..models.alignment import ALIGNMENTS
from ..models.autoencoders import CROP_SIZES


@dataclass(frozen=True)
class Settings:
    """Parameters of `CrossDomainAutoencoder` in which every "auto" has been replaced by a value.

    The exception is `epochs`: None stands for the number of epochs that makes `steps` optimiser steps. The fields from
    `clip_norm` on are not parameters. They are the other differences between our training (the defaults) and the
    papers'.
    """

    architecture: str
    learning_rate: float = 2e-3
    batch_size: int = 256
    steps: int = 600
    embedding_weight: float = 1.0
    alignment: str | None = None
    alignment_weight: float = 1.0
    normalization: str | None = "cluster"
    crop_size: int = 32
    epochs: int | None = None
    weight_decay: float = 0.05
    warmup_steps: int = 500
    n_components: int = 50
    clip_norm: float | None = 1.0
    published_schedule: bool = False
    decay_everything: bool = False
    balanced_batches: bool = True
    padded_ssim: bool = False

    @property
    def reads_vectors(self) -> bool:
        """Whether the network reads pooled embeddings or other vectors instead of token maps."""
        return self.architecture in _VECTORS

    @property
    def by_domain(self) -> bool:
        """Whether each domain is standardised by its own statistics."""
        return self.normalization in ("cluster", "domain")


_VECTORS = ("linear", "vector")
DEFAULTS = {
    "linear": Settings("linear"),
    "vector": Settings("vector"),
    "conv": Settings("conv", learning_rate=1e-3, batch_size=128, steps=300, embedding_weight=5.0),
    "masked": Settings("masked", learning_rate=5e-4, batch_size=64, steps=300),
}
_PAPERS: dict[str, Any] = {
    "alignment": "first", "normalization": "raw", "crop_size": 128, "clip_norm": None, "published_schedule": True,
    "decay_everything": True, "balanced_batches": False, "padded_ssim": True,
}  # fmt: skip
# The papers' networks, "bc-sam" and "dorl", are only available as presets.
PRESETS = {
    "bc-sam": Settings(
        "bc-sam", learning_rate=5e-4, batch_size=128, epochs=10, embedding_weight=0.0, alignment_weight=5.0, **_PAPERS
    ),
    "dorl": Settings("dorl", learning_rate=1e-4, batch_size=64, epochs=300, alignment_weight=2.0, **_PAPERS),
}


_AUTO = StrOptions({"auto"})
# The allowed values of each parameter of `CrossDomainAutoencoder`.
CONSTRAINTS: dict[str, list[Any]] = {
    "n_components": [Interval(Integral, 1, None, closed="left")],
    "architecture": [StrOptions({"auto", *DEFAULTS})],
    "preset": [StrOptions(set(PRESETS)), None],
    "alignment": [StrOptions({"auto", *ALIGNMENTS}), None],
    "alignment_weight": [Interval(Real, 0, None, closed="left"), _AUTO],
    "normalization": [StrOptions({"auto", "cluster", "domain", "raw"}), None],
    "embedding_weight": [Interval(Real, 0, None, closed="left"), _AUTO],
    "crop_size": [Options(Integral, set(CROP_SIZES)), _AUTO],
    "epochs": [Interval(Integral, 1, None, closed="left"), _AUTO],
    "learning_rate": [Interval(Real, 0, None, closed="neither"), _AUTO],
    "weight_decay": [Interval(Real, 0, None, closed="left"), _AUTO],
    "batch_size": [Interval(Integral, 2, None, closed="left"), _AUTO],
    "warmup_steps": [Interval(Integral, 0, None, closed="left"), _AUTO],
    "patience": [Interval(Integral, 1, None, closed="left"), None],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "checkpoint": [str, os.PathLike, None],
    "device": [str],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


def resolve_settings(parameters: Mapping[str, Any]) -> Settings:
    """Replace every "auto" among the autoencoder's parameters by the preset's value or our default."""
    given = {field.name: parameters.get(field.name, "auto") for field in fields(Settings)}
    given = {name: value for name, value in given.items() if value != "auto"}
    preset = parameters["preset"]
    settings = replace(PRESETS[preset] if preset else DEFAULTS[given.get("architecture", "linear")], **given)
    _check_architecture(settings, given, preset)
    return settings


def _check_architecture(settings: Settings, given: Mapping[str, Any], preset: str | None) -> None:
    """Raise if the architecture cannot have the other settings, which are `given` or else those of the preset."""

    def told(name: str) -> str:
        source = f" (from preset={preset!r})" if preset and name not in given else ""
        return f"Got {name}={getattr(settings, name)!r}{source}"

    read = f"architecture={settings.architecture!r}"
    if settings.reads_vectors and settings.embedding_weight == 0:
        reason = f"but {read} reconstructs only the embedding, so expected a weight above 0."
        fix = "leave architecture or preset out" if preset else "architecture='conv'"
        raise ValueError(f"{told('embedding_weight')}, {reason} Fix: {fix}, or embedding_weight=1.0.")
    if settings.architecture == "linear" and settings.alignment:
        reason = f"but expected None, because {read} is solved without a loss."
        fix = "leave architecture or preset out" if preset else "architecture='vector'"
        raise ValueError(f"{told('alignment')} {reason} Fix: {fix}, or alignment=None.")


def parts_to_keep(architecture: str, preset: str | None) -> tuple[str, ...]:
    """Return the parts that `SAMLoRAEmbedder` must keep for this autoencoder, besides the pooled embedding.

    For an unknown preset there are none; the autoencoder itself raises an error that names it.
    """
    preset_architecture = PRESETS[preset].architecture if preset in PRESETS else "linear"
    read = preset_architecture if architecture == "auto" else architecture
    if read in _VECTORS:
        return ()
    return ("tokens", "published_crops" if read in PRESETS else "crops")
