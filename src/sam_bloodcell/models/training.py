"""The training loop of all networks of this package; it gets a module, a loss and batches.

The calls are nested: `train` -> `_Run.epoch` -> `_Run.step`.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import warn_caller
from ..extras import tqdm
from ..files import replacing

# A batch is anything that the loss accepts. The loss returns its terms; the term "loss" is minimised.
Batch = Any
Loss = Callable[[nn.Module, Batch], dict[str, Tensor]]
Batches = Callable[[int], Iterable[Batch]]


@dataclass(frozen=True)
class TrainingPlan:
    """AdamW with linear warm-up and cosine decay."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float  # peak rate, reached after the warm-up
    warmup_steps: int = 0  # limited to a tenth of the training
    weight_decay: float = 0.0  # on weight matrices and kernels, not on biases and norms
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0  # largest gradient norm; None does not clip
    published_schedule: bool = False  # the papers' schedule: a warm-up of any length, and a cosine that ends above 0
    decay_everything: bool = False  # weight decay also on biases and norms
    decay: bool = True  # False stays at the peak rate, for training without a known end
    amp_dtype: torch.dtype | None = None  # autocast type; None trains in float32

    def rate_at(self, step: int) -> float:
        """Fraction of the peak learning rate at an optimiser step."""
        total = max(1, self.epochs * self.steps_per_epoch)
        warmup = self.warmup_steps if self.published_schedule else min(self.warmup_steps, total // 10)
        if step < warmup:
            return (step + 1) / warmup
        if not self.decay:
            return 1.0
        # In the papers' code, a cosine over the length of the whole training begins after the warm-up.
        length = total if self.published_schedule else max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / length))


@dataclass(frozen=True)
class Validation:
    """The validation after every epoch, and the rule for early stopping."""

    score: Callable[[nn.Module], Mapping[str, float]]  # computed on held-out cells
    monitor: str  # key of the monitored number; higher is better, and the weights of the best epoch are kept
    patience: int | None = None  # epochs without a new best after which training stops; None never stops early


def train(
    module: nn.Module,
    loss: Loss,
    batches: Batches,
    plan: TrainingPlan,
    *,
    validation: Validation | None = None,
    checkpoint: str | os.PathLike | None = None,
    fingerprint: str = "",
    verbose: int = 0,
    description: str = "training",
) -> list[dict[str, float]]:
    """Train `module` in place; return the history, one dict per epoch.

    A row has epoch, learning_rate, the mean of every loss term and the validation's numbers. With validation, the
    module ends with the weights of the best epoch, otherwise with those of the last epoch.

    Ctrl-C ends the training with a warning and keeps the last full epoch. Before the end of the first epoch, it
    interrupts as usual. A loss that is not finite raises FloatingPointError.

    A `checkpoint` is written atomically after every epoch. If the file exists, training resumes from it. It contains
    only trained parameters, not frozen ones. `fingerprint` names the run (data and settings), and a checkpoint of
    another run is refused with a ValueError. A resumed run equals an uninterrupted one if ``batches(epoch)`` depends
    only on the epoch.
    """
    run = _Run(module, loss, plan, validation)
    if checkpoint is not None and Path(checkpoint).exists():
        run.restore(checkpoint, fingerprint)
    total, done = plan.epochs * plan.steps_per_epoch, len(run.history) * plan.steps_per_epoch
    with tqdm(total=total, initial=done, desc=description, unit="step", disable=verbose < 1) as bar:
        try:
            while not run.finished:
                run.epoch(batches, bar)
                if checkpoint is not None:
                    run.save(checkpoint, fingerprint)
        except KeyboardInterrupt:
            if not run.history:
                raise
            warn_caller(f"Interrupted: keeping the weights after {len(run.history)} of {plan.epochs} epochs.")
    module.load_state_dict(run.best if validation else run.last, strict=False)
    module.eval()
    return run.history


def check_resumable(checkpoint: str | os.PathLike | None, random_state: Any) -> None:
    """Raise a ValueError if a training with this random state cannot resume from its checkpoint."""
    if checkpoint is not None and not isinstance(random_state, Integral):
        raise ValueError(
            f"Got random_state={random_state!r} with a checkpoint but expected an int, because a training can only "
            "resume with the same random numbers. Fix: random_state=0."
        )


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Copy the parts that training changes: parameters that require gradients, and buffers."""
    kept = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value.detach().clone() for name, value in module.state_dict().items() if name not in kept}


class _Run:
    """The state of a training: optimiser, schedule, history and the best weights."""

    def __init__(self, module: nn.Module, loss: Loss, plan: TrainingPlan, validation: Validation | None) -> None:
        self.module, self.loss, self.plan, self.validation = module, loss, plan, validation
        self.optimizer = torch.optim.AdamW(_parameter_groups(module, plan), lr=plan.learning_rate, betas=plan.betas)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, plan.rate_at)
        self.history: list[dict[str, float]] = []
        self.last: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs have passed without a new best one."""
        if len(self.history) >= self.plan.epochs:
            return True
        patience = self.validation.patience if self.validation else None
        return patience is not None and len(self.history) - 1 - self.best_epoch() >= patience

    def best_epoch(self) -> int:
        """Index of the first epoch with the highest monitored number; -1 before the first."""
        if not self.history or not self.validation:
            return -1
        return best_epoch(row[self.validation.monitor] for row in self.history)

    def epoch(self, batches: Batches, bar: Any) -> None:
        """Train one epoch, validate, and store the weights."""
        index, rate = len(self.history), self.optimizer.param_groups[0]["lr"]
        monitor = self.validation.monitor if self.validation and self.history else None
        validated = {monitor: self.history[-1][monitor]} if monitor else {}
        steps = []
        self.module.train()
        for batch in batches(index):
            steps.append(self.step(batch))
            self.schedule.step()
            bar.update()
            shown = {name: f"{value:.3f}" for name, value in (steps[-1] | validated).items()}
            bar.set_postfix(shown, refresh=False)
        row = {"epoch": index, "learning_rate": rate}
        row |= {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
        if self.validation:
            self.module.eval()
            row |= self.validation.score(self.module)
        # An epoch is complete once it is in the history. The steps from here on are short and cannot fail.
        self.last = trained_state(self.module)
        self.history.append(row)
        if self.best_epoch() == index:
            self.best = self.last

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one optimiser step."""
        device = next(self.module.parameters()).device
        with torch.autocast(device.type, self.plan.amp_dtype, enabled=self.plan.amp_dtype is not None):
            terms = self.loss(self.module, batch)
        if not torch.isfinite(terms["loss"]):
            values = {name: value.item() for name, value in terms.items()}
            raise FloatingPointError(f"The loss is not finite: {values}. Fix: lower the learning rate.")
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if self.plan.clip_norm is not None:
            nn.utils.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], self.plan.clip_norm)
        self.optimizer.step()
        return {name: value.item() for name, value in terms.items()}

    def save(self, checkpoint: str | os.PathLike, fingerprint: str) -> None:
        """Write everything that is needed to resume; an interrupted write leaves the last checkpoint unchanged."""
        state = {
            "fingerprint": fingerprint,
            "trained": self.last,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "history": self.history,
        }
        content = io.BytesIO()
        torch.save(state, content)
        with replacing(checkpoint) as draft:
            draft.write_bytes(content.getbuffer())

    def restore(self, checkpoint: str | os.PathLike, fingerprint: str) -> None:
        """Resume from a checkpoint."""
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            found = state["fingerprint"]
        except Exception as exc:  # torch may raise nearly anything for a damaged file
            raise ValueError(
                f"'{checkpoint}' is not a checkpoint of a training: {exc!s:.200}. Fix: delete it to start again, or "
                "name another file."
            ) from exc
        if found != fingerprint:
            raise ValueError(
                f"The checkpoint '{checkpoint}' belongs to a training with other data or settings. Fix: delete it to "
                "start again, or name another file."
            )
        try:
            self._restore(state)
        except (LookupError, RuntimeError, TypeError, ValueError) as exc:
            raise ValueError(
                f"The checkpoint '{checkpoint}' is incomplete or of another version: {exc!s:.200}. Fix: delete it to "
                "start again, or name another file."
            ) from exc

    def _restore(self, state: Mapping[str, Any]) -> None:
        expected = {name: value.shape for name, value in trained_state(self.module).items()}
        for kept in (state["trained"], state["best"]) if self.validation else (state["trained"],):
            if {name: value.shape for name, value in kept.items()} != expected:
                raise ValueError("its weights are not those of this network")
            if not all(value.isfinite().all() for value in kept.values()):
                raise ValueError("its weights hold NaN or infinite numbers")
        self.last, self.best = state["trained"], state["best"]
        self.module.load_state_dict(self.last, strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        self.history = list(state["history"])


def best_epoch(scores: Iterable[float]) -> int:
    """Return the index of the first highest score; NaN is lower than anything."""
    values = [-math.inf if math.isnan(score) else score for score in scores]
    return values.index(max(values))


def _parameter_groups(module: nn.Module, plan: TrainingPlan) -> list[dict[str, Any]]:
    trainable = [p for p in module.parameters() if p.requires_grad]
    if plan.decay_everything:
        return [{"params": trainable, "weight_decay": plan.weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
