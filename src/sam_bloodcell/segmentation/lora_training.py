"""`LoRATraining`: the settings of the fine-tuning on cell masks, and the training itself."""

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
from ..models.training import TrainingPlan, best_epoch, check_resumable
from ..weights.backbones import Backbone, load_sam
from .finetuning import mean_dice, split, train_segmentation
from .pairs import channel_stats, read_pairs, read_with_stain_masks


class TrainedAdapter(NamedTuple):
    """The adapter on the CPU, one row of history per epoch, and the epoch (counted from 0) whose weights were kept.

    The columns of the history are epoch, learning_rate, loss, dice_loss and cross_entropy, of which the last three are
    means over the training. With validation there is also dice, the mean over the validation cells. The history's
    ``attrs["dice_before"]`` is that mean before the training, or None without validation.
    """

    adapter: Adapter
    history: pd.DataFrame
    best_epoch: int


class LoRATraining(BaseEstimator):
    """Settings of the fine-tuning of Segment Anything on cell masks, and the training itself.

    LoRA factors are added to the queries and values of the encoder, whose own weights stay frozen. The factors and the
    whole decoder are then trained to segment cells.

    Parameters
    ----------
    rank : int, default=4
        Rank of the LoRA factors, at least 1.
    alpha : float, optional
        Scale of the factors, above 0: their product is multiplied by alpha / rank. By default it is `rank`, the papers'
        scaling of 1, or the alpha of the adapter whose factors are trained further.
    dropout : float, default=0.0
        Probability that an input of the factors is set to 0 in training, from 0 to below 1.
    blocks : sequence of int, optional
        Encoder blocks that get LoRA factors, counted from 0. By default, all blocks do.
    epochs : int, default=150
        Maximum number of passes over the training cells, at least 1.
    warmup_epochs : int, default=10
        Number of epochs in which the learning rate rises, at least 0 and limited to a tenth of the training.
        Afterwards the rate decays by a cosine schedule.
    learning_rate : float, default=1e-4
        Highest learning rate of AdamW, above 0.
    weight_decay : float, default=0.1
        Weight decay of AdamW, at least 0. It applies to weight matrices and kernels, not to biases and norms.
    batch_size : int, default=32
        Maximum number of cells per training step, at least 1.
    validation_fraction : float, default=0.1
        Share of the cells for validation (at least one cell), from 0 to below 1. The weights of the epoch with the best
        Dice on them are kept. 0 trains on all cells for all epochs, as the papers did.
    patience : int or None, default=30
        Number of epochs without a better Dice on the validation cells, at least 1, after which training stops. With
        None, training never stops early.
    checkpoint : str or path, optional
        File that is written after every epoch, and from which training resumes if interrupted. On a CPU, the result is
        then identical to the bit. A checkpoint needs an int `random_state`.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights, the validation cells, the order of the cells, the augmentation and the dropout.

    See Also
    --------
    SAMLoRAEmbedder : Runs this training in ``fit(X, masks=...)``. A search can vary ``training__epochs`` and so on.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024. Hu et al., "LoRA", ICLR 2022.

    Examples
    --------
    >>> from sam_bloodcell.segmentation import LoRATraining
    >>> LoRATraining(rank=8, epochs=20, random_state=0)
    LoRATraining(epochs=20, random_state=0, rank=8)
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
        self, images: Sequence[Any], masks: Sequence[Any] | str, *, backbone: Backbone, start: Adapter | None,
        image_size: int, pixel_stats: PixelStats | None, device: torch.device, verbose: int = 0,
    ) -> TrainedAdapter:  # fmt: skip
        """Train an adapter on images with one mask per image.

        Parameters
        ----------
        images : sequence of images
            Images, as `as_image_list` returns them.
        masks : sequence of masks or "auto"
            Paths or (H, W) arrays, as `images.load_mask` reads them. "auto" makes them from the stain, and leaves out
            images in which it finds no plausible cell.
        backbone : Backbone
            Base weights of the encoder.
        start : Adapter or None
            Adapter with which training starts: its decoder, and its LoRA factors if rank and blocks are the same
            (otherwise new factors, with a warning). None starts with the decoder of the backbone.
        image_size : int
            Side in pixels to which the encoder resizes an image.
        pixel_stats : tuple or None
            Pixel statistics. None stands for those of `start`, or for those of the training images without `start`.
        device : torch.device
            Device of the training.
        verbose : int, default=0
            If above 0, show progress bars.

        Returns
        -------
        TrainedAdapter
            The adapter, the history and the best epoch.
        """
        self._validate_params()
        check_resumable(self.checkpoint, self.random_state)
        if isinstance(masks, str) and masks == "auto":
            pixels, inside = read_with_stain_masks(images, image_size, verbose)
        else:
            pixels, inside = read_pairs(images, as_image_list(masks, "masks"), image_size)
        if pixel_stats is None:
            pixel_stats = channel_stats(pixels) if start is None else start.pixel_stats
        seed = int(check_random_state(self.random_state).randint(2**31))
        rows = split(len(pixels), self.validation_fraction, seed)
        steps = math.ceil(len(rows[0]) / self.batch_size)
        plan = TrainingPlan(
            self.epochs, steps, self.learning_rate, warmup_steps=self.warmup_epochs * steps,
            weight_decay=self.weight_decay, amp_dtype=devices.half_dtype(device),
        )  # fmt: skip
        settings = {name: str(value) for name, value in self.get_params().items() if name != "checkpoint"}
        start_digest = None if start is None else start.digest()
        data = (pixels, inside, backbone.digest, start_digest, image_size, pixel_stats)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sam = load_sam(backbone, image_size, two_masks=True)
            factors: dict[str, Any] = {"alpha": self.alpha, "dropout": self.dropout, "blocks": self.blocks}
            if start is None:
                adapted = add_lora(sam, self.rank, **factors)
            else:
                adapted = resume_adapter(sam, start, self.rank, **factors)
            before = None
            if len(rows[1]):
                before = mean_dice(
                    sam.to(device).eval(), pixels[rows[1]], inside[rows[1]], pixel_stats=pixel_stats,
                    batch_size=self.batch_size, amp_dtype=plan.amp_dtype,
                )  # fmt: skip
            history = train_segmentation(
                sam.to(device), pixels, inside, plan, rows=rows, pixel_stats=pixel_stats, batch_size=self.batch_size,
                seed=seed, patience=self.patience, checkpoint=self.checkpoint,
                fingerprint=joblib.hash((settings, data)), verbose=verbose,
            )  # fmt: skip
        table = pd.DataFrame(history)
        table.attrs["dice_before"] = before
        best = best_epoch(table["dice"]) if "dice" in table else len(table) - 1
        return TrainedAdapter(extract_adapter(sam, adapted, pixel_stats), table, best)

    def __getstate__(self) -> dict[str, Any]:
        """Store a path as text, so that a pipeline in a skops file does not need a trusted path class."""
        state = super().__getstate__()
        return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in state.items()}
