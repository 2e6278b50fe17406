"""Stage 2 of vit_tiny: train LoRA and decoder by segmentation on an encoder, then package both and measure them.

Trains on the masked real cells that are not held out, on unmasked ones with self-made masks, and on synthetic cells,
through the public estimator. A laboratory that stage 1 left out is left out here too, and all its cells are measured.
Run it from the project's root after stage 1, and again after stages 3 and 4:

    python training/vit_tiny_adapter.py --encoder runs/encoder2 --package runs/package
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from cells import FIRST, SHARED_DATA, manifest, synthetic_cells, training_rows
from safetensors.torch import load_file, save_file

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.images.masks import load_mask
from sam_bloodcell.images.reading import load_rgb
from sam_bloodcell.segmentation import LoRATraining, stain_mask
from sam_bloodcell.weights.adapters import write_adapter
from sam_bloodcell.weights.backbones import Backbone

# Least Dice between stage 1's mask and the stain's for a self-made mask.
AGREEMENT = 0.9


def balanced(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Repeat the cells of smaller laboratories until every laboratory is about as present as the largest."""
    groups = [[row for row in rows if row["domain"] == name] for name in sorted({row["domain"] for row in rows})]
    largest = max(map(len, groups))
    return [row for group in groups for row in group * round(largest / len(group))]


def self_made_masks(
    embedder: SAMLoRAEmbedder, rows: list[dict[str, str]], n: int, seed: int
) -> tuple[list[Path], list[np.ndarray], float]:
    """Masks for cells that have none, where stage 1 and the stain agree; and how often they do.

    Returns
    -------
    images, masks : of at most n cells
        The masks are stage 1's.
    agreeing : share of the n cells
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[:n]
    if not len(drawn):
        return [], [], 0.0
    images = [SHARED_DATA / rows[i]["path"] for i in drawn]
    masks = embedder.predict_masks(images)
    agree = [dice(mask, stain_mask(load_rgb(image))) > AGREEMENT for image, mask in zip(images, masks, strict=True)]
    kept = np.flatnonzero(agree)
    return [images[i] for i in kept], [masks[i] for i in kept], round(len(kept) / len(drawn), 3)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def dice_by_domain(embedder: SAMLoRAEmbedder, rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Dice and IoU of predicted masks against the annotators', at each image's own resolution."""
    predicted = embedder.predict_masks([SHARED_DATA / row["path"] for row in rows])
    scores: dict[str, list[tuple[float, float]]] = {}
    for row, mask in zip(rows, predicted, strict=True):
        truth = load_mask(SHARED_DATA / row["mask"])
        score = dice(mask, truth)
        scores.setdefault(row["domain"], []).append((score, score / (2 - score)))
    return {
        domain: {
            "cells": len(values),
            "dice_mean": round(float(np.mean(values, axis=0)[0]), 4),
            "dice_std": round(float(np.std(values, axis=0, ddof=1)[0]), 4),
            "dice_min": round(float(np.min(values, axis=0)[0]), 4),
            "iou_mean": round(float(np.mean(values, axis=0)[1]), 4),
        }
        for domain, values in scores.items()
    }


def main() -> None:
    """Train, package, measure on held-out cells, and write the log beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, default=Path("runs/encoder"))
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--synthetic", type=int, default=256, help="synthetic cells")
    parser.add_argument("--self-made", type=int, default=300, help="unmasked cells to make masks for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    args = parser.parse_args()
    args.package.mkdir(parents=True, exist_ok=True)
    encoder_log = json.loads((args.encoder / "log.json").read_text())

    # The packaged encoder is float16, so the adapter is trained on exactly those numbers.
    base = args.encoder / "base.safetensors"
    encoder = load_file(args.encoder / "encoder.safetensors")
    decoder = load_file(args.encoder / "decoder.safetensors")
    save_file(encoder | decoder, base)
    settings = {"backbone": str(base), "pixel_stats": encoder_log["pixel_stats"], "verbose": 1}
    rows = training_rows(encoder_log.get("laboratories", FIRST), encoder_log.get("without"))
    masked = [row for row in rows if row["mask"]]
    own_images, own_masks, agreeing = self_made_masks(
        SAMLoRAEmbedder(**settings, prompt="none").fit([SHARED_DATA / rows[0]["path"]]),
        [row for row in rows if not row["mask"]],
        args.self_made,
        args.seed,
    )
    drawn = synthetic_cells(args.synthetic, 224, args.seed + 1)
    images = [SHARED_DATA / row["path"] for row in balanced(masked)] + own_images + list(drawn.pixels)
    masks = [SHARED_DATA / row["mask"] for row in balanced(masked)] + own_masks + list(drawn.masks)
    training = LoRATraining(
        epochs=args.epochs,
        warmup_epochs=2,
        validation_fraction=0,
        learning_rate=args.learning_rate,
        random_state=args.seed,
    )
    embedder = SAMLoRAEmbedder(**settings, training=training)
    start = time.time()
    embedder.fit(images, masks=masks)
    seconds = round(time.time() - start)

    shutil.copy(args.encoder / "encoder.safetensors", args.package)
    write_adapter(embedder.adapter_, args.package / "adapter", Backbone("vit_tiny"), dtype=torch.float16)
    packaged = SAMLoRAEmbedder(str(base), args.package / "adapter").fit(images[:1])
    seen = {row["path"] for row in rows}
    unseen = [row for row in manifest() if row["mask"] and row["path"] not in seen]
    log = {
        "encoder": encoder_log,
        "adapter": {
            "epochs": args.epochs,
            "learning_rate": args.learning_rate,
            "seed": args.seed,
            "masked_cells": len(masked),
            "self_made_masks": len(own_masks),
            "self_made_agreeing": agreeing,
            "synthetic_cells": args.synthetic,
            "wall_seconds": seconds,
            "last_epoch": embedder.history_.iloc[-1].to_dict(),
        },
        "unseen": dice_by_domain(packaged, unseen),
        "training": dice_by_domain(packaged, masked),
    }
    saved = args.package / "training_log.json"
    if saved.exists():  # scores of separate trainings that left a laboratory out, merged by hand
        log["left_out"] = json.loads(saved.read_text()).get("left_out", {})
    saved.write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log["unseen"], indent=2))


if __name__ == "__main__":
    main()
