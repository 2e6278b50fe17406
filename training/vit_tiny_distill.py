"""Stage 3 of vit_tiny: train the encoder to give the same features in every laboratory, without a class label.

Training starts from the encoder and adapter of stages 1 and 2. Each cell gets targets once: its embedding by that
encoder, standardised within its laboratory, and the ranks of its measures (the package's `segmentation/measures.py`)
within it. The encoder then sees the cell in the stain of another laboratory. It has to predict the targets through a
linear layer, and cells that are similar in the targets have to be similar in its features. It also predicts the masks
that stages 1 and 2 found. Run from the project's root; an interrupted run resumes:

    python training/vit_tiny_distill.py --start runs/package --out runs/encoder3
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from cells import SHARED_DATA, TRAINED, Cells, as_batch, real_cells, training_rows
from measures import ranks
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from vit_tiny_encoder import SIZE, Pretraining, pool

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.images.stain_views import jitter_stain, random_affine, stain_statistics, warp
from sam_bloodcell.models.losses import segmentation_loss
from sam_bloodcell.models.training import TrainingPlan, train
from sam_bloodcell.segmentation.measures import measure_cells
from sam_bloodcell.weights.adapters import adapter_settings

# Side in pixels and number of the views, by turns: small views show many cells, large ones detail.
VIEWS = ((112, 128), (112, 128), (224, 32))
SEGMENTED = 8  # of the views at 224 px
ZOOM = (0.6, 1.1)
# What the measures weigh beside the embedding, and the batch's likeness beside both.
MEASURES, LIKENESS, TEMPERATURE = 2.0, 0.5, 0.1
# The weights that are kept are a running mean over about 200 steps.
DECAY = 0.995


class Distillation(Pretraining):
    """SAM with a linear layer that gives the targets, and the running mean of SAM's weights."""

    def __init__(self, pixel_stats: tuple, start: dict[str, Tensor], n_targets: int) -> None:
        super().__init__(pixel_stats)
        self.projection = self.cell_type = nn.Identity()
        self.sam.load_state_dict(start, strict=False)
        self.head = nn.Linear(self.sam.size.width, n_targets)
        self.mean_weights = nn.Module()
        for name, weight in self.sam.named_parameters():
            self.mean_weights.register_buffer(name.replace(".", "|"), weight.detach().clone())

    def follow(self, keep: float = DECAY) -> None:
        """Move the running mean, of which the share `keep` stays, towards the present weights."""
        for mean, weight in zip(self.mean_weights.buffers(), self.sam.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - keep)


def mean_weights(trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAM's running mean out of a checkpoint's trained state, with SAM's names."""
    prefix = "mean_weights."
    return {name.removeprefix(prefix).replace("|", "."): v for name, v in trained.items() if name.startswith(prefix)}


def first_weights(package: Path) -> dict[str, Tensor]:
    """Encoder and decoder of stages 1 and 2, without the LoRA."""
    parts = load_file(package / "encoder.safetensors") | load_file(package / "adapter" / "decoder.safetensors")
    return {name: value.float() for name, value in parts.items()}


def make_targets(
    start: dict[str, Tensor], adapter: Path, rows: list[dict[str, str]], cells: Cells, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Targets (n, embedding + measures) and predicted masks (n, 224, 224); kept in the folder for the next call."""
    saved, paths = folder / "targets.npz", [row["path"] for row in rows]
    if not (saved.exists() and np.load(saved)["path"].tolist() == paths):
        save_file(start, folder / "base.safetensors")
        embedder = SAMLoRAEmbedder(str(folder / "base.safetensors"), adapter, cache_dir=folder / "cache", verbose=1)
        embedded = embedder.fit_transform([SHARED_DATA / path for path in paths])
        masks = np.stack([embedded.masks[row] for row in range(len(paths))])
        measures = measure_cells(cells.pixels, masks)
        np.savez_compressed(saved, path=paths, embedding=np.asarray(embedded), measures=measures, masks=masks)
    found = np.load(saved)
    targets = np.hstack([standardise(found["embedding"], cells.domain), ranks(found["measures"], cells.domain)])
    return targets.clip(-4, 4).astype(np.float32), found["masks"]


def standardise(values: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 of each column within each laboratory."""
    found = np.empty_like(values)
    for name in np.unique(domain):
        rows = domain == name
        found[rows] = (values[rows] - values[rows].mean(0)) / (values[rows].std(0) + 1e-6)
    return found


def target_weights(n_targets: int, n_embedding: int) -> Tensor:
    """What each target weighs in the loss; the sum is 1."""
    weights = torch.full((n_targets,), MEASURES / (n_targets - n_embedding))
    weights[:n_embedding] = 1 / n_embedding
    return weights / weights.sum()


def likeness_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Divergence of how alike the cells are in features from how alike in targets, (n, d) each; soft-max over cells."""

    def likeness(vectors: Tensor) -> Tensor:
        unit = F.normalize(vectors, dim=1)
        return (unit @ unit.T / TEMPERATURE).fill_diagonal_(-1e4).log_softmax(1)

    centred = features - features.mean(0).detach()
    return F.kl_div(likeness(centred), likeness(targets), log_target=True, reduction="batchmean")


def distillation_loss(module: Distillation, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Targets + likeness within the batch + segmentation, the last of large views only."""
    module.follow()
    tokens = module.tokens(batch["views"])
    features = pool(tokens.float(), batch["inside"])
    given, weights = module.head(features).float(), batch["weights"]
    wrong = ((given - batch["targets"]).square() * weights).sum(1).mean()
    unlike = likeness_loss(features.float(), batch["targets"] * weights.sqrt())
    loss, dice = wrong + LIKENESS * unlike, torch.zeros(())
    if "masks" in batch:
        logits = module.sam.mask_logits(tokens[: len(batch["masks"])])[0].float()
        terms = segmentation_loss(logits, batch["masks"])
        loss, dice = loss + 0.3 * terms["loss"], terms["dice_loss"]
    return {"loss": loss, "targets": wrong, "likeness": unlike, "dice_loss": dice}


def draws(domain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chance of each cell to be drawn for a batch, and rows of the cells that donate their stain."""
    _, place, counts = np.unique(domain, return_inverse=True, return_counts=True)
    # The square root keeps the small laboratories present without drilling their few cells.
    chance = 1 / np.sqrt(counts[place])
    some = [np.flatnonzero(place == k)[:: max(1, count // 250)] for k, count in enumerate(counts)]
    return chance / chance.sum(), np.concatenate(some)


class DistillationBatches:
    """Batches that depend on the seed and the epoch alone."""

    def __init__(self, cells: Cells, targets: np.ndarray, masks: np.ndarray, weights: Tensor, steps: int, seed: int):
        self.cells, self.targets, self.masks, self.weights = cells, torch.from_numpy(targets), masks, weights
        self.steps, self.seed = steps, seed
        self.chance, donors = draws(cells.domain)
        self.donors = stain_statistics(as_batch(cells.pixels[donors][:, ::2, ::2]))

    def __call__(self, epoch: int):
        rng = np.random.default_rng([self.seed, epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for step in range(self.steps):
            size, count = VIEWS[step % len(VIEWS)]
            yield self.batch(rng.choice(len(self.chance), count, replace=False, p=self.chance), size, generator)

    def batch(self, rows: np.ndarray, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        affine = random_affine(len(rows), generator, ZOOM)
        views = jitter_stain(warp(as_batch(self.cells.pixels[rows]), affine, size), self.donors, generator)
        masks = torch.from_numpy(self.masks[rows])[:, None].float()
        # A cell that the view lost still has a pooled feature, of the whole view.
        inside = F.avg_pool2d(warp(masks, affine, size), 16) + 1e-3
        batch = {"views": views, "inside": inside, "targets": self.targets[rows], "weights": self.weights}
        if size == SIZE:
            chosen = warp(masks[:SEGMENTED], affine[:SEGMENTED], size)
            batch["masks"] = (F.avg_pool2d(chosen, 4)[:, 0] > 0.5).long()
        return batch


def export(module: Distillation, others: list[dict[str, Tensor]], folder: Path) -> None:
    """Write the running mean of the weights, averaged with other weights of SAM: encoder (fp16) and decoder."""
    own = mean_weights(module.state_dict())
    averaged = {name: torch.stack([one[name].cpu() for one in (*others, own)]).mean(0) for name in own}
    state = {name: value.cpu() for name, value in module.sam.state_dict().items()} | averaged
    encoder = {name: value for name, value in state.items() if name.startswith("image_encoder.")}
    save_file({name: value.half().contiguous() for name, value in encoder.items()}, folder / "encoder.safetensors")
    decoder = {name: value.contiguous() for name, value in state.items() if name not in encoder}
    save_file(decoder, folder / "decoder.safetensors")


def main() -> None:
    """Train, then write encoder.safetensors (fp16), decoder.safetensors and log.json, as stage 1 does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("runs/package"), help="what stages 1 and 2 packaged")
    parser.add_argument("--out", type=Path, default=Path("runs/encoder3"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps an epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--average", type=Path, nargs="*", default=[], help="earlier checkpoints to average with")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    rows = training_rows()
    cells = real_cells(rows, SIZE)
    start = first_weights(args.start)
    targets, masks = make_targets(start, args.start / "adapter", rows, cells, args.out)
    encoder_log = json.loads((args.start / "training_log.json").read_text())["encoder"]
    pixel_stats = adapter_settings(args.start / "adapter")["pixel_stats"]
    module = Distillation(pixel_stats, start, targets.shape[1])
    weights = target_weights(targets.shape[1], module.sam.size.width)
    # The rate stays constant, so the training can end after any epoch: the running mean takes the place of a decay.
    plan = TrainingPlan(
        epochs=args.epochs,
        steps_per_epoch=args.steps,
        learning_rate=args.learning_rate,
        warmup_steps=60,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        decay=False,
        amp_dtype=torch.bfloat16,
    )
    began = time.time()
    batches = DistillationBatches(cells, targets, masks, weights, args.steps, args.seed)
    history = train(module, distillation_loss, batches, plan, checkpoint=args.out / "checkpoint.pt", verbose=1)
    earlier = [torch.load(path, map_location="cpu", weights_only=True)["trained"] for path in args.average]
    export(module, [mean_weights(trained) for trained in earlier], args.out)
    log = {
        **json.loads(json.dumps(vars(args), default=str)),
        "began_from": encoder_log,
        "laboratories": TRAINED,
        "pixel_stats": pixel_stats,
        "real_cells": len(rows),
        "trained_steps": len(history) * args.steps,
        "wall_seconds": round(time.time() - began),
        "last_epoch": history[-1],
    }
    (args.out / "log.json").write_text(json.dumps(log, indent=2) + "\n")


if __name__ == "__main__":
    main()
