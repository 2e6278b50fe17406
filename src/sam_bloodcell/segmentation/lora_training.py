"""`LoRATraining`: the settings of stage 1's fine-tuning, and the training itself."""

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from ..images.collections import as_image_list
from ..models import devices
from ..models.lora import Adapter, add_lora, extract_adapter, resume_adapter
from ..models.sam import PixelStats
from ..models.training import TrainingPlan, best_epoch
from ..weights.backbones import Backbone, load_sam
from .finetuning import split, train_segmentation
from .pairs import channel_stats, read_pairs, read_with_stain_masks


class TrainedAdapter(NamedTuple):
    """What `LoRATraining.run` returns.

    Attributes
    ----------
    adapter : Adapter
        The LoRA factors, the decoder and the pixel statistics, on the CPU.
    history : DataFrame
        One row per epoch. The columns are epoch, learning_rate, loss, dice_loss and cross_entropy, the last three means
        over the training; with validation also dice, the mean over the cells set aside.
    best_epoch : int
        The epoch whose weights were kept, counted from 0: the one with the best Dice, or without validation the last.
    """

    adapter: Adapter
    history: pd.DataFrame
    best_epoch: int


class LoRATraining(BaseEstimator):
    """Fine-tuning of Segment Anything on cell masks (stage 1): its settings, and the training itself.

    LoRA factors are put on the queries and values of the encoder, whose own weights stay frozen. The factors and the
    whole decoder are then trained to segment cells.

    Parameters
    ----------
    rank : int, default=4
        Rank of the LoRA factors, at least 1.
    alpha : float, optional
        The product of the factors is scaled by alpha / rank. Above 0; by default `rank`, which is the papers' scaling
        of 1.
    dropout : float, default=0.0
        Probability that an input of the factors is set to 0 in training, from 0 to below 1.
    blocks : sequence of int, optional
        Numbers of the encoder blocks that get LoRA factors, counted from 0. By default all blocks get them.
    epochs : int, default=150
        Largest number of passes over the training cells, at least 1.
    warmup_epochs : int, default=10
        Epochs in which the learning rate rises to `learning_rate`, at least 0. The rise is shortened to a tenth of the
        training if it would be longer. Afterwards the rate falls along a cosine.
    learning_rate : float, default=1e-4
        Largest learning rate of AdamW, above 0.
    weight_decay : float, default=0.1
        Weight decay of AdamW, at least 0. It applies to weight matrices and kernels, not to biases and norms.
    batch_size : int, default=32
        Largest number of cells in a training step, at least 1.
    validation_fraction : float, default=0.1
        Share of the masked cells that is set aside, from 0 to below 1. Their Dice is measured after every epoch, and
        the weights of the best epoch are kept. Above 0, at least one cell is set aside; 0 trains on all cells for all
        epochs, as the papers did.
    patience : int or None, default=30
        Training stops after this many epochs (at least 1) without a better Dice on the cells set aside. None never
        stops it early.
    checkpoint : str or path, optional
        File that is written after every epoch, and from which an interrupted training resumes. On a CPU the result is
        bit for bit that of an uninterrupted training. A checkpoint needs an int `random_state`.
    random_state : int, RandomState or None, default=None
        Decides the initial LoRA factors and fresh parts of the decoder, the cells set aside, the order of the cells,
        the augmentation and the dropout.

    See Also
    --------
    SAMLoRAEmbedder : runs this training in ``fit(X, masks=...)``.

    Notes
    -----
    An embedder takes this object as ``SAMLoRAEmbedder(training=LoRATraining(rank=8))``. The parameter grid of a search
    then names its parameters with the prefix ``training__``, for example ``training__epochs``.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024. Hu et al., "LoRA", ICLR 2022.

    Examples
    --------
    >>> from sam_bloodcell.segmentation import LoRATraining
    >>> training = LoRATraining(rank=8, epochs=20, random_state=0)
    >>> training
    LoRATraining(epochs=20, random_state=0, rank=8)
    >>> training.get_params()["rank"]
    8
    """

    _parameter_constraints = {
        "rank": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="neither"), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "blocks": ["array-like", None],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "checkpoint": [str, os.PathLike, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        rank: int = 4,
        alpha: float | None = None,
        dropout: float = 0.0,
        blocks: Sequence[int] | None = None,
        epochs: int = 150,
        warmup_epochs: int = 10,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.1,
        batch_size: int = 32,
        validation_fraction: float = 0.1,
        patience: int | None = 30,
        checkpoint: str | os.PathLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.blocks = blocks
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.checkpoint = checkpoint
        self.random_state = random_state

    def run(
        self,
        images: Sequence[Any],
        masks: Sequence[Any] | str,
        *,
        backbone: Backbone,
        start: Adapter | None,
        image_size: int,
        pixel_stats: PixelStats | None,
        device: torch.device,
        verbose: int = 0,
    ) -> TrainedAdapter:
        """Train an adapter by segmentation.

        Parameters
        ----------
        images : sequence of n images
            As `images.collections.as_image_list` returns it.
        masks : sequence of n masks or "auto"
            Paths or (H, W) arrays of the images' sizes, non-zero inside the cell. "auto" makes them from the stain
            (`segmentation.stain_mask`) and leaves out the images in which it finds no plausible cell.
        backbone : Backbone
            The base weights, with their digest (`weights.backbones.identify`).
        start : Adapter or None
            Training begins with the decoder of this adapter, and with its LoRA factors if rank and blocks are the same.
            None begins with the decoder of the backbone.
        image_size : int
            Side in pixels at which the encoder sees the images, a multiple of 16.
        pixel_stats : PixelStats or None
            Means and standard deviations (R, G, B) in 0-255 units. None takes those of `start`; without `start` they
            are measured on the training images.
        device : torch.device
            The device to train on.
        verbose : int, default=0
            1 shows progress bars.

        Returns
        -------
        TrainedAdapter

        Raises
        ------
        ValueError
            If a parameter is out of range, the masks do not fit the images, no cell is left to train on,
            `random_state` is not an int although there is a checkpoint, or the checkpoint belongs to a training with
            other data or settings.
        FloatingPointError
            If the loss stops being finite.
        ImportError
            If `masks` is "auto" and scikit-image is not installed.
        ImageReadError
            If an image or a mask cannot be read; the message names the row and the file.
        WeightsUnavailableError
            If the backbone can neither be found nor fetched.
        """
        self._validate_params()
        self._check_resumable()
        if isinstance(masks, str) and masks == "auto":
            pixels, inside = read_with_stain_masks(images, image_size, verbose)
        else:
            pixels, inside = read_pairs(images, as_image_list(masks, "masks"), image_size)
        if pixel_stats is None:
            pixel_stats = channel_stats(pixels) if start is None else start.pixel_stats
        seed = int(check_random_state(self.random_state).randint(2**31))
        rows = split(len(pixels), self.validation_fraction, seed)
        identity = (backbone.digest, None if start is None else start.digest(), image_size, pixel_stats)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sam = load_sam(backbone, image_size, two_masks=True)
            adapted = add_lora(sam, self.rank, alpha=self.alpha, dropout=self.dropout, blocks=self.blocks)
            if start is not None:
                resume_adapter(sam, adapted, start)
            history = train_segmentation(
                sam.to(device),
                pixels,
                inside,
                self._plan(len(rows[0]), device),
                rows=rows,
                pixel_stats=pixel_stats,
                batch_size=self.batch_size,
                seed=seed,
                patience=self.patience,
                checkpoint=self.checkpoint,
                fingerprint=self._fingerprint(pixels, inside, *identity),
                verbose=verbose,
            )
        table = pd.DataFrame(history)
        best = best_epoch(table["dice"]) if "dice" in table else len(table) - 1
        return TrainedAdapter(extract_adapter(sam, adapted, pixel_stats), table, best)

    def __getstate__(self) -> dict[str, Any]:
        """Store a path as text, so that a pipeline in a skops file needs no path class to be trusted."""
        state = super().__getstate__()
        return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in state.items()}

    def _check_resumable(self) -> None:
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"Got random_state={self.random_state!r} with a checkpoint but expected an int: a training can "
                "only go on with the random numbers that it began with. Fix: random_state=0."
            )

    def _plan(self, n: int, device: torch.device) -> TrainingPlan:
        """Plan the optimiser's steps for n training cells."""
        steps = math.ceil(n / self.batch_size)
        return TrainingPlan(
            epochs=self.epochs,
            steps_per_epoch=steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_epochs * steps,
            weight_decay=self.weight_decay,
            amp_dtype=devices.half_dtype(device),
        )

    def _fingerprint(self, *data: Any) -> str:
        """Name a training by its data and by the settings that decide its course."""
        settings = {name: str(value) for name, value in self.get_params().items() if name != "checkpoint"}
        return joblib.hash((settings, data))
