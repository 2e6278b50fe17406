"""Stage 1 of vit_tiny: train the encoder from scratch on unlabelled cells.

Three tasks share every step: tell two views of a cell from other cells of its laboratory (contrastive, real cells,
no labels), segment cells (real cells with masks and synthetic ones), and name the type of synthetic cells. Run
from the project's root; a killed run goes on where it stopped:

    python training/vit_tiny_encoder.py --out runs/encoder
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cells import FIRST, Cells, as_batch, real_cells, synthetic_cells, training_rows
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sam_bloodcell.datasets import COMMON_CLASSES
from sam_bloodcell.images.stain_views import jitter_stain, random_affine, stain_statistics, warp
from sam_bloodcell.models.losses import segmentation_loss
from sam_bloodcell.models.sam import SAM, SIZES
from sam_bloodcell.models.training import TrainingPlan, train

SIZE = 224


@dataclass(frozen=True)
class Recipe:
    """What a step is made of.

    Attributes
    ----------
    views : pairs of int
        Side in pixels and pairs of the contrastive views, by turns: small views see many cells, large ones detail.
    segmented : int
        Cells to segment in a step.
    temperature : float
        Of the contrastive loss; a lower one tells more alike cells apart.
    """

    views: tuple[tuple[int, int], ...]
    segmented: int
    temperature: float


RECIPES = {
    "coarse": Recipe(((112, 80), (112, 80), (224, 24)), 14, 0.2),
    "fine": Recipe(((112, 96), (224, 40)), 8, 0.1),
}


class Pretraining(nn.Module):
    """SAM with the two heads that exist only during pretraining."""

    def __init__(self, pixel_stats: tuple) -> None:
        super().__init__()
        self.sam = SAM(SIZES["vit_tiny"], SIZE)
        # One window covers the whole grid, so windowed and global attention are the same thing here; without
        # windows, smaller views need no padding.
        for block in self.sam.image_encoder.blocks:
            block.window_size = 0
        nn.init.trunc_normal_(self.sam.image_encoder.pos_embed, std=0.02)
        width = self.sam.size.width
        self.projection = nn.Sequential(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.GELU(), nn.Linear(512, 128))
        self.cell_type = nn.Linear(width, len(COMMON_CLASSES))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) / 255 for values in pixel_stats)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (n, C, h, w) of images (n, 3, S, S) in [0, 1], S up to 224."""
        encoder = self.sam.image_encoder
        x = encoder.patch_embed((images - self.mean) / self.std)
        position = encoder.pos_embed
        if x.shape[1:3] != position.shape[1:3]:
            position = F.interpolate(position.permute(0, 3, 1, 2), x.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
        x = x + position
        for block in encoder.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


def pool(tokens: Tensor, weight: Tensor) -> Tensor:
    """Mean of tokens (n, C, h, w) under weights (n, 1, h, w), scaled to unit variance over channels."""
    mean = (tokens * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-6)
    return F.layer_norm(mean, mean.shape[1:])


def centre_weight(grid: int) -> Tensor:
    """A bell over the middle, where the cell is: (1, 1, grid, grid)."""
    offset = (torch.arange(grid) + 0.5) / grid - 0.5
    return torch.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 0.22**2))[None, None]


def contrastive_loss(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al., SimCLR, 2020) of two views' projections (n, 128)."""
    z = F.normalize(torch.cat([a, b]).float(), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    n = len(a)
    partner = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarity, partner)


def pretraining_loss(module: Pretraining, batch: dict[str, Tensor], temperature: float) -> dict[str, Tensor]:
    """Contrastive + segmentation + synthetic cell type."""
    tokens = module.tokens(batch["views"])
    first, second = module.projection(pool(tokens, centre_weight(tokens.shape[-1]))).chunk(2)
    contrastive = contrastive_loss(first, second, temperature)

    tokens = module.tokens(batch["images"])
    logits = module.sam.mask_logits(tokens)[0].float()
    segmentation = segmentation_loss(logits, batch["masks"])
    inside = F.adaptive_avg_pool2d(batch["masks"][:, None].float(), tokens.shape[-1])
    known = batch["kind"] >= 0
    types = F.cross_entropy(module.cell_type(pool(tokens, inside))[known].float(), batch["kind"][known])
    loss = contrastive + segmentation["loss"] + 0.3 * types
    return {"loss": loss, "contrastive": contrastive, "dice_loss": segmentation["dice_loss"], "types": types}


class Batches:
    """Batches that depend on the seed and the epoch alone."""

    def __init__(self, real: Cells, synthetic: Cells, recipe: Recipe, steps: int, seed: int) -> None:
        self.real, self.synthetic, self.recipe, self.steps, self.seed = real, synthetic, recipe, steps, seed
        self.by_domain = [np.flatnonzero(real.domain == name) for name in np.unique(real.domain)]
        self.masked = np.flatnonzero(real.masks[:, 0, 0] >= 0)
        every = np.concatenate([rows[:: max(1, len(rows) // 250)] for rows in self.by_domain])
        donors = np.concatenate([real.pixels[every], synthetic.pixels[:200]])
        self.donors = stain_statistics(as_batch(donors[:, ::2, ::2]))

    def __call__(self, epoch: int):
        rng = np.random.default_rng([self.seed, epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        # The square root keeps the small laboratories present without drilling their few cells.
        chance = np.sqrt([len(rows) for rows in self.by_domain])
        chance /= chance.sum()
        for step in range(self.steps):
            size, pairs = self.recipe.views[step % len(self.recipe.views)]
            rows = self.by_domain[rng.choice(len(self.by_domain), p=chance)]
            rows = rng.choice(rows, min(pairs, len(rows)), replace=False)
            yield {"views": self.views(rows, size, generator), **self.segmented(rng, generator)}

    def views(self, rows: np.ndarray, size: int, generator: torch.Generator) -> Tensor:
        images = as_batch(self.real.pixels[rows]).repeat(2, 1, 1, 1)
        images = warp(images, random_affine(len(images), generator, (0.55, 1.05)), size)
        return jitter_stain(images, self.donors, generator)

    def segmented(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        real = rng.choice(self.masked, self.recipe.segmented // 2, replace=False)
        drawn = rng.choice(len(self.synthetic.pixels), self.recipe.segmented - len(real), replace=False)
        pixels = np.concatenate([self.real.pixels[real], self.synthetic.pixels[drawn]])
        masks = np.concatenate([self.real.masks[real], self.synthetic.masks[drawn]])
        affine = random_affine(len(pixels), generator, (0.6, 1.3))
        images = jitter_stain(warp(as_batch(pixels), affine, SIZE), self.donors, generator)
        masks = warp(torch.from_numpy(masks)[:, None].float(), affine, SIZE)
        return {
            "images": images,
            "masks": (F.avg_pool2d(masks, 4)[:, 0] > 0.5).long(),
            "kind": torch.from_numpy(np.r_[np.full(len(real), -1), self.synthetic.kind[drawn]]),
        }


def main() -> None:
    """Train, then write encoder.safetensors (fp16), decoder.safetensors and log.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/encoder"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps an epoch")
    parser.add_argument("--synthetic", type=int, default=3000, help="synthetic cells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--recipe", choices=RECIPES, default="coarse")
    parser.add_argument("--init", type=Path, help="checkpoint of an earlier run whose weights to go on from")
    parser.add_argument("--without", help="laboratory to leave out, to measure on it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    rows = training_rows(FIRST, args.without)
    real, synthetic = real_cells(rows, SIZE), synthetic_cells(args.synthetic, SIZE, args.seed)
    sample = real.pixels[:: max(1, len(real.pixels) // 500)].reshape(-1, 3).astype(np.float64)
    pixel_stats = (sample.mean(0).round(2).tolist(), sample.std(0).round(2).tolist())
    recipe = RECIPES[args.recipe]
    module = Pretraining(pixel_stats)
    if args.init:
        module.load_state_dict(torch.load(args.init, map_location="cpu", weights_only=True)["trained"])
    plan = TrainingPlan(
        epochs=args.epochs,
        steps_per_epoch=args.steps,
        learning_rate=args.learning_rate,
        warmup_steps=60,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        amp_dtype=torch.bfloat16,
    )
    start = time.time()
    history = train(
        module,
        partial(pretraining_loss, temperature=recipe.temperature),
        Batches(real, synthetic, recipe, args.steps, args.seed),
        plan,
        checkpoint=args.out / "checkpoint.pt",
        verbose=1,
    )
    history.to_csv(args.out / "history.csv", index=False)
    state = module.sam.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("image_encoder.")}
    save_file({key: value.half().contiguous() for key, value in encoder.items()}, args.out / "encoder.safetensors")
    decoder = {key: value.contiguous() for key, value in state.items() if key not in encoder}
    save_file(decoder, args.out / "decoder.safetensors")
    log = {
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "pixel_stats": pixel_stats,
        "real_cells": len(real.pixels),
        "masked_cells": int((real.masks[:, 0, 0] >= 0).sum()),
        "wall_seconds": round(time.time() - start),
        "last_epoch": history.iloc[-1].to_dict(),
    }
    (args.out / "log.json").write_text(json.dumps(log, indent=2) + "\n")


if __name__ == "__main__":
    main()
