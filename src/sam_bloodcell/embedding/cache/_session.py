"""What a store of embeddings has to offer, and what memory and disk do alike."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..embeddings import CellEmbeddings
from ..stored import StoredRows

Key = bytes  # an image's digest, 32 bytes
Place = tuple[NDArray, int]  # records, row


class Session(ABC):
    """One look at a store for the embeddings of one recipe; what it found or put stays readable."""

    in_memory = False

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        self.found: dict[Key, Place] = {}

    @abstractmethod
    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return the keys that are not stored, damaged ones included."""

    @abstractmethod
    def take(self, keys: Sequence[Key]) -> list[Key]:
        """Claim those of the keys that nobody else is computing, and return them."""

    @abstractmethod
    def put(self, keys: Sequence[Key], cells: CellEmbeddings) -> None:
        """Store what was computed."""

    @abstractmethod
    def release(self) -> None:
        """Give up what was claimed and not put."""

    def claim(self, keys: Sequence[Key], size: int) -> Iterator[list[Key]]:
        """Yield batches of the keys that nobody else is computing; from then on they are this session's."""
        for start in range(0, len(keys), size):
            if batch := self.take(keys[start : start + size]):
                yield batch

    def rows(self, keys: Sequence[Key]) -> CellEmbeddings:
        """Return stored embeddings in the order of the keys."""
        pooled, tokens, masks, crops, quality = self.columns(keys)
        return CellEmbeddings(np.asarray(pooled), tokens, masks, crops, np.asarray(quality))

    def columns(self, keys: Sequence[Key]) -> Iterator[StoredRows]:
        """Yield pooled, tokens, masks, crops and quality, in the order of the keys."""
        shards: dict[int, int] = {}
        arrays: list[NDArray] = []
        which = np.empty(len(keys), np.intp)
        rows = np.empty(len(keys), np.intp)
        for i, key in enumerate(keys):
            records, rows[i] = self.found[key]
            if id(records) not in shards:
                shards[id(records)] = len(arrays)
                arrays.append(records)
            which[i] = shards[id(records)]
        for field in ("pooled", "tokens", "masks", "crops", "quality"):
            yield StoredRows(arrays, which, rows, field, self.in_memory)


class Store(Protocol):
    """Where embeddings are kept."""

    def session(self, recipe: str, description: Mapping[str, Any]) -> AbstractContextManager[Session]:
        """Give a `Session`; `recipe` is a digest, the description for people."""
