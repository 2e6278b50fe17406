"""How many cells of an unknown laboratory one call of `transform` needs: each laboratory in turn is the unknown one.

python benchmarks/cells_in_a_call.py [--cache-dir FOLDER]

All other laboratories train the default autoencoder and classifier (five common classes, at most 150 cells of a class
and laboratory). The cells of the unknown one are then classified in calls of 1, 5, 20 and so on, drawn at random from
all its classes; the last number is that of all its cells in one call. Printed is the balanced accuracy.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from few_labels import read_cells
from sklearn.metrics import balanced_accuracy_score

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.evaluation import default_classifiers

SIZES = (1, 5, 10, 20, 40, 80, None)


def score_calls(embeddings, cells, new):
    """Return the balanced accuracy in an unknown laboratory by the number of cells in a call."""
    known = (cells["domain"] != new).to_numpy()
    labels = cells["label"].to_numpy()
    autoencoder = CrossDomainAutoencoder(random_state=0).fit(embeddings[known])
    classifier = default_classifiers(0)["LR balanced"].fit(autoencoder.transform(embeddings[known]), labels[known])
    counts = cells.loc[~known, "label"].value_counts()
    rows = np.flatnonzero(~known & cells["label"].isin(counts.index[counts >= 5]).to_numpy())
    rows = np.random.default_rng(0).permutation(rows)
    found = {}
    for size in SIZES:
        calls = np.array_split(rows, max(1, len(rows) // (size or len(rows))))
        answers = [classifier.predict(autoencoder.transform(embeddings[call])) for call in calls]
        found["all" if size is None else size] = balanced_accuracy_score(labels[rows], np.concatenate(answers))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path)
    args = parser.parse_args()
    cells = read_cells()
    embeddings = SAMLoRAEmbedder("vit_tiny", cache_dir=args.cache_dir).fit_transform(cells)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of few cells, of an answer outside the classes scored: this is what is measured
        table = pd.DataFrame({new: score_calls(embeddings, cells, new) for new in cells["domain"].unique()}).T
    print(pd.concat([table, table.mean().to_frame("mean").T]).round(2).to_string())


if __name__ == "__main__":
    main()
