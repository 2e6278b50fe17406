"""What a few labelled cells of a new laboratory bring: each laboratory in turn is new, all others train.

python benchmarks/few_labels.py [--out docs/tables/few_labels.csv] [--cache-dir FOLDER]

Balanced accuracy and expected calibration error on the cells without a label, over the number of labelled ones, which
are chosen at random or as `CellClassifier.cells_to_label` chooses them. The features are those of the default
`CrossDomainAutoencoder`, fitted on the training laboratories, which then learns the new one from its unlabelled cells;
the classifier is the default one. Five common classes, at most 150 cells of a class and laboratory, three seeds. No
patient of jhu, whose patients are known, has both labelled and tested cells.
"""

import argparse
from pathlib import Path

import pandas as pd
from shared_cells import read_tables, with_common_names

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES
from sam_bloodcell.evaluation import label_curve

# The weight of the labelled cells, the way of choosing them and the least number for a temperature were chosen on the
# first three laboratories.
LABORATORIES = {"chosen on": ("tecom", "acevedo", "cellavision"), "tested on": ("jhu", "munich_bm", "leukocytes")}
SEEDS = (0, 1, 2)


def read_cells():
    """Read at most 150 cells of each common class of each laboratory."""
    cells = with_common_names(read_tables()).sample(frac=1, random_state=0)
    cells = cells[cells["domain"].isin(sum(LABORATORIES.values(), ())) & cells["label"].isin(COMMON_CLASSES)]
    return cells.groupby(["domain", "label"]).head(150).reset_index(drop=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache-dir", type=Path)
    args = parser.parse_args()
    cells = read_cells()
    embeddings = SAMLoRAEmbedder("vit_tiny", cache_dir=args.cache_dir).fit_transform(cells)
    tables = []
    for purpose, names in LABORATORIES.items():
        for new in names:
            known = (cells["domain"] != new).to_numpy()
            for seed in SEEDS:
                autoencoder = CrossDomainAutoencoder(random_state=seed).fit(embeddings[known])
                features = autoencoder.add_domain(embeddings[~known], new).transform(embeddings)
                curve = label_curve(
                    features, cells["label"], domain=cells["domain"], new=[new], n_draws=2, random_state=seed,
                    groups=cells["group"] if cells.loc[~known, "group"].all() else None,
                )  # fmt: skip
                tables.append(curve.assign(laboratories=purpose, seed=seed))
            print(tables[-1].groupby(["test_domain", "chosen", "n_labels"])["balanced_accuracy"].mean(), flush=True)
    table = pd.concat(tables, ignore_index=True)
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
