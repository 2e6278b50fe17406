"""From images to embeddings: the forward pass of a fitted embedder, here or on the workers of a cluster."""

import hashlib
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..exceptions import ImageReadError
from ..files import make_folder, replacing
from ..images.frames import load_square
from ..images.reading import RGB, digest
from ..models import devices
from ..models.inference import accelerate
from ..models.lora import Adapter, apply_adapter
from ..models.sam import CELL, CELL_MASK_TOKENS, PATCH, SAM, load_weights, size_of
from ..segmentation.cell import CROP_SIZE, GREY, QUALITY, cell_crop, find_cell, token_weights
from ..segmentation.finetuning import PixelStats, normalise
from ..weights import hub
from .cache import Store
from .embeddings import CellEmbeddings
from .stored import as_records

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Part of every recipe's digest: goes up whenever the same weights and image give another embedding.
_VERSION = 1
# What the widest activation of a batch may take: a third of a CPU's last cache, a small part of a GPU's memory.
_ACTIVATION_BYTES = {"cpu": 10 << 20, "cuda": 160 << 20}
# Stands for the digest of an image that cannot be read; no SHA-256 is known to be it.
_UNREADABLE = bytes(32)
# Seconds between looks at what another process is computing.
_POLL = 0.05
# How often a pool of processes is started again after one of them died.
_RESTARTS = 3


@dataclass(frozen=True)
class Weights:
    """A network by reference: light to send, enough to load it again.

    Attributes
    ----------
    backbone : hub.Backbone
        With its digest.
    adapter : str or None
        Digest of the adapter that goes with it.
    image_size : int
    dtype : str
        Of the encoder, a key of `DTYPES`.
    device : str
        "auto" is resolved where the network is loaded.
    """

    backbone: hub.Backbone
    adapter: str | None
    image_size: int
    dtype: str
    device: str = "auto"


@dataclass(frozen=True)
class Recipe:
    """All that decides an embedding but the image."""

    weights: Weights
    pixel_stats: PixelStats
    prompt: str

    @property
    def digest(self) -> str:
        """SHA-256; the device is left out, since it changes rounding alone."""
        w = self.weights
        parts = (_VERSION, w.backbone.digest, w.adapter, w.image_size, w.dtype, self.pixel_stats, self.prompt)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
        w = self.weights
        return {
            "backbone": w.backbone.name,
            "adapter": w.adapter and w.adapter[:12],
            "image_size": w.image_size,
            "dtype": w.dtype,
            "prompt": self.prompt,
        }


# Images with their rows in the caller's data.
Chunk = Sequence[tuple[int, Any]]
# Whole, or where it has to travel, the path of its file; "" for one that ships with the package.
AnyAdapter = Adapter | str | None


class Embedded(NamedTuple):
    """What became of a chunk: the embeddings of the rows that could be read, and why the others could not."""

    rows: list[int]
    cells: Any
    errors: list[tuple[int, str]]


class _Read(NamedTuple):
    rows: list[int]
    pixels: list[RGB]
    errors: list[tuple[int, str]]


# The network that this process used last: folds, candidates and chunks share it.
_loaded: dict[Weights, SAM] = {}
_loading = threading.Lock()


def _after_fork() -> None:
    """Let go of what a forked process does not have: its parent's threads. OpenMP's would be waited for for ever."""
    global _loading
    _loading = threading.Lock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def network(weights: Weights, adapter: AnyAdapter = None) -> SAM:
    """Return a network ready for inference, loaded unless it was the last one used.

    Raises
    ------
    WeightsUnavailableError, ValueError
        As `hub.load_backbone`; or if adapter and backbone do not fit.
    """
    with _loading:
        if weights not in _loaded:
            _loaded.clear()
            _loaded[weights] = _load(weights, adapter)
        return _loaded[weights]


def base_network(backbone: hub.Backbone, image_size: int, *, two_masks: bool) -> SAM:
    """Load a backbone; with two mask tokens (background, cell) as the papers have, or as many as its file has."""
    state = hub.load_backbone(backbone)
    sam = SAM(
        size_of(state), image_size, CELL_MASK_TOKENS if two_masks else len(state["mask_decoder.mask_tokens.weight"])
    )
    load_weights(sam, state)
    return sam


def _load(weights: Weights, adapter: AnyAdapter) -> SAM:
    sam = base_network(weights.backbone, weights.image_size, two_masks=adapter is not None)
    if adapter is not None:
        apply_adapter(sam, adapter if isinstance(adapter, Adapter) else _read_adapter(weights, adapter))
    return accelerate(sam).set_encoder_dtype(DTYPES[weights.dtype]).to(devices.choose(weights.device))


def _read_adapter(weights: Weights, path: str) -> Adapter:
    if not path and (packaged := hub.packaged_adapter(weights.backbone.name)):
        return packaged
    fix = "Fix: set cache_dir to a folder that all workers share."
    try:
        adapter = hub.unpack_adapter(Path(path).read_bytes())
    except OSError as exc:
        raise hub.WeightsUnavailableError(f"This worker cannot read the adapter '{path}'. {fix}") from exc
    if adapter.digest() != weights.adapter:
        raise hub.WeightsUnavailableError(f"'{path}' is not the adapter of this embedder. Fix: delete it.")
    return adapter


@dataclass(frozen=True)
class Encoder:
    """A recipe put to work.

    Parameters
    ----------
    recipe : Recipe
    adapter : Adapter or path, optional
        The one that the recipe names.
    batch_size : int or "auto"
    n_jobs : int, optional
        As in `joblib.Parallel`; 1 and None stay in this process unless `joblib.parallel_config` names a backend.
    shared : path, optional
        Folder that all workers see, for the adapter's file; default one for temporary files of this machine.
    """

    recipe: Recipe
    adapter: AnyAdapter = None
    batch_size: int | str = "auto"
    n_jobs: int | None = None
    shared: str | os.PathLike | None = None

    def network(self) -> SAM:
        """Return the network, loaded if need be; as `network`."""
        return network(self.recipe.weights, self.adapter)

    def images_per_pass(self) -> int:
        """Return the batch size; "auto" keeps the widest activation within bounds."""
        if isinstance(self.batch_size, int):
            return self.batch_size
        sam = self.network()
        parameter = sam.image_encoder.patch_embed.proj.weight
        widest = (sam.image_size // PATCH) ** 2 * 4 * sam.size.width * parameter.element_size()
        return max(1, _ACTIVATION_BYTES.get(parameter.device.type, _ACTIVATION_BYTES["cpu"]) // widest)

    def embed(
        self, images: Sequence[Any], store: Store, *, unreadable: dict[int, str] | None = None, verbose: int = 0
    ) -> CellEmbeddings:
        """Embed images in order, each distinct one once, taking from the store what is there.

        What other processes are embedding meanwhile is waited for; what a process that died left is taken over.

        Parameters
        ----------
        images : sequence of n images
        store : Store
        unreadable : dict, optional
            Is told, by row, why an image could not be read; its embedding is NaN. None raises instead.
        verbose : int
            1 shows a progress bar.

        Raises
        ------
        ImageReadError
            If an image cannot be read; it names the row and the file.
        """
        keys, first = _digests(images, unreadable)
        refused: dict[bytes, str] = {}
        died = 0
        with (
            store.session(self.recipe.digest, self.recipe.describe()) as session,
            tqdm(total=len(first), desc="embedding", unit="cell", disable=verbose < 1) as bar,
        ):
            while left := session.missing(first):
                bar.update(len(first) - len(left) - bar.n)
                batches = session.claim(left, self.images_per_pass())
                chunks = ([(first[key], images[first[key]]) for key in batch] for batch in batches)
                idle = True
                try:
                    for done in self.stream(chunks, skip_unreadable=unreadable is not None):
                        if done.rows:
                            session.put([keys[row] for row in done.rows], done.cells)
                        for row, reason in done.errors:
                            del first[keys[row]]
                            refused[keys[row]] = reason
                        bar.update(len(done.rows) + len(done.errors))
                        idle = False
                except BrokenProcessPool as exc:
                    died += 1
                    if died > _RESTARTS:
                        raise
                    session.release()
                    warnings.warn(f"A worker process died ({exc}); its chunks are done again.", stacklevel=3)
                    continue
                if idle:
                    time.sleep(_POLL)
            if unreadable is not None:
                # The first of equal files was tried; its message names its own row.
                unreadable.update({row: refused[key] for row, key in enumerate(keys) if key in refused})
                if unreadable:
                    session.found[_UNREADABLE] = (as_records([_UNREADABLE], self._nothing()), 0)
                    keys = [_UNREADABLE if row in unreadable else key for row, key in enumerate(keys)]
            return session.rows(keys)

    def _nothing(self) -> CellEmbeddings:
        """Return what stands for an image that cannot be read: one row of NaN, no mask, a grey crop."""
        sam = self.network()
        side, grid, width = sam.image_size, sam.image_size // PATCH, sam.size.width
        return CellEmbeddings(
            pooled=np.full((1, width), np.nan, np.float32),
            tokens=np.full((1, width, grid, grid), np.nan, np.float16),
            masks=np.zeros((1, side, side), bool),
            crops=np.full((1, CROP_SIZE, CROP_SIZE, 3), GREY, np.uint8),
            quality=np.array([(np.nan, 0, np.nan, np.nan, False)], QUALITY),
        )

    def stream(
        self,
        chunks: Iterable[Chunk],
        *,
        skip_unreadable: bool = False,
        finish: Callable[[CellEmbeddings], Any] | None = None,
    ) -> Iterator[Embedded]:
        """Embed chunks as they come, in this process or through joblib, and yield each when it is ready.

        Parameters
        ----------
        chunks : iterable of lists of (row, image)
            Drawn from as workers become free.
        skip_unreadable : bool
            Report unreadable images instead of raising.
        finish : callable, optional
            Applied to a chunk's embeddings where they were computed, so that less travels.
        """
        backend, _ = get_active_backend()
        ours = type(backend).__module__.startswith("joblib._parallel_backends")
        # In a task of a cluster (a search's fold) the work stays there: tasks that wait for tasks can wait for ever.
        if _is_nested(backend) or (ours and joblib.effective_n_jobs(self.n_jobs) == 1):
            yield from self._stream_here(chunks, skip_unreadable, finish)
            return
        adapter = self._by_reference()
        tasks = (joblib.delayed(_embed_chunk)(self.recipe, adapter, chunk, skip_unreadable, finish) for chunk in chunks)
        if backend.supports_return_generator:
            yield from joblib.Parallel(self.n_jobs, return_as="generator_unordered", batch_size=1)(tasks)
            return
        # Backends that hand all results over at once are given a few chunks a worker at a time.
        with joblib.Parallel(self.n_jobs, batch_size=1) as parallel:
            while wave := list(islice(tasks, 4 * joblib.effective_n_jobs(self.n_jobs))):
                yield from parallel(wave)

    def _by_reference(self) -> AnyAdapter:
        """Return what stands for the adapter in a task, having put it where workers find it."""
        if not isinstance(self.adapter, Adapter):
            return self.adapter
        digest = self.recipe.weights.adapter
        packaged = hub.packaged_adapter(self.recipe.weights.backbone.name)
        if packaged is not None and packaged.digest() == digest:
            return ""
        folder = Path(self.shared or Path(tempfile.gettempdir()) / "sam-bloodcell") / "adapters"
        path = make_folder(folder) / f"{digest}.adapter"
        if not path.exists():
            with replacing(path) as draft:
                draft.write_bytes(hub.pack_adapter(self.adapter))
        return str(path)

    def _stream_here(
        self, chunks: Iterable[Chunk], skip_unreadable: bool, finish: Callable | None
    ) -> Iterator[Embedded]:
        size = self.recipe.weights.image_size
        with ThreadPoolExecutor(1) as reader:  # reads the next images during the forward pass
            reading: Future[_Read] | None = None
            for chunk in chain(chunks, [None]):
                following = None if chunk is None else reader.submit(_read, chunk, size, skip_unreadable)
                if reading is not None:
                    yield _embed_pixels(self, reading.result(), finish)
                reading = following

    def forward(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network on square images (B, S, S, 3): tokens (B, C, h, w) and the cell's probability (B, S, S).

        A batch that does not fit into the device's memory is halved, with a warning.
        """
        try:
            return _forward(self.network(), self.recipe, pixels)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        # Outside the handler, which would keep the failed pass alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = (len(pixels) + 1) // 2
        warnings.warn(
            f"{len(pixels)} images in a forward pass are too many for the device's memory; going on with {half}. "
            f"Fix: batch_size={half}.",
            stacklevel=2,
        )
        tokens, probability = zip(*map(self.forward, (pixels[:half], pixels[half:])), strict=True)
        return np.concatenate(tokens), np.concatenate(probability)


def _is_nested(backend: Any) -> bool:
    """Tell whether this already is a task of some `joblib.Parallel`; Dask's tasks start with a backend that forgot."""
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


def _digests(images: Sequence[Any], unreadable: dict[int, str] | None) -> tuple[list[bytes], dict[bytes, int]]:
    """Return the digest of each image, and the first row of each digest."""
    keys: list[bytes] = []
    first: dict[bytes, int] = {}
    for row, image in enumerate(images):
        try:
            key = digest(image, row)
            first.setdefault(key, row)
        except ImageReadError as exc:
            if unreadable is None:
                raise
            key, unreadable[row] = _UNREADABLE, str(exc)
        keys.append(key)
    return keys, first


def _embed_chunk(
    recipe: Recipe, adapter: AnyAdapter, chunk: Chunk, skip_unreadable: bool, finish: Callable | None
) -> Embedded:
    read = _read(chunk, recipe.weights.image_size, skip_unreadable)
    return _embed_pixels(Encoder(recipe, adapter), read, finish)


def _read(chunk: Chunk, size: int, skip_unreadable: bool) -> _Read:
    read = _Read([], [], [])
    for row, image in chunk:
        try:
            read.pixels.append(load_square(image, size, row))
            read.rows.append(row)
        except ImageReadError as exc:
            if not skip_unreadable:
                raise
            read.errors.append((row, str(exc)))
    return read


def _embed_pixels(encoder: Encoder, read: _Read, finish: Callable | None) -> Embedded:
    if not read.rows:
        return Embedded(read.rows, None, read.errors)
    images = np.stack(read.pixels)
    cells = _find_cells(images, *encoder.forward(images))
    return Embedded(read.rows, finish(cells) if finish else cells, read.errors)


@torch.inference_mode()
def _forward(sam: SAM, recipe: Recipe, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    weight = sam.image_encoder.patch_embed.proj.weight
    batch = torch.from_numpy(pixels)
    if weight.device.type == "cuda":
        batch = batch.pin_memory()
    batch = normalise(batch.to(weight.device, non_blocking=True), recipe.pixel_stats)
    tokens = sam.tokens(batch.to(weight.dtype))
    probability = _cell_probability(sam, tokens, recipe.prompt)
    return tokens.float().cpu().numpy(), probability.cpu().numpy()


def _cell_probability(sam: SAM, tokens: torch.Tensor, prompt: str) -> torch.Tensor:
    """Probability (B, S, S) that a pixel belongs to the cell."""
    logits, predicted_iou = sam.mask_logits(tokens, center_prompt=prompt == "center")
    logits = F.interpolate(logits, sam.image_size, mode="bilinear")
    if logits.shape[1] == CELL_MASK_TOKENS:
        return logits.softmax(1)[:, CELL]
    # Plain SAM: of its three alternatives, the one that it trusts most.
    best = 1 + predicted_iou[:, 1:].argmax(1)
    return logits[torch.arange(len(logits)), best].sigmoid()


def _find_cells(pixels: NDArray, tokens: NDArray, probability: NDArray) -> CellEmbeddings:
    masks, quality = (np.stack(parts) for parts in zip(*map(find_cell, probability), strict=True))
    crops = np.stack([cell_crop(image, mask) for image, mask in zip(pixels, masks, strict=True)])
    weights = np.stack([token_weights(mask, tokens.shape[2:]) for mask in masks])
    pooled = np.einsum("nchw,nhw->nc", tokens, weights, dtype=np.float32)
    return CellEmbeddings(pooled, tokens.astype(np.float16), masks, crops, quality)
