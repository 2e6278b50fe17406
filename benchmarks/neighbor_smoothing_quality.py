"""What `NeighborSmoothedClassifier` gains across six laboratories, in pairs and with one laboratory left out.

python benchmarks/neighbor_smoothing_quality.py [--cache-dir FOLDER] [--out FILE.csv]

Balanced logistic regression (C=0.1) on three kinds of features, five common classes, at most 150 cells of a class and
laboratory to train on. Standardisation and the autoencoder know the cells of all laboratories, but no label. Scores are
the mean recall of the classes with at least 5 training and 3 test cells. The last lines choose the kappa of
`neighbor_agreement` below which smoothing is given up, on three tested laboratories, and report it on the others.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from shared_cells import read_tables, with_common_names
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sam_bloodcell import CrossDomainAutoencoder, NeighborSmoothedClassifier, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES

LABORATORIES = ("tecom", "acevedo", "cellavision", "jhu", "munich_bm", "leukocytes")


def read_cells():
    """Read all cells of the common classes of the laboratories."""
    cells = with_common_names(read_tables())
    known = cells["domain"].isin(LABORATORIES) & cells["label"].isin(COMMON_CLASSES)
    return cells[known].reset_index(drop=True)


def compute_features(cells, cache_dir):
    """Compute the features of all cells by name."""
    embeddings = SAMLoRAEmbedder("vit_tiny", cache_dir=cache_dir).fit_transform(cells)
    pooled = pd.DataFrame(np.asarray(embeddings, np.float64)).groupby(cells["domain"])
    standardised = pooled.transform(lambda column: (column - column.mean()) / (column.std(ddof=0) or 1.0)).to_numpy()
    aligned = CrossDomainAutoencoder(random_state=0).fit_transform(embeddings)
    return {"pooled": np.asarray(embeddings), "standardised": standardised, "autoencoder": aligned}


def score_split(features, cells, training, tested):
    """Score one split of the laboratories, without and with smoothing."""
    labels, domain = cells["label"].to_numpy(), cells["domain"].to_numpy()
    drawn = cells[np.isin(domain, training)].sample(frac=1, random_state=0)
    train = drawn.groupby(["domain", "label"]).head(150).index.to_numpy()
    test = np.flatnonzero(domain == tested)
    classifier = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    smoothed = NeighborSmoothedClassifier(make_pipeline(StandardScaler(), classifier))
    smoothed.fit(features[train], labels[train])
    counts = [pd.Series(labels[rows]).value_counts() for rows in (train, test)]
    scored = [name for name in counts[0].index if counts[0][name] >= 5 and counts[1].get(name, 0) >= 3]
    scores = {
        name: recall_score(labels[test], found.predict(features[test]), labels=scored, average="macro", zero_division=0)
        for name, found in (("alone", smoothed.estimator_), ("smoothed", smoothed))
    }
    kappa = smoothed.neighbor_agreement(features[test])["kappa"].item()
    return {**scores, "gain": scores["smoothed"] - scores["alone"], "kappa": kappa}


def choose_limit(table):
    """Return the kappa from which on smoothing gains most in all."""
    kappas = np.sort(table["kappa"].unique())
    return max((kappas[1:] + kappas[:-1]) / 2, key=lambda limit: table.loc[table["kappa"] >= limit, "gain"].sum())


def print_limit(table, chosen_on):
    """Choose the limit on some tested laboratories, and print what smoothing gains above and below it on the others."""
    limit = choose_limit(table[table["tested"].isin(chosen_on)])
    others = table[~table["tested"].isin(chosen_on)]
    above = others["kappa"] >= limit
    print(
        f"limit {limit:.3f}, chosen on {', '.join(chosen_on)}; on the others: {others.loc[above, 'gain'].mean():+.3f} "
        f"above it, {others.loc[~above, 'gain'].mean():+.3f} below; of {above.sum()} cases above it, "
        f"{(others.loc[above, 'gain'] < -0.01).sum()} lost more than 0.01"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells = read_cells()
    splits = [("pairs", [one], other) for one in LABORATORIES for other in LABORATORIES if one != other]
    splits += [("left out", [name for name in LABORATORIES if name != left], left) for left in LABORATORIES]
    rows = [
        {"features": name, "split": split, "tested": tested, **score_split(features, cells, training, tested)}
        for name, features in compute_features(cells, args.cache_dir).items()
        for split, training, tested in splits
    ]
    table = pd.DataFrame(rows)
    print(table.groupby(["features", "split"])[["alone", "smoothed", "gain"]].mean().round(3).to_string())
    print(table.pivot_table("gain", "tested", ["features", "split"]).round(3).to_string())
    print_limit(table, LABORATORIES[:3])
    print_limit(table, LABORATORIES[3:])
    if args.out:
        table.to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
