"""Whether `suspected_labels` finds labels that were made wrong on purpose: its precision and recall on real cells.

    python benchmarks/suspected_labels.py

Up to 60 cells of each of the five common classes and laboratory of the shared cells, embedded by vit_tiny. 5% of the
labels are replaced by another class of the laboratory, drawn at random. The first line is what the thresholds were
chosen on. Precision is a lower bound: the data sets have wrong labels of their own.
"""

import warnings

import numpy as np
from shared_cells import read_tables, with_common_names
from sklearn.utils import Bunch

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES
from sam_bloodcell.evaluation import run_benchmark
from sam_bloodcell.evaluation.findings import recommended, suspected_labels

MOST, LEAST, WRONG, SEEDS = 60, 8, 0.05, 2
LABORATORIES = (
    ["acevedo", "tecom"], ["acevedo", "cellavision"], ["tecom", "cellavision"], ["acevedo", "tecom", "cellavision"],
    ["jhu", "leukocytes"], ["jhu", "munich_bm", "leukocytes"], ["acevedo"], ["tecom"], ["munich_bm"],
)  # fmt: skip


def main():
    warnings.simplefilter("ignore")
    table = with_common_names(read_tables())
    table = table[table["label"].isin(COMMON_CLASSES) & table["domain"].isin({n for ns in LABORATORIES for n in ns})]
    table = table.sample(frac=1, random_state=0).groupby(["domain", "label"]).head(MOST)
    table = table[table.groupby(["domain", "label"])["path"].transform("size") >= LEAST].reset_index(drop=True)
    pooled = np.asarray(SAMLoRAEmbedder("vit_tiny", verbose=1).fit_transform(table["path"]))
    for names in LABORATORIES:
        counts = np.zeros(3, int)
        for seed in range(SEEDS):
            rows = np.flatnonzero(table["domain"].isin(names))
            cells, rng = table.iloc[rows].reset_index(drop=True), np.random.default_rng(seed)
            labels = cells["label"].to_numpy(copy=True)
            wrong = rng.permutation(len(rows))[: round(WRONG * len(rows))]
            for row in wrong:
                own = cells.loc[cells["domain"] == cells["domain"][row], "label"].unique()
                labels[row] = rng.choice(own[own != labels[row]])
            codes, target = np.unique(labels, return_inverse=True)
            bunch = Bunch(images=pooled[rows], target=target, target_names=codes.tolist(), domain=cells["domain"])
            embedder = Bunch(fit_transform=CellEmbeddings)
            result = run_benchmark(bunch, embedder, CrossDomainAutoencoder(random_state=0), random_state=seed)
            found = suspected_labels(result)["row"]
            counts += [len(found), len(np.intersect1d(found, wrong)), len(wrong)]
            name = f"{' + '.join(names)}, seed {seed}, {' of '.join(reversed(recommended(result)))}"
            print(f"{name}: {len(found)} named of {len(rows)} cells, {len(np.intersect1d(found, wrong))} rightly")
        print(f"{' + '.join(names)}: precision {counts[1] / max(counts[0], 1):.2f}, recall {counts[1] / counts[2]:.2f}")


if __name__ == "__main__":
    main()
