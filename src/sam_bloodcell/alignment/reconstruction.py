"""Training of a network that reconstructs cells from a few features: the network, its loss and its batches."""

import copy
import math
import os
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor, nn

from ..models import devices
from ..models.alignment import ALIGNMENTS
from ..models.autoencoders import (
    ConvAutoencoder,
    LinearAutoencoder,
    MaskedAutoencoder,
    Reconstruction,
    VectorAutoencoder,
)
from ..models.isolation import own_settings
from ..models.losses import ssim
from ..models.published import BCSAMAutoencoder, DoRLAutoencoder
from ..models.training import TrainingPlan, Validation, train
from .inputs import CHUNK, NetworkInputs, ReconstructionBatch
from .settings import Settings


def build_network(settings: Settings, width: int) -> nn.Module:
    """Make the untrained network of an architecture for embeddings with this number of channels."""
    if settings.architecture == "linear":
        return LinearAutoencoder(width, settings.n_components)
    if settings.architecture == "vector":
        return VectorAutoencoder(width, settings.n_components)
    if settings.architecture == "masked":
        return MaskedAutoencoder(width, settings.n_components, settings.crop_size)
    if settings.architecture == "dorl":
        return DoRLAutoencoder(width, settings.n_components, settings.crop_size)
    kind = BCSAMAutoencoder if settings.architecture == "bc-sam" else ConvAutoencoder
    network = kind(width, settings.n_components, settings.crop_size, settings.embedding_weight > 0)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs


def for_inference(network: nn.Module) -> nn.Module:
    """Return the network in evaluation mode; a network of vectors uses float64, so that no row affects the others."""
    network.eval()
    return network.double() if isinstance(network, LinearAutoencoder | VectorAutoencoder) else network


def loss_terms(network: nn.Module, batch: ReconstructionBatch, settings: Settings) -> dict[str, Tensor]:
    """Return the loss of a batch and its terms, by name."""
    made: Reconstruction = network(batch.inputs)
    parts = {}
    if made.crops is not None and batch.crops is not None:
        parts["crops"] = 1 - ssim(made.crops, batch.crops, padded=settings.padded_ssim)
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
    checkpoint: str | os.PathLike | None = None,
) -> tuple[nn.Module, pd.DataFrame]:  # fmt: skip
    """Train a network, and return it on the CPU and ready for inference, with one row of history per epoch.

    A given network is trained further; None trains a new network. With `decay`, the learning rate warms up and decays
    to 0; otherwise it is constant. The `held_out` rows are not used for training, which stops if `patience` epochs have
    not improved their reconstruction. `seed` sets the initial weights and the batches. A training of the same cells and
    settings resumes from a `checkpoint`. The linear network has a closed-form solution from all rows instead.
    """
    if settings.architecture == "linear":
        return _solve_linear(network, inputs, settings.n_components)
    rows = np.setdiff1d(np.arange(len(inputs)), held_out)
    steps = max(1, len(rows) // settings.batch_size)
    plan = TrainingPlan(
        settings.epochs or math.ceil(settings.steps / steps), steps, settings.learning_rate,
        warmup_steps=settings.warmup_steps if decay else 0, weight_decay=settings.weight_decay, decay=decay,
        clip_norm=settings.clip_norm, published_schedule=settings.published_schedule,
        decay_everything=settings.decay_everything,
        amp_dtype=None if settings.architecture == "vector" else devices.half_dtype(device),
    )  # fmt: skip
    # Without balance, all cells are drawn as if they came from one domain.
    groups = inputs.codes[rows] if settings.balanced_batches else np.zeros(len(rows), int)

    def batches(epoch: int) -> Iterator[ReconstructionBatch]:
        rng = np.random.default_rng([seed, epoch])
        for batch in balanced_batches(groups, settings.batch_size, steps, rng):
            yield inputs.batch(np.sort(rows[batch]), device)

    @torch.inference_mode()
    def score(network: nn.Module) -> dict[str, float]:
        total = 0.0
        for part in gen_batches(len(held_out), CHUNK):
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
            checkpoint=checkpoint,
            fingerprint="" if checkpoint is None else _fingerprint(inputs, settings, seed, held_out), verbose=verbose,
            description="CrossDomainAutoencoder",
        )  # fmt: skip
    return for_inference(network.cpu()), pd.DataFrame(history)


def _fingerprint(inputs: NetworkInputs, *run: Any) -> str:
    """Identify the cells and settings of a training; token maps, which may be huge, by their statistics."""
    return joblib.hash((inputs.pooled, inputs.crops, inputs.codes, inputs.scaler.to_plain(), run), coerce_mmap=True)


def _solve_linear(network: Any, inputs: NetworkInputs, n_components: int) -> tuple[nn.Module, pd.DataFrame]:
    """Return the linear autoencoder of the cells, with equal weights of all domains, and a history of one row.

    A given network is solved for these cells and those that it has seen before.
    """
    network = LinearAutoencoder(inputs.pooled.shape[1], n_components) if network is None else network
    weights = compute_sample_weight("balanced", inputs.codes)
    for rows in inputs.chunks():
        network.learn(torch.from_numpy(inputs.scaled(rows)).double(), torch.from_numpy(weights[rows]))
    network.solve()
    error = 0.0
    for rows in inputs.chunks():
        vectors = torch.from_numpy(inputs.scaled(rows)).double()
        errors = (network(vectors).embedding - vectors).square().mean(1)
        error += float(errors @ torch.from_numpy(weights[rows])) / weights.sum()
    return for_inference(network), pd.DataFrame([{"epoch": 0, "loss": error, "reconstruction": error}])


def run_network(
    network: Any, inputs: NetworkInputs, device: torch.device, *, reconstruct: bool = False
) -> NDArray[np.float32]:
    """Return the features of all rows, or with `reconstruct` their crops or embeddings, a few rows at a time."""
    # The given network stays on the CPU, as documented.
    network = network if device.type == "cpu" else copy.deepcopy(network).to(device)
    dtype = next(network.parameters()).dtype
    parts = []
    with torch.inference_mode():
        for rows in inputs.chunks():
            batch = torch.from_numpy(inputs.scaled(rows)).to(device, dtype)
            if reconstruct:
                made = network(batch)
                part = made.embedding if made.crops is None else made.crops
            else:
                part = network.encode(batch)
            parts.append(part.float().cpu().numpy())
    return np.concatenate(parts)


def balanced_batches(
    codes: NDArray[np.int64], size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Return row numbers of `steps` batches of about `size`, each with the same number of cells from every domain.

    The cells of a domain are drawn in random order, and again from the start if it has too few.
    """
    groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    share = max(1, min(size, len(codes)) // len(groups))
    streams = []
    for group in groups:
        rounds = range(math.ceil(steps * share / len(group)))
        streams.append(np.concatenate([rng.permutation(group) for _ in rounds]))
    for start in range(0, steps * share, share):
        yield np.concatenate([stream[start : start + share] for stream in streams])
