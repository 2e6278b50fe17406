"""Leave one laboratory out on the shared cells: F1 micro and macro beside SADA's published ones.

python benchmarks/leave_one_laboratory_out.py [--cache-dir DIR] [--out docs/tables/leave_one_laboratory_out.csv]

Features: pooled vit_tiny embeddings, and `CrossDomainAutoencoder` with default settings, transductive (it sees the
left-out laboratory's unlabelled cells) and inductive (it never does). No label of the left-out laboratory is used.

Everything is done twice: with four classes, where basophils are left out of training and scoring, and with all five.
`leave_one_domain_out_predictions` would leave out the only basophil of tecom, which the five classes need.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from shared_cells import DATA
from tqdm import tqdm

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES, load_cells
from sam_bloodcell.evaluation import confidence_intervals, default_classifiers, score_predictions

CLASSIFIERS = ("RF", "SVM rbf", "LR")
FEATURES = ("embeddings", "autoencoder, inductive", "autoencoder, transductive")
RARE = "basophil"


def features_by_laboratory(
    name: str, X: np.ndarray, domain: np.ndarray, seed: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each left-out laboratory, the features of the other cells and of its own."""
    aligned = X
    if name.endswith("transductive"):
        aligned = CrossDomainAutoencoder(random_state=seed).fit(X, domain=domain).transform(X, domain=domain)
    for tested in np.unique(domain):
        others = domain != tested
        if name.endswith("inductive"):
            fitted = CrossDomainAutoencoder(random_state=seed).fit(X[others], domain=domain[others])
            with warnings.catch_warnings():  # an inductive step knows no laboratory
                warnings.filterwarnings("ignore", message="The domain of .* is unknown")
                aligned = fitted.transform(X)
        yield tested, aligned[others], aligned[~others]


def predictions_of(X: np.ndarray, label: np.ndarray, domain: np.ndarray, seed: int) -> pd.DataFrame:
    """Return a row per features, classifier and cell, as `score_predictions` takes them."""
    parts = []
    for name in FEATURES:
        for tested, train, test in features_by_laboratory(name, X, domain, seed):
            others, rows = domain != tested, np.flatnonzero(domain == tested)
            for classifier in CLASSIFIERS:
                fitted = default_classifiers(seed)[classifier].fit(train, label[others])
                found = {
                    "features": name, "classifier": classifier, "train_domain": "others", "test_domain": tested,
                    "fold": seed, "row": rows, "group": rows, "label": label[rows], "predicted": fitted.predict(test),
                    "confidence": fitted.predict_proba(test).max(1) if hasattr(fitted, "predict_proba") else np.nan,
                    "known": np.isin(label[rows], fitted.classes_), "n_train": others.sum(),
                }  # fmt: skip
                parts.append(pd.DataFrame(found))
    return pd.concat(parts, ignore_index=True)


def summary(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of each score, the interval of macro-F1, and the share that was called basophil."""
    keys = ["features", "classifier", "test_domain"]
    scores = score_predictions(predictions).groupby(keys, sort=False)
    table = scores[["accuracy", "macro_f1", "balanced_accuracy", "ece"]].agg(["mean", "std"])
    table.columns = ["_".join(names) for names in table.columns]
    called = (predictions["predicted"] == RARE).groupby([predictions[key] for key in keys], sort=False).mean()
    table = table.assign(called_basophil=called).reset_index()
    intervals = confidence_intervals(predictions, metric="macro_f1", by_pair=True, random_state=0)
    return table.merge(intervals.drop(columns=["train_domain", "score"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, help="keeps the embeddings for the next run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells = load_cells(DATA / "cells.csv", classes=COMMON_CLASSES)
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=args.cache_dir, verbose=1)
    X, label, domain = np.asarray(embedder.fit_transform(cells.paths)), cells.labels, np.asarray(cells.domain)
    tables = []
    with tqdm(total=2 * args.seeds, desc="classes and seeds") as progress:
        for classes in (4, 5):
            rows = (label != RARE) | (classes == 5)
            parts = []
            for seed in range(args.seeds):
                parts.append(predictions_of(X[rows], label[rows], domain[rows], seed))
                progress.update()
            tables.append(summary(pd.concat(parts, ignore_index=True)))
            tables[-1].insert(0, "classes", classes)
    table = pd.concat(tables, ignore_index=True)
    print(table.round(3).to_string(index=False))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        table.round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
