"""The packaged autoencoder: vit_tiny's embeddings of its training laboratories -> 50 cross-domain features.

    python training/vit_tiny_autoencoder.py --package src/sam_bloodcell/weights/vit_tiny

Reads the cells that the other stages may see too, and no class label.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from cells import FIRST, SHARED_DATA, training_rows

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.evaluation import domain_shift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="folder to write autoencoder/ into")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder_log = json.loads((args.package / "training_log.json").read_text())["encoder"]
    laboratories = encoder_log.get("laboratories", FIRST)
    rows = training_rows(laboratories)
    domain = np.array([row["domain"] for row in rows])
    cells = SAMLoRAEmbedder("vit_tiny", verbose=1).fit_transform([SHARED_DATA / row["path"] for row in rows])
    start = time.time()
    autoencoder = CrossDomainAutoencoder(random_state=args.seed, verbose=1).fit(cells, domain=domain)
    seconds = round(time.time() - start, 1)
    shift = {"embeddings": cells, "features": autoencoder.transform(cells, domain=domain)}
    log = {
        "seed": args.seed,
        "cells": dict(zip(*(part.tolist() for part in np.unique(domain, return_counts=True)), strict=True)),
        "wall_seconds": seconds,
        "last_epoch": autoencoder.history_.iloc[-1].to_dict(),
        "domain_shift": {
            name: domain_shift(features, domain, random_state=0)
            .loc["all", ["mmd", "domain_accuracy", "chance"]]
            .to_dict()
            for name, features in shift.items()
        },
    }
    folder = args.package / "autoencoder"
    after = log["domain_shift"]["features"]
    autoencoder.set_params(verbose=0).save_pretrained(
        folder,
        metrics={"domain guessed from features": after["domain_accuracy"], "MMD between laboratories": after["mmd"]},
        data=f"80% of the unlabelled cells of {', '.join(laboratories)} (see training/README.md)",
        licence="apache-2.0",
        base="vit_tiny",
    )
    (folder / "training_log.json").write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log, indent=2))


if __name__ == "__main__":
    main()
