"""Stage 2: cells as batches, the network that reconstructs them from a few features, and its loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.alignment import ALIGNMENTS
from ..models.autoencoders import ConvAutoencoder, MaskedAutoencoder, Reconstruction, VectorAutoencoder
from ..models.losses import ssim
from .domains import DomainScaler

CHUNK = 256  # rows that are read and encoded at a time


@dataclass(frozen=True)
class Settings:
    """Parameters of `CrossDomainAutoencoder`, nothing left "auto" but `epochs`: then so many as make `steps`."""

    architecture: str
    alignment: str | None
    alignment_weight: float
    normalization: str | None
    embedding_weight: float
    learning_rate: float
    batch_size: int
    crop_size: int = 32
    epochs: int | None = None
    steps: int = 600
    weight_decay: float = 0.05
    warmup_steps: int = 500
    n_components: int = 50


OURS = {
    "vector": Settings("vector", None, 1.0, "cluster", 1.0, 2e-3, 256),
    "conv": Settings("conv", None, 1.0, "cluster", 5.0, 1e-3, 128, steps=300),
    "masked": Settings("masked", None, 1.0, "cluster", 1.0, 5e-4, 64, steps=300),
}
PRESETS = {
    "bc-sam": Settings("conv", "mean", 5.0, None, 0.0, 5e-4, 128, crop_size=128, epochs=10),
    "dorl": Settings("masked", "mean", 2.0, None, 1.0, 1e-4, 64, crop_size=128, epochs=300),
}


class Batch(NamedTuple):
    """What a training step looks at."""

    inputs: Tensor  # BxC or BxCxhxw, scaled
    pooled: Tensor  # BxC, scaled
    crops: Tensor | None  # Bx3xSxS in [0, 1]
    codes: Tensor  # B, the laboratory's number, -1 unknown


class Cells:
    """Rows of X as a network takes them, read and scaled a few at a time so that they may lie on disk."""

    def __init__(self, inputs: NDArray, pooled: NDArray, crops: NDArray | None, crop_size: int) -> None:
        self.inputs, self.pooled, self.crops, self.crop_size = inputs, pooled, crops, crop_size
        self.domain: NDArray | None = None  # to scale by
        self.codes = np.full(len(inputs), -1)  # of the laboratory, to align; -1 unknown
        self.scaler = DomainScaler()

    def __len__(self) -> int:
        return len(self.inputs)

    def chunks(self) -> Iterator[slice]:
        """Rows in order, a few at a time."""
        return (slice(start, start + CHUNK) for start in range(0, len(self), CHUNK))

    def domain_of(self, rows: Any) -> NDArray | None:
        """Laboratories of these rows."""
        return None if self.domain is None else self.domain[rows]

    def scaled(self, rows: Any) -> NDArray[np.float32]:
        """Return the inputs of these rows."""
        return self.scaler.scale(self.inputs[rows], self.domain_of(rows))

    def batch(self, rows: NDArray, device: torch.device) -> Batch:
        """All that a training step looks at."""
        inputs = torch.from_numpy(self.scaled(rows)).to(device)
        if self.inputs is self.pooled:
            pooled = inputs
        else:
            pooled = torch.from_numpy(self.scaler.scale(self.pooled[rows], self.domain_of(rows))).to(device)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        crops = None
        if self.crops is not None:
            small = _shrink(self.crops[rows], self.crop_size)
            crops = torch.from_numpy(small).to(device).movedim(-1, 1).float() / 255
        return Batch(inputs, pooled, crops, torch.from_numpy(self.codes[rows]).to(device))


def build_network(settings: Settings, width: int) -> nn.Module:
    """Make the network of an architecture for inputs of this width, untrained."""
    if settings.architecture == "vector":
        return VectorAutoencoder(width, settings.n_components)
    if settings.architecture == "masked":
        return MaskedAutoencoder(width, settings.n_components, settings.crop_size)
    network = ConvAutoencoder(width, settings.n_components, settings.crop_size, settings.embedding_weight > 0)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs


def ready(network: nn.Module) -> nn.Module:
    """Make a network ready for inference: an MLP in float64, where a row's features do not depend on its neighbours."""
    network.eval()
    return network.double() if isinstance(network, VectorAutoencoder) else network


def loss_terms(network: nn.Module, batch: Batch, settings: Settings) -> dict[str, Tensor]:
    """Return the loss of a batch, and what it is made of, by name."""
    made: Reconstruction = network(batch.inputs)
    parts = {}
    if made.crops is not None and batch.crops is not None:
        parts["crops"] = 1 - ssim(made.crops, batch.crops)
    if made.embedding is not None:
        target = batch.pooled if made.embedding.ndim == 2 else batch.inputs
        error = (made.embedding.float() - target).square().mean(1)
        parts["embedding"] = (error if made.hidden is None else error[made.hidden]).mean()
    weights = {"crops": 1.0, "embedding": settings.embedding_weight}
    reconstruction = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    terms = {"loss": reconstruction, "reconstruction": reconstruction}
    if settings.alignment:
        terms["alignment"] = ALIGNMENTS[settings.alignment](made.features.float(), batch.codes)
        terms["loss"] = reconstruction + settings.alignment_weight * terms["alignment"]
    return terms | parts if len(parts) > 1 else terms


def split_rows(rows: NDArray) -> list[NDArray]:
    """Cut rows into pieces that are read at a time."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def _shrink(crops: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Average (n, S, S, 3) crops down to (n, size, size, 3), S a multiple of size."""
    n, side = crops.shape[:2]
    factor = side // size
    if factor == 1:
        return np.array(crops)
    blocks = crops.reshape(n, size, factor, size, factor, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)
