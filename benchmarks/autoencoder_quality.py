"""What does the autoencoder bring across laboratories? Every architecture and alignment, on real cells.

    python benchmarks/autoencoder_quality.py --out out/autoencoder_quality

Reads the shared cell data, all cells for the autoencoder, which sees no label, and the five common classes for the
classifiers. For all six ordered pairs of laboratories: trained on at most 150 cells a class of one, tested on all of
the other. Two protocols:

- "transductive": the autoencoder is fitted on the unlabelled cells of the three laboratories, as in the papers, and
  `transform` knows each cell's laboratory.
- "inductive": it is fitted on the cells of the training laboratory alone, and `transform` knows no laboratory.

Classes with fewer than 5 cells to train on or 3 to test on are left out. Token-map architectures train for about
`--steps` steps of 128 cells, or for the epochs in their name, and paint 32 px crops, to be done in hours. After every
fit its scores are saved; a second call goes on from there. The papers' presets are in `papers_designs.py`.
"""

import argparse
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from shared_cells import read_tables
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.evaluation import default_classifiers

ROOT = Path(__file__).parents[1]
FIVE = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
PER_CLASS = 150
PARTS = ("pooled", "tokens", "masks", "crops", "quality")
PLAIN: dict[str, Any] = {"normalization": None, "alignment": None}
VECTOR: dict[str, Any] = {"architecture": "vector"}
MAPS = ("conv", "masked")
# Cheap ones first: a run that is cut short has the more to show.
SETTINGS: dict[str, dict[str, Any] | None] = {
    "pooled embeddings": None,
    "pooled, standardised by laboratory": None,
    "linear (default)": {},
    "linear, domain": {"normalization": "domain"},
    "vector, not aligned": VECTOR | PLAIN,
    "vector, cluster": VECTOR,
    "vector, domain": {**VECTOR, "normalization": "domain"},
    "vector, mean": {**VECTOR, **PLAIN, "alignment": "mean", "alignment_weight": 5.0},
    "vector, mmd": {**VECTOR, **PLAIN, "alignment": "mmd", "alignment_weight": 2.0},
    "masked, not aligned": {"architecture": "masked", **PLAIN},
    "masked, cluster": {"architecture": "masked"},
    "conv, not aligned": {"architecture": "conv", **PLAIN},
    "conv, cluster": {"architecture": "conv"},
    "conv, cluster, 10 epochs": {"architecture": "conv", "epochs": 10},
}
INDUCTIVE = ("pooled embeddings", "linear (default)", "vector, cluster", "masked, cluster", "conv, cluster")


def embeddings(paths: pd.Series, folder: Path) -> CellEmbeddings:
    """Embeddings by vit_tiny, memory-mapped from the folder that the first call fills."""
    if not (folder / "quality.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        embedder = SAMLoRAEmbedder("vit_tiny", keep=("tokens", "crops"), verbose=1)
        cells = embedder.fit_transform(paths)
        for part in PARTS:
            np.save(folder / f"{part}.npy", getattr(cells, part))
    return CellEmbeddings(*(np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS))


def features_of(
    name: str, cells: CellEmbeddings, domain: np.ndarray, source: str | None, seed: int, steps: int
) -> tuple[np.ndarray, float]:
    """Features of all cells, and the seconds of the fit; `source` names the one laboratory of an inductive fit."""
    params = SETTINGS[name]
    start = time.perf_counter()
    if params is None:
        features = np.array(cells.pooled)
        if name.endswith("by laboratory"):
            for lab in np.unique(domain):
                features[domain == lab] = StandardScaler().fit_transform(features[domain == lab])
        return features, 0.0
    rows = np.flatnonzero(domain == source) if source else np.arange(len(domain))
    autoencoder = CrossDomainAutoencoder(random_state=seed, verbose=1, **params)
    if params.get("architecture") in MAPS:
        short = max(1, round(steps / max(1, len(rows) // 128)))
        autoencoder.set_params(epochs=params.get("epochs", short), batch_size=128)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got one domain")
        autoencoder.fit(cells[rows], domain=domain[rows])
    seconds = time.perf_counter() - start
    return autoencoder.transform(cells, domain=None if source else domain), seconds


def scores_of(
    features: np.ndarray,
    label: np.ndarray,
    domain: np.ndarray,
    source: str,
    seed: int,
    classifiers: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Scores of every classifier (default: `default_classifiers`) trained in one laboratory, in each of the others."""
    rng = np.random.default_rng(seed)
    names, counts = np.unique(label[domain == source], return_counts=True)
    names = names[(counts >= 5) & np.isin(names, FIVE)]
    groups = [rng.permutation(np.flatnonzero((domain == source) & (label == name)))[:PER_CLASS] for name in names]
    rows = np.concatenate(groups)
    codes = np.searchsorted(names, label[rows])
    for classifier, estimator in (classifiers or default_classifiers(seed)).items():
        estimator.fit(features[rows], codes)
        for target in np.unique(domain[domain != source]):
            present, counts = np.unique(label[domain == target], return_counts=True)
            tested = np.flatnonzero((domain == target) & np.isin(label, np.intersect1d(present[counts >= 3], names)))
            truth, answer = label[tested], names[np.asarray(estimator.predict(features[tested])).astype(int)]
            over = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
            yield {
                "classifier": classifier,
                "pair": f"{source} -> {target}",
                "accuracy": accuracy_score(truth, answer),
                "balanced_accuracy": recall_score(truth, answer, **over),
                "macro_f1": f1_score(truth, answer, **over),
            }


def summary(scores: pd.DataFrame) -> str:
    """Tables of means over the pairs, with the spread over seeds."""
    keys = ["protocol", "features", "classifier"]
    metrics = ["accuracy", "balanced_accuracy", "macro_f1"]
    per_seed = scores.groupby([*keys, "seed"], sort=False)[metrics].mean()
    stats = per_seed.groupby(keys, sort=False).agg(["mean", "std"]).round(3)
    average = per_seed.groupby(["protocol", "features", "seed"], sort=False).mean()
    overall = average.groupby(["protocol", "features"], sort=False).agg(["mean", "std"]).round(3)
    wide = stats["balanced_accuracy"]["mean"].reset_index().pivot_table("mean", keys[:2], "classifier", sort=False)
    seconds = scores.groupby(["protocol", "features"], sort=False)["fit_seconds"].mean().round(0)
    return "\n\n".join(
        [
            f"Balanced accuracy, mean over pairs and seeds:\n{wide.to_string()}",
            f"All metrics, mean over pairs and classifiers; std over seeds:\n{overall.to_string()}",
            f"Seconds of a fit:\n{seconds.to_string()}",
            f"Everything:\n{stats.to_string()}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/autoencoder_quality"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="training steps of the token-map architectures")
    parser.add_argument("--protocols", nargs="*", default=["transductive", "inductive"])
    parser.add_argument("--only", nargs="*", choices=SETTINGS, help="run these settings alone")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    table = read_tables("cells.csv")
    domain, label = table["domain"].to_numpy(), table["label"].to_numpy()
    cells = embeddings(table["path"], args.out / "embeddings")
    saved = args.out / "scores.csv"
    done = pd.read_csv(saved) if saved.exists() else pd.DataFrame(columns=["protocol", "features", "fitted_on", "seed"])
    tasks = [
        (protocol, name, lab, seed)
        for protocol in args.protocols
        for seed in range(args.seeds)
        for name in args.only or SETTINGS
        for lab in (np.unique(domain) if protocol == "inductive" else ["all"])
        if protocol == "transductive" or name in INDUCTIVE
    ]
    finished = set(done[["protocol", "features", "fitted_on", "seed"]].itertuples(index=False, name=None))
    for task in tqdm([task for task in tasks if task not in finished], desc="fits"):
        protocol, name, fitted_on, seed = task
        source = None if protocol == "transductive" else fitted_on
        features, seconds = features_of(name, cells, domain, source, seed, args.steps)
        known = dict(zip(("protocol", "features", "fitted_on", "seed"), task, strict=True)) | {"fit_seconds": seconds}
        sources = [source] if source else np.unique(domain)
        rows = [known | row for lab in sources for row in scores_of(features, label, domain, lab, seed)]
        pd.DataFrame(rows).to_csv(saved, mode="a", header=not saved.exists(), index=False)
    print(summary(pd.read_csv(saved)))


if __name__ == "__main__":
    main()
