"""The inputs of a network: embeddings or token maps, crops and domains, and their scaling."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor

from ..images.collections import name_rows
from ..models.published import GRID
from .normalization import DomainScaler, known_domains
from .settings import PRESETS, Settings

CHUNK = 256  # number of rows that are read and encoded at once


class ReconstructionBatch(NamedTuple):
    """The data of a few cells for a training step."""

    inputs: Tensor  # BxC or BxCxhxw, scaled
    pooled: Tensor  # BxC, scaled
    crops: Tensor | None  # Bx3xSxS in [0, 1]
    codes: Tensor  # B, the index of the domain, or -1 if unknown


@dataclass
class NetworkInputs:
    """The inputs of n cells, with the statistics to scale them by."""

    unscaled: NDArray  # (n, C) or (n, C, h, w); the network encodes it after scaling
    pooled: NDArray  # (n, C), unscaled
    crops: NDArray[np.uint8] | None  # (n, S, S, 3)
    crop_size: int  # side in pixels to which a batch's crops are averaged down; S is a multiple of it
    domain: NDArray | None  # (n,), None in rows whose domain is unknown

    def __post_init__(self) -> None:
        self.codes = np.full(len(self), -1) if self.domain is None else pd.factorize(self.domain, sort=True)[0]
        self.scaler = DomainScaler()
        self.raw = False

    def __len__(self) -> int:
        return len(self.unscaled)

    def chunks(self) -> Iterator[slice]:
        """Yield slices of rows in order, a few rows each, because the inputs may be on disk."""
        return gen_batches(len(self), CHUNK)

    def scale_by(self, scaler: DomainScaler, settings: Settings) -> None:
        """Set the statistics for scaling; domains that `scaler` does not know get the statistics of their rows here.

        If the settings do not distinguish domains, all rows are scaled together, or not at all, and `domain` is
        dropped. The codes stay.
        """
        self.scaler, self.raw = scaler, settings.normalization == "raw"
        if not settings.by_domain:
            self.domain = None
        elif self.domain is not None and not set(known_domains(self.domain).tolist()) <= scaler.statistics.keys():
            self.scaler = scaler.including((self.read(rows), self.domain[rows]) for rows in self.chunks())

    def read(self, rows: Any) -> NDArray:
        """Return the unscaled inputs of these rows, or raise an error that names those that are not finite."""
        values = self.unscaled[rows]
        refuse_not_finite(values, np.arange(len(self))[rows])
        return values

    def scaled(self, rows: Any) -> NDArray[np.float32]:
        """Return the scaled inputs of these rows, which the network encodes."""
        return self._scale(self.read(rows), rows)

    def unscaled_again(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert (n, C) outputs of the network for all rows to the units of the inputs."""
        return values if self.raw else self.scaler.scale(values, self.domain, undo=True)

    def batch(self, rows: NDArray, device: torch.device) -> ReconstructionBatch:
        """Return all that a training step needs of these rows."""
        inputs = torch.from_numpy(self.scaled(rows)).to(device)
        if self.unscaled is self.pooled:
            pooled = inputs
        else:
            pooled = torch.from_numpy(self._scale(self.pooled[rows], rows)).to(device)
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
        """Return the domain of these rows, or None if there are no domains."""
        return None if self.domain is None else self.domain[rows]

    def _scale(self, values: NDArray, rows: Any) -> NDArray[np.float32]:
        return values.astype(np.float32) if self.raw else self.scaler.scale(values, self.domain_of(rows))


def held_out_rows(n: int, share: float, seed: int) -> NDArray[np.intp]:
    """Draw this share of n cells, at least one; none if the share is 0."""
    held_out = min(max(1, round(share * n)), n - 2) if share else 0
    if share and held_out < 1:
        raise ValueError(f"Got {n} cells but patience needs at least 3. Fix: patience=None.")
    return np.sort(np.random.default_rng(seed).permutation(n)[:held_out])


def check_size(pooled: NDArray, width: int, least: int) -> None:
    """Raise a ValueError if embeddings have another width than in the fit, or if there are too few."""
    if pooled.shape[1] != width:
        raise ValueError(
            f"Got embeddings {pooled.shape[1]} wide but expected {width}. Fix: use the backbone of the fit."
        )
    if len(pooled) < least:
        raise ValueError(f"Got {len(pooled)} cells but expected at least {least}. Fix: add cells.")


def refuse_not_finite(values: NDArray, rows: NDArray[np.intp]) -> None:
    """Raise a ValueError if values (k, ...) contain NaN or infinity; `rows` (k,) are their numbers in X."""
    wrong = rows[~np.isfinite(values).reshape(len(values), -1).all(axis=1)]
    if len(wrong):
        raise ValueError(
            f"Got NaN or inf in {len(wrong)} rows of X ({name_rows(wrong)}) but expected finite numbers. Rows of NaN "
            "are images that could not be read (SAMLoRAEmbedder(on_error='nan')). Fix: leave these rows out of X, "
            "domain and labels: readable = np.isfinite(X).all(axis=1)."
        )


def token_maps(X: Any, architecture: str, *, needs_crops: bool) -> tuple[Any, Any]:
    """Return the token maps of embeddings and, if needed, their crops; an error says how to get them."""
    tokens, crops = getattr(X, "tokens", None), getattr(X, "crops", None) if needs_crops else None
    if tokens is None or (needs_crops and crops is None):
        asked, instead = f"architecture={architecture!r}", "architecture='auto'"
        if architecture in PRESETS:  # the papers' networks have the names of the presets
            asked, instead = f"preset={architecture!r}", "preset=None"
        raise TypeError(
            f"Got X of type {type(X).__name__} but {asked} expected embeddings with token maps and crops. Fix: "
            f'SAMLoRAEmbedder(..., keep=("tokens", "crops")) before this step, with no step in between, or {instead}.'
        )
    width = np.shape(X)[1]
    if tokens.shape[1] != width:
        raise ValueError(
            f"Got embeddings {width} wide with tokens {tokens.shape[1]} wide but {architecture!r} expected one width. "
            "Fix: pass pooling='mask' to the embedder, which gives the mean of the tokens."
        )
    height, width = tokens.shape[2:]
    if architecture == "dorl" and (height, width) != (GRID, GRID):
        raise ValueError(
            f"Got token maps of {height} x {width} tokens but preset='dorl' expected {GRID} x {GRID}, because it "
            "learns a position for each token. Fix: SAMLoRAEmbedder(..., image_size=224)."
        )
    if architecture == "bc-sam" and min(height, width) < 3:
        raise ValueError(
            f"Got token maps of {height} x {width} tokens but preset='bc-sam' expected at least 3 x 3. "
            "Fix: SAMLoRAEmbedder(..., image_size=224)."
        )
    return tokens, crops
