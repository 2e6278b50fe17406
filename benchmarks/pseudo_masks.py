"""How good are masks made from the stain alone? Dice against annotated masks of the shared cell data.

    python benchmarks/pseudo_masks.py --out docs/tables/pseudo_masks.csv

The settings in `segmentation.stain` were chosen on cells that are not held out (`training/cells.py`), so the
held-out column is the one to believe.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from shared_cells import DATA, read_tables
from tqdm import tqdm

from sam_bloodcell.images.masks import load_mask
from sam_bloodcell.images.reading import load_rgb
from sam_bloodcell.segmentation.stain import stain_mask

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "training"))
from cells import is_held_out  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/pseudo_masks.csv"))
    args = parser.parse_args()
    cells = read_tables("cells.csv")
    cells = cells[cells["mask"] != ""].copy()
    dice = []
    for row in tqdm(cells.itertuples(), total=len(cells)):
        found, truth = stain_mask(load_rgb(row.path)), load_mask(DATA / row.mask)
        dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    cells["dice"] = dice
    held_out = [is_held_out(Path(path).relative_to(DATA).as_posix()) for path in cells["path"]]
    cells["split"] = np.where(held_out, "held out", "looked at")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cells[["domain", "split", "dice"]].round(4).to_csv(args.out, index=False)
    by = cells.groupby(["domain", "split"])["dice"]
    table = by.agg(["count", "mean", "std", "median", "min"])
    table["share above 0.8"] = by.apply(lambda d: (d > 0.8).mean())
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
