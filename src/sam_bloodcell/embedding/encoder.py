"""The forward pass of a fitted embedder on batches of images, in this process or on the workers of a cluster."""

import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from numpy.typing import NDArray

from ..exceptions import ImageReadError
from ..files import make_folder
from ..images.frames import frame, is_flat
from ..images.reading import RGB, ImageContent
from ..models.isolation import own_settings
from ..models.sam import SAM
from ..segmentation.cell import cell_crop, find_cell, pool_tokens, published_crop, spread_tokens
from ..segmentation.measures import measure_cells
from ..weights.adapters import packaged_adapter, write_adapter_file
from .columns import pack_mask
from .network import AnyAdapter, halved_if_too_large, load_network, run_network
from .recipe import TEXTURE, Recipe
from .session import Record

# Maximum size of the widest activation of a batch: a third of a CPU's last cache, or a small part of a GPU's memory.
_ACTIVATION_BYTES = {"cpu": 10 << 20, "cuda": 160 << 20}

# Images with their rows in the caller's data.
Chunk = Sequence[tuple[int, ImageContent]]


class Decoded(NamedTuple):
    """The decoded images of a chunk as squares, with their rows, and the errors of images that cannot be decoded."""

    rows: list[int]
    pixels: list[RGB]
    views: list[RGB]  # for the recipe's features, if they need another size
    errors: list[tuple[int, str]]


class Embedded(NamedTuple):
    """The records of the decoded images of a chunk, with their rows, and the errors of the other images."""

    rows: list[int]
    records: list[Record]
    errors: list[tuple[int, str]]


@dataclass(frozen=True)
class Encoder:
    """A recipe and the settings of its forward pass.

    `n_jobs` is the parameter of `joblib.Parallel`; with 1 or None, the work stays in this process unless
    `joblib.parallel_config` sets a backend. `shared` is a folder that all workers can read, for the adapter's file;
    None stands for a temporary folder of this machine. `keep` names the parts of the records that are kept on request.
    """

    recipe: Recipe
    adapter: AnyAdapter = None
    batch_size: int | str = "auto"
    n_jobs: int | None = None
    shared: str | os.PathLike | None = None
    keep: Collection[str] = ()

    @own_settings()
    def network(self) -> SAM:
        """Return the network, as `load_network` does, and load it if necessary."""
        return load_network(self.recipe.network, self.adapter)

    def images_per_pass(self) -> int:
        """Return the batch size; "auto" keeps the widest activation within bounds."""
        if not isinstance(self.batch_size, str):
            return int(self.batch_size)
        sam = self.network()
        parameter = sam.image_encoder.patch_embed.proj.weight
        widest = (sam.image_size // sam.size.patch) ** 2 * 4 * sam.size.width * parameter.element_size()
        if self.recipe.features is not None:
            widest = max(widest, self.recipe.features.activation_bytes())
        return max(1, _ACTIVATION_BYTES.get(parameter.device.type, _ACTIVATION_BYTES["cpu"]) // widest)

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Return the length of an embedding, and the shape of a token map (C, h, w)."""
        if self.recipe.features is not None:
            return self.recipe.features.shapes()
        sam = self.network()
        grid = sam.image_size // sam.size.patch
        return self.recipe.token_share * sam.size.width + self.recipe.n_measures, (sam.size.width, grid, grid)

    def segmenter(self) -> "Encoder":
        """Return the encoder that only finds the cells."""
        return replace(self, recipe=replace(self.recipe, features=None), keep=())

    def stream(self, chunks: Iterator[Chunk], *, skip_unreadable: bool = False) -> Iterator[Embedded]:
        """Embed chunks as workers become free, in this process or through joblib, and yield each when it is ready.

        Images that cannot be decoded are reported if `skip_unreadable` is set, and raise an error otherwise.
        """
        backend, _ = get_active_backend()
        own = type(backend).__module__.startswith("joblib._parallel_backends")
        # A task of a cluster, such as a fold of a search, does the work itself: tasks that wait for tasks can deadlock.
        if _is_nested(backend) or (own and joblib.effective_n_jobs(self.n_jobs) == 1):
            yield from self._stream_here(chunks, skip_unreadable)
            return
        with self._travelling() as encoder:
            tasks = (joblib.delayed(_embed_chunk)(encoder, chunk, skip_unreadable) for chunk in chunks)
            if backend.supports_return_generator:
                yield from joblib.Parallel(self.n_jobs, return_as="generator_unordered", batch_size=1)(tasks)
                return
            # Other backends return all results at once, so they get only a few chunks per worker at a time.
            with joblib.Parallel(self.n_jobs, batch_size=1) as parallel:
                while wave := list(islice(tasks, 4 * joblib.effective_n_jobs(self.n_jobs))):
                    yield from parallel(wave)

    @contextmanager
    def _travelling(self) -> Iterator["Encoder"]:
        """Yield a small encoder to send to workers; they read its adapter from a file."""
        packaged = packaged_adapter(self.recipe.network.backbone.name)
        if packaged is not None and packaged.digest() == self.recipe.network.adapter:
            yield self._with_adapter("")
            return
        if self.adapter is None or isinstance(self.adapter, str):
            yield self._with_adapter(self.adapter)
            return
        shared = None if self.shared is None else make_folder(self.shared)
        if shared is not None and not os.access(shared, os.W_OK):
            shared = None  # a read-only cache has all embeddings, or the session raises an error
        with tempfile.TemporaryDirectory(prefix="sam-bloodcell-", dir=shared) as folder:
            path = Path(folder) / "adapter.safetensors"
            write_adapter_file(self.adapter, path)
            yield self._with_adapter(str(path))

    def _with_adapter(self, adapter: AnyAdapter) -> "Encoder":
        return Encoder(self.recipe, adapter, keep=tuple(self.keep))

    def _stream_here(self, chunks: Iterator[Chunk], skip_unreadable: bool) -> Iterator[Embedded]:
        def decode_next() -> Decoded | None:
            chunk = next(chunks, None)
            return None if chunk is None else self.decode(chunk, skip_unreadable)

        with ThreadPoolExecutor(1) as reader:  # reads and decodes the next images during the forward pass
            following = reader.submit(decode_next)
            while (decoded := following.result()) is not None:
                following = reader.submit(decode_next)
                yield self.embed(decoded)

    def decode(self, chunk: Chunk, skip_unreadable: bool) -> Decoded:
        """Decode a chunk's images as squares."""
        decoded = Decoded([], [], [], [])
        size, features = self.recipe.network.image_size, self.recipe.features
        other_size = None if features is None or features.view_size == size else features.view_size
        for row, content in chunk:
            try:
                picture = content.rgb()
                decoded.pixels.append(frame(picture, size))
                if other_size is not None:
                    decoded.views.append(frame(picture, other_size))
                decoded.rows.append(row)
            except ImageReadError as exc:
                if not skip_unreadable:
                    raise
                decoded.errors.append((row, str(exc)))
        return decoded

    @own_settings()
    def embed(self, decoded: Decoded) -> Embedded:
        """Run the network on decoded images and find their cells."""
        if not decoded.rows:
            return Embedded([], [], decoded.errors)
        pixels = np.stack(decoded.pixels)
        views = np.stack(decoded.views) if decoded.views else pixels
        return Embedded(decoded.rows, self._records(pixels, views), decoded.errors)

    @own_settings()
    def forward(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network as `run_network`; a batch that does not fit into the memory is halved, with a warning."""
        return halved_if_too_large(lambda part: run_network(self.network(), self.recipe, part), pixels)

    def _records(self, pixels: NDArray, views: NDArray) -> list[Record]:
        tokens: NDArray | None
        tokens, probability = self.forward(pixels)
        cells = [find_cell(each, is_flat(image)) for each, image in zip(probability, pixels, strict=True)]
        masks = [mask for mask, _ in cells]
        if self.recipe.features is None:
            pooled = pool_tokens(tokens, masks)
            if self.recipe.pooling == TEXTURE:
                tokens, early = np.split(tokens, 2, axis=1)
                pooled = np.concatenate([pooled, spread_tokens(early, masks)], axis=1)
            if self.recipe.n_measures:
                measured = measure_cells(pixels, masks).astype(np.float32)
                pooled = np.concatenate([pooled, measured], axis=1)
        else:
            pooled, tokens = self.recipe.features.embed(views, pixels, masks)
        return [
            Record(
                pooled[row],
                quality,
                pack_mask(mask),
                tokens[row].astype(np.float16) if "tokens" in self.keep and tokens is not None else None,
                self._crop(pixels[row], probability[row], *cells[row]) if "crops" in self.keep else None,
            )
            for row, (mask, quality) in enumerate(cells)
        ]

    def _crop(self, pixels: RGB, probability: NDArray, mask: NDArray[np.bool_], quality: np.void) -> RGB:
        if self.recipe.published_crops:
            return published_crop(pixels, probability, whole=bool(quality["fallback"]))
        return cell_crop(pixels, mask)


def _embed_chunk(encoder: Encoder, chunk: Chunk, skip_unreadable: bool) -> Embedded:
    return encoder.embed(encoder.decode(chunk, skip_unreadable))


def _is_nested(backend: Any) -> bool:
    """Return whether this is a task of `joblib.Parallel`; in a task of Dask, the backend does not know its level."""
    if (backend.nesting_level or 0) > 0:
        return True
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True
