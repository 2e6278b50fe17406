"""One training loop for every network here: it knows a module, a loss and batches, and no estimator.

The ladder: `train` -> `_run_epoch` -> `_train_step`.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

# A batch is whatever the loss understands; the loss returns its terms, the one to minimise under "loss".
Batch = Any
Loss = Callable[[nn.Module, Batch], dict[str, Tensor]]
Batches = Callable[[int], Iterable[Batch]]


@dataclass(frozen=True)
class TrainingPlan:
    """AdamW with linear warm-up and cosine decay.

    Attributes
    ----------
    epochs, steps_per_epoch : int
    learning_rate : float
        Peak rate, reached after the warm-up.
    warmup_steps : int
        Shortened to a tenth of the training where that is less.
    weight_decay : float
        On weight matrices and kernels; biases and norms are spared.
    clip_norm : float
        Largest gradient norm.
    amp_dtype : torch.dtype or None
        Autocast type; None trains in float32.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    warmup_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    amp_dtype: torch.dtype | None = None

    def rate_at(self, step: int) -> float:
        """Fraction of the peak learning rate at an optimiser step."""
        total = max(1, self.epochs * self.steps_per_epoch)
        warmup = min(self.warmup_steps, total // 10)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train(
    module: nn.Module,
    loss: Loss,
    batches: Batches,
    plan: TrainingPlan,
    *,
    checkpoint: str | os.PathLike | None = None,
    verbose: int = 0,
    description: str = "training",
) -> pd.DataFrame:
    """Train `module` in place.

    Parameters
    ----------
    module : nn.Module
        Parameters with ``requires_grad=False`` stay as they are.
    loss : callable
        ``loss(module, batch)`` -> dict of scalar tensors with the key "loss".
    batches : callable
        ``batches(epoch)`` -> the batches of that epoch; must depend on the epoch alone for a resumed run to equal
        an unbroken one.
    plan : TrainingPlan
    checkpoint : path, optional
        Written atomically after every epoch; if it exists, training goes on from there.
    verbose : int
        1 shows a progress bar with the loss terms.

    Returns
    -------
    history : DataFrame
        One row an epoch: epoch, learning_rate and the mean of every loss term.

    Raises
    ------
    FloatingPointError
        If the loss stops being finite.
    """
    optimizer = torch.optim.AdamW(_parameter_groups(module, plan), lr=plan.learning_rate, betas=plan.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.rate_at)
    history: list[dict[str, float]] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _restore(checkpoint, module, optimizer, schedule)
    module.train()
    total = plan.epochs * plan.steps_per_epoch
    done = len(history) * plan.steps_per_epoch
    with tqdm(total=total, initial=done, desc=description, unit="step", disable=verbose < 1) as bar:
        for epoch in range(len(history), plan.epochs):
            history.append(_run_epoch(epoch, module, loss, batches(epoch), plan, optimizer, schedule, bar))
            if checkpoint is not None:
                _save(checkpoint, module, optimizer, schedule, history)
    module.eval()
    return pd.DataFrame(history)


def _run_epoch(
    epoch: int,
    module: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    plan: TrainingPlan,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    bar: Any,
) -> dict[str, float]:
    rate = optimizer.param_groups[0]["lr"]
    steps = []
    for batch in batches:
        steps.append(_train_step(module, loss, batch, plan, optimizer))
        schedule.step()
        bar.update()
        bar.set_postfix({name: f"{value:.3f}" for name, value in steps[-1].items()}, refresh=False)
    means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    return {"epoch": epoch, "learning_rate": rate, **means}


def _train_step(
    module: nn.Module, loss: Loss, batch: Batch, plan: TrainingPlan, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    device = next(module.parameters()).device
    with torch.autocast(device.type, plan.amp_dtype, enabled=plan.amp_dtype is not None):
        terms = loss(module, batch)
    if not torch.isfinite(terms["loss"]):
        values = {name: value.item() for name, value in terms.items()}
        raise FloatingPointError(f"The loss is not finite: {values}. Fix: lower the learning rate.")
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], plan.clip_norm)
    optimizer.step()
    return {name: value.item() for name, value in terms.items()}


def _parameter_groups(module: nn.Module, plan: TrainingPlan) -> list[dict[str, Any]]:
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _save(
    checkpoint: str | os.PathLike,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    history: list[dict[str, float]],
) -> None:
    path = Path(checkpoint)
    half = path.with_name(path.name + ".part")
    torch.save(
        {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "history": history,
        },
        half,
    )
    half.replace(path)


def _restore(
    checkpoint: str | os.PathLike,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> list[dict[str, float]]:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["rng"])
    return list(state["history"])
