"""The settings of a fit: our defaults for each architecture, and those of the two papers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Parameters of `CrossDomainAutoencoder` in which every "auto" has been replaced by a value.

    The exception is `epochs`: None stands for as many epochs as make `steps` optimiser steps. The fields from
    `clip_norm` on are no parameters: they are what else differs between our training (the defaults) and the papers'.
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
        """Whether the network reads pooled embeddings, or any vectors, and no token maps."""
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
# Their networks, "bc-sam" and "dorl", come with the presets alone.
PRESETS = {
    "bc-sam": Settings(
        "bc-sam", learning_rate=5e-4, batch_size=128, epochs=10, embedding_weight=0.0, alignment_weight=5.0, **_PAPERS
    ),
    "dorl": Settings("dorl", learning_rate=1e-4, batch_size=64, epochs=300, alignment_weight=2.0, **_PAPERS),
}


def resolve_settings(parameters: Mapping[str, Any]) -> Settings:
    """Replace every "auto" among the autoencoder's parameters by the preset's value, or else by our default."""
    given = {field.name: parameters.get(field.name, "auto") for field in fields(Settings)}
    given = {name: value for name, value in given.items() if value != "auto"}
    preset = parameters["preset"]
    settings = replace(PRESETS[preset] if preset else DEFAULTS[given.get("architecture", "linear")], **given)
    if settings.reads_vectors and settings.embedding_weight == 0:
        got = "Got a weight of 0 for the embedding, but this autoencoder reconstructs nothing else."
        raise ValueError(f"{got} Fix: choose another architecture, or a weight above 0.")
    if settings.architecture == "linear" and settings.alignment:
        got = f"Got alignment={settings.alignment!r} but a linear autoencoder is solved without any loss."
        raise ValueError(f"{got} Fix: architecture='vector', or alignment=None.")
    return settings


def parts_to_keep(architecture: str, preset: str | None) -> tuple[str, ...]:
    """Return what `SAMLoRAEmbedder` has to keep of every cell for this autoencoder, besides its pooled embedding.

    An unknown preset keeps nothing here; the autoencoder refuses it by its name.
    """
    preset_architecture = PRESETS[preset].architecture if preset in PRESETS else "linear"
    read = preset_architecture if architecture == "auto" else architecture
    if read in _VECTORS:
        return ()
    return ("tokens", "published_crops" if read in PRESETS else "crops")
