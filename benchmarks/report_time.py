"""Seconds and size of a report of few and of many laboratories or classes, from made-up predictions. Run alone.

python benchmarks/report_time.py [--laboratories 3 30] [--classes 5 100] [--cells 240]
"""

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import BenchmarkResult, confidence_intervals, score_predictions
from sam_bloodcell.report import write_report

CLASSIFIERS, FOLDS = ("LR", "RF", "SVM rbf"), 5


def make_result(n_domains: int, n_classes: int, n_cells: int, random_state: int = 0) -> BenchmarkResult:
    """Make a benchmark's result in which each classifier answers at random, right in half of the cells."""
    rng = np.random.default_rng(random_state)
    rows = np.arange(n_cells)
    folds = rows // (n_domains * n_classes) % FOLDS
    domain, target = np.array([f"lab {i:02d}" for i in rows % n_domains]), rows // n_domains % n_classes
    names = np.array([f"class {i:03d}" for i in range(n_classes)])
    tables = []
    for features, classifier, train in product(("embeddings", "autoencoder"), CLASSIFIERS, np.unique(domain)):
        for fold in range(FOLDS):
            tested = rows[(domain != train) | (folds == fold)]
            answer = np.where(rng.random(len(tested)) < 0.5, target[tested], rng.integers(0, n_classes, len(tested)))
            known = np.isin(target[tested], target[domain == train])
            keys = {"features": features, "classifier": classifier, "train_domain": train, "fold": fold}
            answers = {"row": tested, "group": tested, "label": names[target[tested]], "predicted": names[answer]}
            more = {"test_domain": domain[tested], "confidence": rng.random(len(tested)), "known": known}
            tables.append(pd.DataFrame({**keys, **answers, **more, "n_train": n_cells // n_domains}))
    predictions = pd.concat(tables, ignore_index=True)
    chosen = rng.permutation(n_cells)[:36]
    embeddings = rng.normal(size=(n_cells, 192)).astype(np.float32)
    distances = pd.MultiIndex.from_product([("embeddings", "autoencoder"), ("all",)])
    images = rng.integers(0, 255, size=(n_cells, 48, 48, 3), dtype=np.uint8)
    return BenchmarkResult(
        predictions=predictions, scores=score_predictions(predictions),
        intervals=confidence_intervals(predictions, n_bootstrap=10, random_state=0),
        duplicates=pd.DataFrame({"a": rows[:-1], "b": rows[1:], "distance": 0.0}),
        cells=Bunch(images=images, target=target, target_names=names.tolist(), domain=domain),
        embeddings=embeddings, features={"embeddings": embeddings, "autoencoder": embeddings[:, :50]},
        autoencoder=None, reconstructions=None, shown=chosen,
        shift_by_class=pd.DataFrame(0.0, distances, ["mmd", "domain_accuracy", "chance"]),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--laboratories", type=int, nargs=2, default=[3, 30])
    parser.add_argument("--classes", type=int, nargs=2, default=[5, 100])
    parser.add_argument("--cells", type=int, default=240)
    args = parser.parse_args()
    few, many = (args.laboratories[0], args.classes[0]), (args.laboratories[1], args.classes[1])
    taken = {}
    for n_domains, n_classes in (few, (many[0], few[1]), (few[0], many[1])):
        result = make_result(n_domains, n_classes, args.cells)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            path = write_report(result, folder, figures=Path(folder, "figures"))
            seconds = taken[n_domains, n_classes] = time.perf_counter() - began
            told = f"{n_domains} laboratories, {n_classes} classes, {args.cells} cells"
            ratio = f"{seconds / taken[few]:.1f}x the time of {few[0]} and {few[1]}"
            print(f"{told}: {seconds:.1f} s, {path.stat().st_size / 1e6:.1f} MB, {ratio}", flush=True)


if __name__ == "__main__":
    main()
