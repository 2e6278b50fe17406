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
from ..models.training import TrainingPlan, best_epoch, check_resumable
from ..weights.backbones import Backbone, load_sam
from .finetuning import mean_dice, split, train_segmentation
from .pairs import channel_stats, read_pairs, read_with_stain_masks


class TrainedAdapter(NamedTuple):
    """The adapter on the CPU, one row of history per epoch, and the epoch (counted from 0) whose weights were kept.

    The columns of the history are epoch, learning_rate, loss, dice_loss and cross_entropy, the last three means over
    the training; with validation also dice, the mean over the cells set aside. Its ``attrs["dice_before"]`` is that
    mean before the training, None without validation.
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
        Above 0; the product of the factors is scaled by alpha / rank. Default `rank`, the papers' scaling of 1, or
        that of the adapter whose factors are trained further.
    dropout : float, default=0.0
        Probability that an input of the factors is set to 0 in training, from 0 to below 1.
    blocks : sequence of int, optional
        Encoder blocks that get LoRA factors, counted from 0; default all.
    epochs : int, default=150
        Largest number of passes over the training cells, at least 1.
    warmup_epochs : int, default=10
        Epochs in which the learning rate rises, at least 0; more than a tenth of the training are shortened to that.
        Afterwards the rate falls along a cosine.
    learning_rate : float, default=1e-4
        Largest learning rate of AdamW, above 0.
    weight_decay : float, default=0.1
        Of AdamW, at least 0; on weight matrices and kernels, not on biases and norms.
    batch_size : int, default=32
        Largest number of cells in a training step, at least 1.
    validation_fraction : float, default=0.1
        Share of the cells, from 0 to below 1, that is set aside (at least one cell). The weights of the epoch with the
        best Dice on them are kept. 0 trains on all cells for all epochs, as the papers did.
    patience : int or None, default=30
        Training stops after this many epochs (at least 1) without a better Dice on the cells set aside; None never.
    checkpoint : str or path, optional
        File, written after every epoch, from which an interrupted training resumes; on a CPU to the same bits. It
        needs an int `random_state`.
    random_state : int, RandomState or None, default=None
        Decides the initial weights, the cells set aside, the order of the cells, the augmentation and the dropout.

    See Also
    --------
    SAMLoRAEmbedder : Runs this training in ``fit(X, masks=...)``; a search reaches ``training__epochs``.

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
        """Train an adapter on images, as `as_image_list` returns them, and one mask of each.

        `masks` are paths or (H, W) arrays, as `images.load_mask` reads them, or "auto", which makes them from the stain
        and leaves out the images in which it finds no plausible cell. The training begins with the decoder of `start`,
        and with its LoRA factors if rank and blocks are the same, else with fresh ones and a warning; with None, it
        begins with the decoder of the backbone.
        The encoder sees the images at `image_size` px. Pixel statistics of None are those of `start`, or else those
        measured on the training images.
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
        """Store a path as text, so that a pipeline in a skops file needs no path class to be trusted."""
        state = super().__getstate__()
        return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in state.items()}
