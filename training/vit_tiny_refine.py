"""Stage 4 of vit_tiny: a second distillation with stronger views and one more teacher, in minutes on a GPU.

No class label is read. The targets of a cell are its embedding by the encoder of stage 3, averaged over turns and
flips and standardised within the laboratory; the ranks of its measures within the laboratory; its ImageNet features,
reduced to 32 components and standardised within the laboratory; and its cluster in these targets. The encoder sees
each cell in two stains at once, with other surroundings and sharpness. Run from the project's root:

    python training/vit_tiny_refine.py pack                          # where the cells are: cells.npz
    python training/vit_tiny_refine.py train --start runs/package3   # where the GPU is; an interrupted run resumes
"""

import argparse
import io
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from cells import SHARED_DATA, TRAINED, real_cells, training_rows
from measures import ranks
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F
from vit_tiny_distill import Distillation, draws, export, first_weights, standardise
from vit_tiny_encoder import SIZE, Pretraining, pool

from sam_bloodcell.images.stain_views import jitter_stain, random_affine, stain_statistics, warp
from sam_bloodcell.models.losses import segmentation_loss
from sam_bloodcell.models.training import TrainingPlan, train
from sam_bloodcell.weights.adapters import adapter_settings

# Side in pixels of the views and number of the cells, by turns; each cell has two views.
VIEWS = ((112, 384), (112, 384), (224, 96))
SEGMENTED = 32  # of the first views at 224 px
ZOOM = (0.5, 1.35)
WEBP_QUALITY = 84  # the cells then take 29 MB
COMPONENTS, CLUSTERS = 32, 64
# What the teachers weigh, and what likeness, clusters and masks weigh beside all targets.
TEACHERS = {"embedding": 1.0, "measures": 2.0, "imagenet": 1.0}
LIKENESS, CLUSTER, MASKS, TEMPERATURE = 0.5, 0.5, 0.3, 0.1
# The weights that are kept are a running mean over about 1,000 steps, averaged with those that training began from.
DECAY = 0.999


def pack(folder: Path, imagenet: Path, distilled: Path) -> None:
    """Write the training cells as squares with their masks, and the targets that need no GPU: cells.npz."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from laboratories_imagenet import embed_imagenet

    rows = training_rows()
    cells, known = real_cells(rows, SIZE), np.load(distilled)
    if known["path"].tolist() != [row["path"] for row in rows]:
        sys.exit(f"{distilled} is of other cells. Fix: run stage 3 again.")
    features = embed_imagenet([str(SHARED_DATA / row["path"]) for row in rows], imagenet, folder / "imagenet.npz")
    reduced = PCA(COMPONENTS, whiten=True, random_state=0).fit_transform(standardise(features, cells.domain))
    encoded = [_webp(pixels) for pixels in cells.pixels]
    np.savez_compressed(
        folder / "cells.npz",
        webp=np.frombuffer(b"".join(encoded), np.uint8),
        ends=np.cumsum([len(each) for each in encoded]),
        domain=cells.domain,
        masks=np.packbits(known["masks"][:, ::2, ::2].reshape(len(rows), -1), axis=1),
        measures=ranks(known["measures"], cells.domain).astype(np.float16),
        imagenet=standardise(reduced, cells.domain).astype(np.float16),
    )


def _webp(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", quality=WEBP_QUALITY)
    return content.getvalue()


def read(file: Path, device: torch.device) -> dict:
    """Pixels (n, 3, 224, 224) and masks (n, 1, 224, 224) as uint8 on the device; the rest as arrays."""
    with np.load(file) as packed:
        data = {name: packed[name] for name in packed.files}
    parts = np.split(data.pop("webp"), data.pop("ends")[:-1])
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        images = list(workers.map(lambda part: np.asarray(Image.open(io.BytesIO(part.tobytes()))), parts))
    half = np.unpackbits(data.pop("masks"), axis=1).reshape(-1, 1, SIZE // 2, SIZE // 2)
    masks = F.interpolate(torch.from_numpy(half).float(), scale_factor=2, mode="bilinear").gt(0.5).byte()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return {"pixels": pixels.to(device), "masks": masks.to(device), **data}


class Refinement(Distillation):
    """SAM with a linear layer that gives the targets, one that gives clusters of them, and the running mean of SAM."""

    def __init__(self, pixel_stats: tuple, start: dict[str, Tensor], n_targets: int) -> None:
        super().__init__(pixel_stats, start, n_targets)
        self.cluster = nn.Linear(self.sam.size.width, CLUSTERS)
        self.register_buffer("steps", torch.zeros(()))

    def follow(self) -> None:
        """Move the running mean faster in the first steps, so that the weights at the start do not stay in it."""
        self.steps += 1
        super().follow(min(DECAY, self.steps.item() / (self.steps.item() + 10)))


def disturb(images: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """Change light, colour, sharpness and surroundings more than `jitter_stain` does."""
    n = len(images)

    def normal(deviation: float, channels: int) -> Tensor:
        return deviation * torch.randn(n, channels, 1, 1, generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) < probability

    # Surroundings: the mean colour of those of another cell.
    masks = F.max_pool2d(masks, 9, 1, 4)
    outside = 1 - masks
    mean = (images * outside).sum((2, 3), keepdim=True) / (outside.sum((2, 3), keepdim=True) + 1e-3)
    plain = mean[torch.randperm(n, generator=generator)] + 0.02 * torch.randn(images.shape, generator=generator)
    inside = F.avg_pool2d(masks, 5, 1, 2)
    images = torch.where(chance(0.25), images * inside + plain * (1 - inside), images)
    # Light and colour
    images = torch.where(chance(0.5), images.clamp(1e-3, 1) ** normal(0.3, 1).exp() * normal(0.06, 3).exp(), images)
    # Sharpness: half the resolution
    small = F.interpolate(F.avg_pool2d(images, 2), size=images.shape[-1], mode="bilinear")
    return torch.where(chance(0.25), small, images).clamp(0, 1)


class RefinementBatches:
    """Batches on the device of the cells; they depend on the seed and the epoch alone."""

    def __init__(self, data: dict, targets: list[Tensor], steps: int, seed: int) -> None:
        self.pixels, self.masks = data["pixels"], data["masks"]
        self.targets, self.clusters, self.weights = targets
        self.steps, self.seed = steps, seed
        self.chance, donors = draws(data["domain"])
        self.donors = stain_statistics(self.pixels[self.rows(donors)][:, :, ::2, ::2] / 255)

    def __call__(self, epoch: int):
        rng = np.random.default_rng([self.seed, epoch])
        generator = torch.Generator(self.pixels.device).manual_seed(int(rng.integers(2**62)))
        for step in range(self.steps):
            size, count = VIEWS[step % len(VIEWS)]
            yield self.batch(rng.choice(len(self.chance), count, replace=False, p=self.chance), size, generator)

    def rows(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.pixels.device)

    def batch(self, drawn: np.ndarray, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = self.rows(drawn)
        pixels, masks = (each[rows].repeat(2, 1, 1, 1).float() for each in (self.pixels, self.masks))
        affine = random_affine(2 * len(drawn), generator, ZOOM)
        masks = warp(masks, affine, size)
        views = disturb(jitter_stain(warp(pixels / 255, affine, size), self.donors, generator), masks, generator)
        batch = {"views": views, "inside": F.avg_pool2d(masks, 16) + 1e-3}
        batch |= {"targets": self.targets[rows], "clusters": self.clusters[rows], "weights": self.weights}
        if size == SIZE:
            batch["masks"] = (F.avg_pool2d(masks[:SEGMENTED], 4)[:, 0] > 0.5).long()
        return batch


def likeness_loss(first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
    """Divergence of how alike two views of cells are in features from how alike the cells are in targets, (n, d)."""
    known = F.normalize(targets, dim=1)
    wanted = (known @ known.T / TEMPERATURE).log_softmax(1)
    like = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / TEMPERATURE
    both = [F.kl_div(x.log_softmax(1), wanted, log_target=True, reduction="batchmean") for x in (like, like.T)]
    return (both[0] + both[1]) / 2


def refinement_loss(module: Refinement, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Targets + likeness between the views + clusters + segmentation, the last of large views only."""
    module.follow()
    tokens = module.tokens(batch["views"])
    features = pool(tokens.float(), batch["inside"])
    weights, targets = batch["weights"], batch["targets"]
    wrong = ((module.head(features).float() - targets.repeat(2, 1)).square() * weights).sum(1).mean()
    views = (features - features.mean(0)).float().chunk(2)
    unlike = likeness_loss(*views, targets * weights.sqrt())
    clusters = F.cross_entropy(module.cluster(features).float(), batch["clusters"].repeat(2))
    loss, dice = wrong + LIKENESS * unlike + CLUSTER * clusters, torch.zeros(())
    if "masks" in batch:
        logits = module.sam.mask_logits(tokens[: len(batch["masks"])])[0].float()
        segmentation = segmentation_loss(logits, batch["masks"])
        loss, dice = loss + MASKS * segmentation["loss"], segmentation["dice_loss"]
    return {"loss": loss, "targets": wrong, "likeness": unlike, "clusters": clusters, "dice_loss": dice}


@torch.inference_mode()
def mean_embedding(module: Pretraining, pixels: Tensor, masks: Tensor, batch: int = 256) -> np.ndarray:
    """Pooled features (n, 192), averaged over four turns of the picture and of its mirror image."""
    found = []
    for start in range(0, len(pixels), batch):
        pair = pixels[start : start + batch].float() / 255, masks[start : start + batch].float()
        views = [[torch.rot90(x.flip(3) if turn > 3 else x, turn % 4, (2, 3)) for x in pair] for turn in range(8)]
        with torch.autocast(pixels.device.type, torch.bfloat16):
            each = [pool(module.tokens(view).float(), F.avg_pool2d(mask, 16) + 1e-3).float() for view, mask in views]
        found.append(torch.stack(each).mean(0))
    return torch.cat(found).cpu().numpy()


def make_targets(module: Pretraining, data: dict) -> list[Tensor]:
    """Targets (n, d) of all teachers, clusters (n,) of them, and weights (d,) of each number, of which the sum is 1."""
    embedding = standardise(mean_embedding(module, data["pixels"], data["masks"]), data["domain"])
    known = data | {"embedding": embedding}
    targets = np.hstack([known[name] for name in TEACHERS]).clip(-4, 4).astype(np.float32)
    weights = [np.full(known[name].shape[1], weight / known[name].shape[1]) for name, weight in TEACHERS.items()]
    weights = (np.concatenate(weights) / sum(TEACHERS.values())).astype(np.float32)
    clusters = KMeans(CLUSTERS, n_init=1, random_state=0).fit_predict(targets * np.sqrt(weights)).astype(np.int64)
    return [torch.from_numpy(each).to(data["pixels"].device) for each in (targets, clusters, weights)]


def refine(args: argparse.Namespace) -> None:
    """Train, then write encoder.safetensors (fp16), decoder.safetensors and log.json, as stage 1 does."""
    began, device = time.time(), torch.device(args.device)
    start, data = first_weights(args.start), read(args.out / "cells.npz", device)
    torch.set_default_device(device)
    torch.manual_seed(args.seed)
    pixel_stats = adapter_settings(args.start / "adapter")["pixel_stats"]
    targets = make_targets(Refinement(pixel_stats, start, 1).eval(), data)
    module = Refinement(pixel_stats, start, targets[0].shape[1])
    plan = TrainingPlan(
        epochs=args.epochs,
        steps_per_epoch=args.steps,
        learning_rate=8e-4,
        warmup_steps=200,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        amp_dtype=torch.bfloat16,
    )
    batches = RefinementBatches(data, targets, args.steps, args.seed)
    history = train(module, refinement_loss, batches, plan, checkpoint=args.out / "checkpoint.pt", verbose=1)
    export(module, [start], args.out)
    log = {
        "seed": args.seed,
        "began_from": json.loads((args.start / "training_log.json").read_text())["encoder"],
        "laboratories": TRAINED,
        "pixel_stats": pixel_stats,
        "real_cells": len(data["domain"]),
        "trained_steps": len(history) * args.steps,
        "wall_seconds": round(time.time() - began),
        "last_epoch": history[-1],
    }
    (args.out / "log.json").write_text(json.dumps(log, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["pack", "train"])
    parser.add_argument("--out", type=Path, default=Path("runs/refine"), help="folder of cells.npz and the results")
    parser.add_argument("--imagenet", type=Path, help="pack: weights of EfficientNet-Lite0")
    parser.add_argument("--distilled", type=Path, default=Path("runs/encoder3/targets.npz"), help="pack: from stage 3")
    parser.add_argument("--start", type=Path, default=Path("runs/package3"), help="train: what stage 3 packaged")
    parser.add_argument("--epochs", type=int, default=30, help="train")
    parser.add_argument("--steps", type=int, default=70, help="train: optimiser steps an epoch")
    parser.add_argument("--device", default="cuda", help="train")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "pack":
        pack(args.out, args.imagenet, args.distilled)
    else:
        refine(args)


if __name__ == "__main__":
    main()
