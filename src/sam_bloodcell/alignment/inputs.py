"""Rows of X as an autoencoder takes them: read and scaled a few at a time, so that they may lie on disk."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor

from .scaling import DomainScaler

CHUNK = 256  # rows that are read and encoded at a time


class ReconstructionBatch(NamedTuple):
    """What a training step needs of a few cells."""

    inputs: Tensor  # BxC or BxCxhxw, scaled
    pooled: Tensor  # BxC, scaled
    crops: Tensor | None  # Bx3xSxS in [0, 1]
    codes: Tensor  # B, the number of the domain, -1 unknown


class NetworkInputs:
    """The inputs of n cells, with the statistics to scale them by.

    Parameters
    ----------
    unscaled : array of shape (n, C) or (n, C, h, w)
        What the network encodes.
    pooled : array of shape (n, C)
        The pooled embeddings, unscaled.
    crops : uint8 array of shape (n, S, S, 3), or None
    crop_size : int
        Side in pixels to which a batch's crops are averaged down; S is a multiple of it.
    domain : array of shape (n,), or None
    """

    def __init__(
        self, unscaled: NDArray, pooled: NDArray, crops: NDArray | None, crop_size: int, domain: NDArray | None
    ) -> None:
        self.unscaled, self.pooled, self.crops, self.crop_size = unscaled, pooled, crops, crop_size
        self.domain = domain
        self.codes = np.full(len(unscaled), -1) if domain is None else np.unique(domain, return_inverse=True)[1]
        self.scaler = DomainScaler()

    def __len__(self) -> int:
        return len(self.unscaled)

    def chunks(self) -> Iterator[slice]:
        """Rows in order, a few at a time."""
        return gen_batches(len(self), CHUNK)

    def scale_by(self, scaler: DomainScaler, *, by_domain: bool) -> None:
        """Set the statistics to scale by; domains that `scaler` does not know get those of their rows here.

        With `by_domain=False` all rows are scaled alike, and `domain` is forgotten; the codes stay.
        """
        self.scaler = scaler
        if not by_domain:
            self.domain = None
        elif self.domain is not None and not set(np.unique(self.domain).tolist()) <= scaler.statistics.keys():
            self.scaler = scaler.including((self.unscaled[rows], self.domain[rows]) for rows in self.chunks())

    def scaled(self, rows: Any) -> NDArray[np.float32]:
        """Return what the network encodes of these rows."""
        return self.scaler.scale(self.unscaled[rows], self.domain_of(rows))

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
            small = _shrink(self.crops[rows], self.crop_size)
            crops = torch.from_numpy(small).to(device).movedim(-1, 1).float() / 255
        return ReconstructionBatch(inputs, pooled, crops, torch.from_numpy(self.codes[rows]).to(device))

    def domain_of(self, rows: Any) -> NDArray | None:
        """Return the domain of these rows, where it is known."""
        return None if self.domain is None else self.domain[rows]


def _shrink(crops: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Average (n, S, S, 3) crops down to (n, size, size, 3), S a multiple of size."""
    n, side = crops.shape[:2]
    factor = side // size
    if factor == 1:
        return np.array(crops)
    blocks = crops.reshape(n, size, factor, size, factor, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)
