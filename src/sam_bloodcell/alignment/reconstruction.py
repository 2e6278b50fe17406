"""Training a network to reconstruct cells from a few features: its inputs, the network, its loss, its batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor, nn

from ..images.collections import name_rows
from ..models import devices
from ..models.alignment import ALIGNMENTS
from ..models.autoencoders import ConvAutoencoder, MaskedAutoencoder, Reconstruction, VectorAutoencoder
from ..models.isolation import own_settings
from ..models.losses import ssim
from ..models.training import TrainingPlan, Validation, train
from .normalization import DomainScaler, known_domains
from .settings import Settings

_CHUNK = 256  # rows that are read and encoded at a time


class ReconstructionBatch(NamedTuple):
    """What a training step needs of a few cells."""

    inputs: Tensor  # BxC or BxCxhxw, scaled
    pooled: Tensor  # BxC, scaled
    crops: Tensor | None  # Bx3xSxS in [0, 1]
    codes: Tensor  # B, the number of the domain, -1 unknown


@dataclass
class NetworkInputs:
    """The inputs of n cells, with the statistics to scale them by."""

    unscaled: NDArray  # (n, C) or (n, C, h, w): the network encodes it once it is scaled
    pooled: NDArray  # (n, C), unscaled
    crops: NDArray[np.uint8] | None  # (n, S, S, 3)
    crop_size: int  # side in pixels to which a batch's crops are averaged down; S is a multiple of it
    domain: NDArray | None  # (n,), None in rows whose domain is unknown

    def __post_init__(self) -> None:
        self.codes = np.full(len(self), -1) if self.domain is None else pd.factorize(self.domain, sort=True)[0]
        self.scaler = DomainScaler()

    def __len__(self) -> int:
        return len(self.unscaled)

    def chunks(self) -> Iterator[slice]:
        """Rows in order, a few at a time: the inputs may lie on disk."""
        return gen_batches(len(self), _CHUNK)

    def scale_by(self, scaler: DomainScaler, *, by_domain: bool) -> None:
        """Set the statistics to scale by; domains that `scaler` does not know get those of their rows here.

        With `by_domain=False` all rows are scaled alike, and `domain` is forgotten; the codes stay.
        """
        self.scaler = scaler
        if not by_domain:
            self.domain = None
        elif self.domain is not None and not set(known_domains(self.domain).tolist()) <= scaler.statistics.keys():
            self.scaler = scaler.including((self.read(rows), self.domain[rows]) for rows in self.chunks())

    def read(self, rows: Any) -> NDArray:
        """Return the unscaled inputs of these rows, or raise an error that names those that are not finite."""
        values = self.unscaled[rows]
        refuse_not_finite(values, np.arange(len(self))[rows])
        return values

    def scaled(self, rows: Any) -> NDArray[np.float32]:
        """Return what the network encodes of these rows."""
        return self.scaler.scale(self.read(rows), self.domain_of(rows))

    def batch(self, rows: NDArray, device: torch.device) -> ReconstructionBatch:
        """Return all that a training step needs of these rows."""
        inputs = torch.from_numpy(self.scaled(rows)).to(device)
        if self.unscaled is self.pooled:
            pooled = inputs
        else:
            pooled = torch.from_numpy(self.scaler.scale(self.pooled[rows], self.domain_of(rows))).to(device)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        crops = None
        if self.crops is not None:
            # Every pixel of a small crop is the mean of a block of factor x factor pixels.
            factor = self.crops.shape[1] // self.crop_size
            blocks = self.crops[rows].reshape(-1, self.crop_size, factor, self.crop_size, factor, 3)
            small = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
            crops = torch.from_numpy(small).to(device).movedim(-1, 1).float() / 255
        return ReconstructionBatch(inputs, pooled, crops, torch.from_numpy(self.codes[rows]).to(device))

    def domain_of(self, rows: Any) -> NDArray | None:
        """Return the domain of these rows, where it is known."""
        return None if self.domain is None else self.domain[rows]


def refuse_not_finite(values: NDArray, rows: NDArray[np.intp]) -> None:
    """Raise a ValueError where values (k, ...) hold NaN or infinity; `rows` (k,) are their numbers in X."""
    wrong = rows[~np.isfinite(values).reshape(len(values), -1).all(axis=1)]
    if len(wrong):
        raise ValueError(
            f"Got NaN or inf in {len(wrong)} rows of X ({name_rows(wrong)}) but expected finite numbers. Rows of NaN "
            "are images that could not be read (SAMLoRAEmbedder(on_error='nan')). Fix: leave these rows out of X, "
            "domain and labels: readable = np.isfinite(X).all(axis=1)."
        )


def build_network(settings: Settings, width: int) -> nn.Module:
    """Make the untrained network of an architecture for embeddings of this width."""
    if settings.architecture == "vector":
        return VectorAutoencoder(width, settings.n_components)
    if settings.architecture == "masked":
        return MaskedAutoencoder(width, settings.n_components, settings.crop_size)
    network = ConvAutoencoder(width, settings.n_components, settings.crop_size, settings.embedding_weight > 0)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs


def for_inference(network: nn.Module) -> nn.Module:
    """Return the network in evaluation mode; an MLP in float64, where a row's features do not depend on the others."""
    network.eval()
    return network.double() if isinstance(network, VectorAutoencoder) else network


def loss_terms(network: nn.Module, batch: ReconstructionBatch, settings: Settings) -> dict[str, Tensor]:
    """Return the loss of a batch, and the terms that it consists of, by name."""
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


def train_network(
    network: nn.Module | None, inputs: NetworkInputs, settings: Settings, *, held_out: NDArray[np.intp],
    patience: int | None, decay: bool, device: torch.device, seed: int, verbose: int,
) -> tuple[nn.Module, pd.DataFrame]:  # fmt: skip
    """Train a network, and return it on CPU and ready for inference, with one row of history for each epoch.

    A given network is trained further; with None, a new one is. With `decay` the learning rate warms up and decays to
    0, else it is constant. The `held_out` rows are not trained on: training stops when `patience` epochs have not
    improved their reconstruction. `seed` decides the initial weights and the batches.
    """
    rows = np.setdiff1d(np.arange(len(inputs)), held_out)
    steps = max(1, len(rows) // settings.batch_size)
    plan = TrainingPlan(
        settings.epochs or math.ceil(settings.steps / steps), steps, settings.learning_rate,
        warmup_steps=settings.warmup_steps if decay else 0, weight_decay=settings.weight_decay, decay=decay,
        amp_dtype=None if settings.architecture == "vector" else devices.half_dtype(device),
    )  # fmt: skip

    def batches(epoch: int) -> Iterator[ReconstructionBatch]:
        rng = np.random.default_rng([seed, epoch])
        for batch in balanced_batches(inputs.codes[rows], settings.batch_size, steps, rng):
            yield inputs.batch(np.sort(rows[batch]), device)

    @torch.inference_mode()
    def score(network: nn.Module) -> dict[str, float]:
        total = 0.0
        for part in gen_batches(len(held_out), _CHUNK):
            batch = inputs.batch(held_out[part], device)
            total += len(batch.codes) * loss_terms(network, batch, settings)["reconstruction"].item()
        return {"validation_score": -total / len(held_out)}

    with own_settings(device):
        torch.manual_seed(seed)
        network = build_network(settings, inputs.pooled.shape[1]) if network is None else network.float()
        network = network.to(device)
        history = train(
            network, lambda network, batch: loss_terms(network, batch, settings), batches, plan,
            validation=Validation(score, "validation_score", patience) if len(held_out) else None,
            verbose=verbose, description="CrossDomainAutoencoder",
        )  # fmt: skip
    return for_inference(network.cpu()), pd.DataFrame(history)


def balanced_batches(
    codes: NDArray[np.int64], size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of `steps` batches of about `size`, the same number of every domain in each.

    A domain's cells are gone through in random order, from the start again when it has too few.
    """
    groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    share = max(1, min(size, len(codes)) // len(groups))
    streams = []
    for group in groups:
        rounds = range(math.ceil(steps * share / len(group)))
        streams.append(np.concatenate([rng.permutation(group) for _ in rounds]))
    for start in range(0, steps * share, share):
        yield np.concatenate([stream[start : start + share] for stream in streams])
