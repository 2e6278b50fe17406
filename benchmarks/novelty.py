"""How well cells of a type that was never trained on are told from known ones: one type left out at a time.

    python benchmarks/novelty.py --out docs/tables/novelty.csv

Five classes of the shared cells, vit_tiny embeddings. At home: train on half of acevedo without the type, test on the
other half with it. Abroad: train on acevedo without the type, test on tecom and cellavision. Printed: area under the
ROC curve (0.5 is chance) of `AbstainingClassifier.novelty`, mean over types and seeds, and the share answered.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from shared_cells import DATA
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES, load_cells
from sam_bloodcell.evaluation import AbstainingClassifier

LEAST = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path, help="keeps the embeddings for the next run")
    parser.add_argument("--out", type=Path, default=Path("out/novelty.csv"))
    args = parser.parse_args()
    cells = load_cells(DATA / "cells.csv", classes=COMMON_CLASSES)
    pooled = np.asarray(SAMLoRAEmbedder("vit_tiny", cache_dir=args.cache_dir, verbose=1).fit_transform(cells.paths))
    labels, domain = np.asarray(cells.target_names)[cells.target], cells.domain
    aligned = CrossDomainAutoencoder(random_state=0).fit(pooled, domain=domain).transform(pooled, domain=domain)
    rows = []
    for features, X in (("embeddings", pooled), ("autoencoder", aligned)):
        for seed in range(3):
            home = np.flatnonzero(domain == "acevedo")
            train, rest = train_test_split(home, random_state=seed, stratify=labels[home], test_size=0.5)
            tests = {"at home": rest, "tecom": np.flatnonzero(domain == "tecom")}
            tests["cellavision"] = np.flatnonzero(domain == "cellavision")
            for left_out in COMMON_CLASSES:
                known = train[labels[train] != left_out]
                for criterion in ("neighbours", "mahalanobis", "confidence"):
                    fitted = AbstainingClassifier(criterion=criterion, random_state=seed).fit(X[known], labels[known])
                    for where, test in tests.items():
                        new = labels[test] == left_out
                        if new.sum() < LEAST:
                            continue
                        answered = fitted.predict(X[test]) != "unknown"
                        rows.append(
                            {
                                "features": features,
                                "seed": seed,
                                "tested": where,
                                "criterion": criterion,
                                "left out": left_out,
                                "auroc": roc_auc_score(new, fitted.novelty(X[test])),
                                "known answered": answered[~new].mean(),
                                "new answered": answered[new].mean(),
                            }
                        )
    table = pd.DataFrame(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(args.out, index=False)
    values = ["auroc", "known answered", "new answered"]
    groups = table.groupby(["features", "tested", "criterion"], sort=False)[values]
    print(groups.agg(["mean", "std"]).round(3).to_string())
    by_type = table.pivot_table("auroc", ["features", "tested"], "left out")
    print(by_type.round(2).to_string())


if __name__ == "__main__":
    main()
