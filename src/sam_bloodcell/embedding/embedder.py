"""`SAMLoRAEmbedder`: Segment Anything's tokens, pooled over the cell, as a scikit-learn transformer."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from ..images.collections import as_image_list, name_rows
from ..images.frames import pad_to_square, resize
from ..images.reading import load_rgb
from ..models import devices
from ..models.lora import Adapter, add_lora, extract_adapter, resume_adapter
from ..models.sam import CELL_MASK_TOKENS, SAM, SAM_PIXEL_STATS
from ..models.training import best_epoch
from ..segmentation.cell import cell_mask, unframe
from ..segmentation.finetuning import (
    PixelStats,
    SegmentationPlan,
    channel_stats,
    fit_segmentation,
    read_pairs,
    read_with_stain_masks,
)
from ..weights import hub, remote
from ..weights.model_card import write_model_card
from ..weights.published import read_published_adapter
from . import forward
from .cache import open_store
from .embeddings import CellEmbeddings

# Parameters that do not change what `fit` with masks arrives at.
_NOT_OF_THE_TRAINING = (
    "batch_size", "cache_dir", "cache_limit", "checkpoint", "device", "dtype", "n_jobs", "on_error", "prompt",
    "verbose",
)  # fmt: skip

# Fitted attributes in a pickle: how they are packed into plain values, and back.
_PACKED: dict[str, tuple[Callable, Callable]] = {
    "backbone_": (asdict, lambda values: hub.Backbone(**values)),
    "adapter_": (Adapter.packed, Adapter.unpacked),
    "history_": (lambda table: table.to_dict("list"), pd.DataFrame),
}


class SAMLoRAEmbedder(remote.PushToHubMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed single cell images with Segment Anything's encoder, adapted to cells by LoRA.

    The encoder's token map (before its neck) is averaged over the cell that the decoder finds. `fit` with masks
    fine-tunes LoRA factors on the encoder's queries and values, and the decoder, by segmenting cells; without masks
    it only loads weights.

    Parameters
    ----------
    backbone : str, default="vit_b"
        "vit_tiny" (packaged, works offline), "vit_b", "vit_l" or "vit_h" (from the Hugging Face Hub), a Hub repo id,
        or a local ``.pth`` or ``.safetensors`` file or folder.
    adapter : str or path, optional
        Adapter folder made by `save_pretrained`, its Hub repo id, or a ``.pth`` that the papers' published code saved.
        With "vit_tiny", default the packaged one.
        Fitting with masks trains it further; LoRA factors of another rank or other blocks start fresh.
    revision : str, optional
        Commit, tag or branch of the backbone on the Hub; default a pinned commit where there is one.
    adapter_revision : str, optional
        Commit, tag or branch of the adapter on the Hub; default the newest.
    image_size : int, default=224
        Side in pixels at which the encoder sees the image, a multiple of 16.
    prompt : {"auto", "none", "center"}, default="auto"
        "none" is the papers' way and needs a decoder trained without prompts; "center" puts a foreground point in
        the middle, for centred cells and plain SAM. "auto" picks "none" where the decoder was trained so.
    pixel_stats : {"auto", "sam"} or ((float, float, float), (float, float, float)), default="auto"
        Channel means and standard deviations (R, G, B) in 0-255 units. "auto" takes the adapter's, when fitting with
        masks the training images', else SAM's.
    lora_rank : int, default=4
    lora_alpha : float, optional
        The factors are scaled by alpha / rank; default `lora_rank`.
    lora_dropout : float, default=0.0
    lora_blocks : sequence of int, optional
        Numbers of the encoder blocks that get LoRA factors, from 0; default all.
    epochs : int, default=150
        Of `fit` with masks, as are the parameters up to `checkpoint`.
    warmup_epochs : int, default=10
    learning_rate : float, default=1e-4
    weight_decay : float, default=0.1
    train_batch_size : int, default=32
    validation_fraction : float, default=0.1
        Share of the masked cells set aside (at least one): after every epoch their Dice is measured, and the weights
        of the best epoch are kept. 0 trains on all cells for all epochs, as the papers did.
    patience : int or None, default=30
        Epochs without a better Dice on the cells set aside after which training stops; None never stops early.
    checkpoint : str or path, optional
        File that training writes after every epoch and goes on from after a kill. On CPU the result is the same to
        the bit. Needs an int `random_state`.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Of the encoder in `transform`. "auto" is bfloat16 where the device computes in it natively, else float32.
    batch_size : int or "auto", default="auto"
        Images in a forward pass. "auto" fits the widest activation into a CPU's cache, or on a GPU into 160 MB.
    n_jobs : int, optional
        Processes that `transform` spreads over, as in `joblib.Parallel`; a backend set by ``joblib.parallel_config``
        (Dask, Ray) takes it to a cluster. An adapter of your own travels as a file in `cache_dir`, which all machines
        of the cluster have to see.
    on_error : {"raise", "nan"}, default="raise"
        What `transform` does with an image that cannot be read: raise, or give it a row of NaN, and warn.
    cache_dir : str or path, optional
        Folder where every image's embedding is kept by content, weights and preprocessing, for all estimators,
        processes and sessions; `transform` then leaves tokens, masks and crops memory-mapped on disk. Default: in
        memory for this process, as long as they take less than a quarter of what is free, the oldest dropped first.
    cache_limit : int or str, optional
        Bytes, or as "20GB", beyond which the embeddings in `cache_dir` used longest ago are deleted.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    backbone_ : Backbone
        Where the base weights come from.
    adapter_ : Adapter or None
        What was trained: LoRA factors, decoder, prompt encoder, pixel statistics.
    encoder_ : Encoder
        The forward pass that `transform` runs: weights by reference, pixel statistics, prompt.
    pixel_stats_ : tuple
    prompt_ : {"none", "center"}
    n_features_out_ : int
        Width C of the embeddings: 192 for vit_tiny, 768, 1024, 1280 for vit_b, vit_l, vit_h.
    history_ : DataFrame
        Only after `fit` with masks: one row an epoch, with the columns epoch, learning_rate, loss, dice_loss and
        cross_entropy of the training, and dice on the cells set aside.
    best_epoch_ : int
        Only after `fit` with masks: the epoch whose weights were kept.

    See Also
    --------
    CrossDomainAutoencoder : takes the `CellEmbeddings` on to features that survive a change of laboratory.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024. Kirillov et al., "Segment Anything", ICCV 2023. Hu et al., "LoRA", ICLR 2022.

    Examples
    --------
    >>> from sam_bloodcell import SAMLoRAEmbedder
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(1, domains=["lab_a"], random_state=0)
    >>> embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)
    >>> embeddings
    CellEmbeddings(n=5, width=192, grid=(14, 14))
    """

    __metadata_request__fit = {"masks": True}

    _parameter_constraints = {
        "backbone": [str, os.PathLike],
        "adapter": [str, os.PathLike, None],
        "revision": [str, None],
        "adapter_revision": [str, None],
        "image_size": [Interval(Integral, 16, None, closed="left")],
        "prompt": [StrOptions({"auto", "none", "center"})],
        "pixel_stats": [StrOptions({"auto", "sam"}), "array-like"],
        "lora_rank": [Interval(Integral, 1, None, closed="left")],
        "lora_alpha": [Interval(Real, 0, None, closed="neither"), None],
        "lora_dropout": [Interval(Real, 0, 1, closed="left")],
        "lora_blocks": ["array-like", None],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "train_batch_size": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "checkpoint": [str, os.PathLike, None],
        "device": [str],
        "dtype": [StrOptions({"auto", *forward.DTYPES})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_jobs": [Integral, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "cache_dir": [str, os.PathLike, None],
        "cache_limit": [Integral, str, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        backbone: str | os.PathLike = "vit_b",
        adapter: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        adapter_revision: str | None = None,
        image_size: int = 224,
        prompt: str = "auto",
        pixel_stats: str | PixelStats = "auto",
        lora_rank: int = 4,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_blocks: Sequence[int] | None = None,
        epochs: int = 150,
        warmup_epochs: int = 10,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.1,
        train_batch_size: int = 32,
        validation_fraction: float = 0.1,
        patience: int | None = 30,
        checkpoint: str | os.PathLike | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = "auto",
        n_jobs: int | None = None,
        on_error: str = "raise",
        cache_dir: str | os.PathLike | None = None,
        cache_limit: int | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.adapter = adapter
        self.revision = revision
        self.adapter_revision = adapter_revision
        self.image_size = image_size
        self.prompt = prompt
        self.pixel_stats = pixel_stats
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.lora_blocks = lora_blocks
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.train_batch_size = train_batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.cache_dir = cache_dir
        self.cache_limit = cache_limit
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, masks: Sequence[Any] | str | None = None) -> "SAMLoRAEmbedder":
        """Load the weights and, with masks, fine-tune them by segmentation.

        Parameters
        ----------
        X : n images
            Paths, PIL images, arrays, an (n, H, W, 3) array, or a Series or one-column DataFrame of paths.
        y : ignored
        masks : sequence of n masks or "auto", optional
            Paths or (H, W) arrays of the images' sizes, non-zero inside the cell. "auto" makes them from the stain
            (`pseudo_masks.stain_mask`): worse than annotated ones, see docs/weights.md.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, X is empty, the masks do not fit the images, or `checkpoint` is of a
            training with other data or settings.
        ImportError
            If masks="auto" and scikit-image is not installed.
        ImageReadError
            If an image or a mask cannot be read; it names the row and the file.
        WeightsUnavailableError
            If weights can neither be found nor fetched.
        """
        self._validate_params()
        images = as_image_list(X)
        self.backbone_ = hub.identify(hub.Backbone(os.fspath(self.backbone), self.revision))
        self.adapter_ = self._read_adapter()
        if masks is not None:
            self._fine_tune(images, masks)
        self.pixel_stats_ = self._choose_pixel_stats()
        sam = forward.network(self._weights(), self.adapter_)
        self.n_features_out_ = sam.size.width
        self.prompt_ = self._choose_prompt(sam)
        return self

    def transform(self, X: Any) -> CellEmbeddings:
        """Embed images, row by row.

        Parameters
        ----------
        X : n images, as in `fit`

        Returns
        -------
        CellEmbeddings
            To numpy an (n, C) float32 array; also tokens, masks, crops, and each mask's quality. Where no plausible
            cell is found, the whole image is embedded, flagged in the quality, and a warning names the rows.

        Raises
        ------
        ValueError
            If X is empty.
        ImageReadError
            If an image cannot be read and ``on_error="raise"``; it names the row and the file.
        """
        check_is_fitted(self)
        images = as_image_list(X)
        store = open_store(self.cache_dir, self.cache_limit)
        unreadable: dict[int, str] | None = {} if self.on_error == "nan" else None
        embedded = self.encoder_.embed(images, store, unreadable=unreadable, verbose=self.verbose)
        if unreadable:
            rows = sorted(unreadable)
            warnings.warn(
                f"{len(rows)} of {len(images)} images cannot be read and are embedded as NaN ({name_rows(rows)}); the "
                f"first: {unreadable[rows[0]]}",
                stacklevel=2,
            )
        _warn_of_fallbacks(embedded.quality["fallback"])
        return embedded

    def predict_masks(self, X: Any) -> list[NDArray[np.bool_]]:
        """Find the cell in each image: n bool arrays (H, W), each of its image's own size.

        Raises
        ------
        ValueError, ImageReadError
            As `transform`.
        """
        check_is_fitted(self)
        images = as_image_list(X)
        masks: list[NDArray[np.bool_]] = []
        encoder = self.encoder_
        size = encoder.images_per_pass()
        with tqdm(total=len(images), desc="segmenting", unit="cell", disable=self.verbose < 1) as bar:
            for start in range(0, len(images), size):
                rows = range(start, min(start + size, len(images)))
                pictures = [load_rgb(images[row], row) for row in rows]
                pixels = np.stack([resize(pad_to_square(picture), self.image_size) for picture in pictures])
                _, probability = encoder.forward(pixels)
                masks += [cell_mask(unframe(p, r.shape[:2])) for p, r in zip(probability, pictures, strict=True)]
                bar.update(len(rows))
        return masks

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        metrics: Mapping[str, float] | None = None,
        data: str | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write the adapter in PEFT's layout, with decoder, settings and a model card; base weights stay out of it.

        Parameters
        ----------
        folder : path
            Made if need be.
        metrics, data, licence
            For the model card: numbers by name, what it was trained on, an SPDX identifier.

        Returns
        -------
        folder : Path

        Raises
        ------
        ValueError
            If nothing was fine-tuned or loaded that could be saved.
        """
        check_is_fitted(self)
        if self.adapter_ is None:
            raise ValueError(
                "There is no adapter to save: this embedder is plain SAM. Fix: fit(X, masks=...) or adapter=..."
            )
        base, revision = self.backbone_.resolved()
        # What it embeds with, which may differ from what the adapter was trained with.
        adapter = replace(self.adapter_, image_size=self.image_size, pixel_stats=self.pixel_stats_)
        written = hub.write_adapter(adapter, folder, self.backbone_)
        write_model_card(
            written,
            title="LoRA adapter for blood cell images",
            summary=f"LoRA factors and a prompt-free mask decoder for Segment Anything's encoder, trained by "
            f"segmenting cells, for images of {self.image_size} px.",
            code="from sam_bloodcell import SAMLoRAEmbedder\n\n"
            'embedder = SAMLoRAEmbedder.from_pretrained("this folder or repo")\n'
            'embeddings = embedder.transform(["cell.png"])',
            base=base,
            base_revision=revision,
            metrics=metrics,
            data=data,
            licence=licence,
            tags=("lora", "peft", "segment-anything", "image-feature-extraction"),
        )
        return written

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike,
        revision: str | None = None,
        *,
        token: str | None = None,
        local_files_only: bool = False,
        **params: Any,
    ) -> "SAMLoRAEmbedder":
        """Return a fitted embedder from an adapter folder or Hub repo.

        Parameters
        ----------
        folder_or_repo : str or path
        revision : str, optional
            Commit, tag or branch of the adapter's repo; that of its backbone is noted in the adapter.
        token : str, optional
            Default that of ``HF_TOKEN`` or ``hf auth login``.
        local_files_only : bool
            Look into the Hub's local cache alone.
        **params
            Override the adapter's settings.

        Raises
        ------
        WeightsUnavailableError
            If weights can neither be found nor fetched.
        """
        folder = hub.locate_adapter(folder_or_repo, revision, token=token, local_files_only=local_files_only)
        settings = hub.adapter_settings(folder)
        params = {name: settings[name] for name in ("backbone", "revision", "image_size")} | params
        # By commit, what was just fetched is found again without network or token.
        commit = remote.commit_of(folder / "adapter_config.json")
        embedder = cls(adapter=os.fspath(folder_or_repo), adapter_revision=commit or revision, **params)
        backbone = hub.Backbone(os.fspath(embedder.backbone), embedder.revision)
        hub.identify(backbone, token=token, local_files_only=local_files_only)
        # Without masks, fit looks at no pixel: one blank image stands for the collection.
        return embedder.fit(np.zeros((1, 16, 16, 3), np.uint8))

    @property
    def encoder_(self) -> forward.Encoder:
        """The forward pass that `transform` runs."""
        check_is_fitted(self)
        recipe = forward.Recipe(self._weights(), self.pixel_stats_, self.prompt_)
        return forward.Encoder(recipe, self.adapter_, self.batch_size, self.n_jobs, self.cache_dir)

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def __getstate__(self) -> dict[str, Any]:
        """Hold numpy arrays and plain values alone, and of the base weights a reference."""
        state = super().__getstate__()
        state = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in state.items()}
        for name, (pack, _) in _PACKED.items():
            if state.get(name) is not None:
                state[name] = pack(state[name])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        for name, (_, unpack) in _PACKED.items():
            if state.get(name) is not None:
                state[name] = unpack(state[name])
        super().__setstate__(state)

    def _read_adapter(self) -> Adapter | None:
        name = self.backbone_.name
        if self.adapter is None:
            return hub.packaged_adapter(name)
        if os.fspath(self.adapter).endswith(".pth"):
            return read_published_adapter(self.adapter, backbone=name, image_size=self.image_size)
        return hub.read_adapter(self.adapter, self.adapter_revision)

    def _weights(self) -> forward.Weights:
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if devices.half_dtype(devices.choose(self.device)) else "float32"
        adapter = None if self.adapter_ is None else self.adapter_.digest()
        return forward.Weights(self.backbone_, adapter, self.image_size, dtype, self.device)

    def _fine_tune(self, images: Sequence[Any], masks: Sequence[Any] | str) -> None:
        if isinstance(masks, str) and masks == "auto":
            pixels, inside = read_with_stain_masks(images, self.image_size, self.verbose)
        else:
            pixels, inside = read_pairs(images, as_image_list(masks, "masks"), self.image_size)
        measure = self._stats_are("auto") and self.adapter_ is None
        stats = channel_stats(pixels) if measure else self._choose_pixel_stats()
        device = devices.choose(self.device)
        plan = self._segmentation_plan(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            sam = forward.base_network(self.backbone_, self.image_size, two_masks=True)
            adapted = add_lora(
                sam, self.lora_rank, alpha=self.lora_alpha, dropout=self.lora_dropout, blocks=self.lora_blocks
            )
            if self.adapter_ is not None:
                resume_adapter(sam, adapted, self.adapter_)
            self.history_ = fit_segmentation(
                sam.to(device), pixels, inside, stats, plan,
                checkpoint=self.checkpoint, fingerprint=self._fingerprint(pixels, inside), verbose=self.verbose,
            )  # fmt: skip
        scores = self.history_.get("dice")
        self.best_epoch_ = len(self.history_) - 1 if scores is None else best_epoch(scores)
        self.adapter_ = extract_adapter(sam, adapted, stats)

    def _segmentation_plan(self, device: torch.device) -> SegmentationPlan:
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"Got random_state={self.random_state!r} with a checkpoint but expected an int: a training can "
                "only go on with the random numbers that it began with. Fix: random_state=0."
            )
        return SegmentationPlan(
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.train_batch_size,
            seed=int(check_random_state(self.random_state).randint(2**31)),
            validation_fraction=self.validation_fraction,
            patience=self.patience,
            amp_dtype=devices.half_dtype(device),
        )

    def _fingerprint(self, pixels: NDArray, inside: NDArray) -> str:
        """Name a training by its data and by the settings that decide its course."""
        settings = {k: str(v) for k, v in self.get_params().items() if k not in _NOT_OF_THE_TRAINING}
        return joblib.hash((pixels, inside, sorted(settings.items())))

    def _stats_are(self, name: str) -> bool:
        return isinstance(self.pixel_stats, str) and self.pixel_stats == name

    def _choose_pixel_stats(self) -> PixelStats:
        if self._stats_are("auto"):
            return self.adapter_.pixel_stats if self.adapter_ is not None else SAM_PIXEL_STATS
        if self._stats_are("sam"):
            return SAM_PIXEL_STATS
        values = np.asarray(self.pixel_stats, dtype=float)
        if values.shape != (2, 3) or (values[1] <= 0).any():
            raise ValueError(
                f"Got pixel_stats={self.pixel_stats!r} but expected ((mean R, G, B), (std R, G, B)) in 0-255 units, "
                "standard deviations above 0."
            )
        return tuple(values[0].tolist()), tuple(values[1].tolist())

    def _choose_prompt(self, sam: SAM) -> str:
        prompt_free = sam.mask_decoder.num_mask_tokens == CELL_MASK_TOKENS
        if self.prompt == "auto":
            return "none" if prompt_free else "center"
        if self.prompt == "none" and not prompt_free:
            raise ValueError(
                "Got prompt='none' but plain SAM's decoder needs a prompt. Fix: prompt='center' for centred cells, "
                "an adapter, or fit(X, masks=...)."
            )
        return self.prompt


def _warn_of_fallbacks(fallback: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(fallback)
    if len(rows):
        warnings.warn(
            f"No plausible cell was found in {len(rows)} of {len(fallback)} images ({name_rows(rows)}); they are "
            "embedded as whole images and flagged in .quality['fallback'].",
            stacklevel=3,
        )
