"""Which classifier `CellClassifier` has by default: logistic regressions of several strengths, calibrated and not.

python benchmarks/default_classifier.py [--out docs/tables/default_classifier.csv]

The settings are compared on three laboratories, on which the default is chosen, and again on three others. Features
are those of the default `CrossDomainAutoencoder`, fitted on the unlabelled cells of the three laboratories together; at
most 150 cells of a class and laboratory, five common classes, five folds within a laboratory.
"""

import argparse
from pathlib import Path

import pandas as pd
from shared_cells import read_tables, with_common_names
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES
from sam_bloodcell.evaluation import cross_domain_predictions, score_predictions

LABORATORIES = {"chosen on": ("tecom", "acevedo", "cellavision"), "tested on": ("jhu", "munich_bm", "leukocytes")}
STRENGTHS = [(1.0, None), (1.0, "balanced"), (0.1, None), (0.1, "balanced"), (0.01, "balanced")]
CALIBRATIONS = (None, "sigmoid", "temperature")


def read_cells(domains):
    """Read at most 150 cells of each common class of each laboratory; classes of fewer than 10 cells are left out."""
    cells = with_common_names(read_tables()).sample(frac=1, random_state=0)
    cells = cells[cells["domain"].isin(domains) & cells["label"].isin(COMMON_CLASSES)]
    groups = cells.groupby(["domain", "label"])
    cells = cells[groups["path"].transform("size") >= 10].groupby(["domain", "label"]).head(150)
    return cells.reset_index(drop=True)


def make_classifiers():
    """Return every strength with every calibration, by name."""
    classifiers = {}
    for strength, weight in STRENGTHS:
        for method in CALIBRATIONS:
            model = LogisticRegression(C=strength, class_weight=weight, max_iter=3000)
            model = make_pipeline(StandardScaler(), model)
            if method:
                model = CalibratedClassifierCV(model, method=method, cv=5, ensemble=False)
            classifiers[f"C={strength:g}, {'equal weights' if weight else 'as they are'}, {method or 'none'}"] = model
    return classifiers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache-dir", type=Path, help="keeps the embeddings for the next run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tables = []
    for purpose, domains in LABORATORIES.items():
        cells = read_cells(domains)
        embeddings = SAMLoRAEmbedder("vit_tiny", cache_dir=args.cache_dir, verbose=1).fit_transform(cells)
        features = CrossDomainAutoencoder(random_state=0).fit(embeddings).transform(embeddings)
        found = cross_domain_predictions(
            make_classifiers(), features, cells["label"], domain=cells["domain"], random_state=0, verbose=1
        )
        scores = score_predictions(found)
        where = (scores["train_domain"] == scores["test_domain"]).map({True: "within", False: "across"})
        pairs = scores.groupby(["classifier", where, "train_domain", "test_domain"], sort=False)
        means = pairs[["balanced_accuracy", "ece"]].mean().groupby(level=[0, 1], sort=False).mean()
        tables.append(means.rename_axis(["classifier", "where"]).reset_index().assign(laboratories=purpose))
    table = pd.concat(tables, ignore_index=True)
    print(table.pivot_table(index="classifier", columns=["laboratories", "where"], sort=False).round(3).to_string())
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
