"""Stage 2 of vit_tiny: LoRA and decoder by segmentation, on top of stage 1; then package both and measure them.

Trains on the masked real cells that are not held out and on synthetic cells, through the public estimator. Run from
the project's root, after `vit_tiny_encoder.py`:

    python training/vit_tiny_adapter.py --encoder runs/encoder --package src/sam_bloodcell/weights/vit_tiny
"""

import argparse
import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from cells import SHARED_DATA, is_held_out, synthetic_cells
from safetensors.torch import load_file, save_file

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.hub import Backbone, write_adapter
from sam_bloodcell.images import load_mask


def masked_rows(held_out: bool) -> list[dict[str, str]]:
    """Rows of the shared cells with masks, on one side of the split."""
    with (SHARED_DATA / "cells.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["mask"] and is_held_out(row["path"]) == held_out]


def balanced(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Repeat the cells of smaller laboratories until every laboratory is about as present as the largest."""
    groups = [[row for row in rows if row["domain"] == name] for name in sorted({row["domain"] for row in rows})]
    largest = max(map(len, groups))
    return [row for group in groups for row in group * round(largest / len(group))]


def dice_by_domain(embedder: SAMLoRAEmbedder, rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Dice and IoU of predicted masks against the annotators', at each image's own resolution."""
    predicted = embedder.predict_masks([SHARED_DATA / row["path"] for row in rows])
    scores: dict[str, list[tuple[float, float]]] = {}
    for row, mask in zip(rows, predicted, strict=True):
        truth = load_mask(SHARED_DATA / row["mask"])
        overlap, total = (mask & truth).sum(), mask.sum() + truth.sum()
        scores.setdefault(row["domain"], []).append((2 * overlap / total, overlap / (total - overlap)))
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
    embedder = SAMLoRAEmbedder(
        str(base),
        pixel_stats=encoder_log["pixel_stats"],
        epochs=args.epochs,
        warmup_epochs=2,
        validation_fraction=0,
        learning_rate=args.learning_rate,
        random_state=args.seed,
        verbose=1,
    )
    rows, drawn = masked_rows(held_out=False), synthetic_cells(args.synthetic, 224, args.seed + 1)
    images = [SHARED_DATA / row["path"] for row in balanced(rows)] + list(drawn.pixels)
    masks = [SHARED_DATA / row["mask"] for row in balanced(rows)] + list(drawn.masks)
    start = time.time()
    embedder.fit(images, masks=masks)
    seconds = round(time.time() - start)

    shutil.copy(args.encoder / "encoder.safetensors", args.package)
    write_adapter(embedder.adapter_, args.package / "adapter", Backbone("vit_tiny"), dtype=torch.float16)
    packaged = SAMLoRAEmbedder(str(base), args.package / "adapter").fit(images[:1])
    log = {
        "encoder": encoder_log,
        "adapter": {
            "epochs": args.epochs,
            "learning_rate": args.learning_rate,
            "seed": args.seed,
            "real_cells": len(rows),
            "synthetic_cells": args.synthetic,
            "wall_seconds": seconds,
            "last_epoch": embedder.history_.iloc[-1].to_dict(),
        },
        "held_out": dice_by_domain(packaged, masked_rows(held_out=True)),
        "training": dice_by_domain(packaged, rows),
    }
    (args.package / "training_log.json").write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log["held_out"], indent=2))


if __name__ == "__main__":
    main()
