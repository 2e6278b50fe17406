"""How many cells of a class are enough: its recall by the number of its cells in training, beside 60 of each other.

    python benchmarks/cells_per_class.py

Classes with 75 cells or more in acevedo, jhu and munich_bm (shared cells, vit_tiny, `CrossDomainAutoencoder`), tested
on 15 cells of the laboratory that training left out ("within") and on all cells of the others ("across"); mean over
classes, laboratories, four draws and three classifiers.
"""

import numpy as np
import pandas as pd
from shared_cells import read_tables, with_common_names

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES
from sam_bloodcell.evaluation import default_classifiers

OTHERS, TESTED, MOST = 60, 15, 100


def main():
    rows = []
    for csv, trained_in in (("cells.csv", ["acevedo"]), ("more_cells.csv", ["jhu", "munich_bm"])):
        table = with_common_names(read_tables(csv))
        table = table[table["label"].isin(COMMON_CLASSES)].sample(frac=1, random_state=0)
        table = table.groupby(["domain", "label"]).head(MOST).reset_index(drop=True)
        domain, label = table["domain"].to_numpy(str), table["label"].to_numpy(str)
        pooled = SAMLoRAEmbedder("vit_tiny", verbose=1).fit_transform(table["path"])
        X = CrossDomainAutoencoder(random_state=0).fit(pooled, domain=domain).transform(pooled, domain=domain)
        for name in trained_in:
            cells = {kind: np.flatnonzero((domain == name) & (label == kind)) for kind in COMMON_CLASSES}
            cells = {kind: found for kind, found in cells.items() if len(found) >= OTHERS + TESTED}
            for seed in range(4):
                drawn = {kind: np.random.default_rng(seed).permutation(found) for kind, found in cells.items()}
                for kind in cells:
                    elsewhere = np.flatnonzero((domain != name) & (label == kind))
                    for n in (4, 8, 16, 32, 60):
                        sizes = {one: n if one == kind else OTHERS for one in cells}
                        train = np.concatenate([drawn[one][TESTED : TESTED + size] for one, size in sizes.items()])
                        for model in ("RF", "SVM rbf", "LR"):
                            fitted = default_classifiers(seed)[model].fit(X[train], label[train])
                            found = [
                                (fitted.predict(X[test]) == kind).mean() for test in (drawn[kind][:TESTED], elsewhere)
                            ]
                            rows.append((n, *found))
    table = pd.DataFrame(rows, columns=["cells", "within", "across"])
    print(table.groupby("cells").mean().round(2).to_string())


if __name__ == "__main__":
    main()
