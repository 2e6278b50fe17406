"""How good are vit_tiny's features? Probes inside a laboratory and across laboratories, against simpler features.

    python benchmarks/backbone_quality.py --out out/backbone_quality

Reads the shared cell data. Compared are pooled embeddings of the packaged `vit_tiny`, the same network with random
weights, colour histograms, pixels (PCA) and a small CNN trained from scratch on the labels of the training laboratory.
Probes: logistic regression (LR), k nearest neighbours (kNN), SVM with rbf kernel; a random forest (RF) on histograms.

- "in domain": 5-fold, five classes, each laboratory.
- "eleven": Acevedo's eleven finer classes, trained on cells that vit_tiny's training saw unlabelled, tested on those
  that it never saw (`training/cells.py`, `is_held_out`).
- "across": all ordered pairs of laboratories, at most 300 cells a class to train on, drawn by the seed; "standardised"
  scales every laboratory by its own mean and standard deviation, which takes its unlabelled cells and no label.

Balanced accuracy over classes with at least 3 cells in the tested laboratory; labels there are for scoring alone.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from shared_cells import read_tables, standardise
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.models.sam import SAM, SIZES, normalise
from sam_bloodcell.weights.adapters import packaged_adapter

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "training"))
from cells import is_held_out  # noqa: E402

FIVE = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
ELEVEN = ("BA", "EO", "ERB", "MMY", "MY", "PMY", "LY", "MO", "BNE", "SNE", "PLATELET")
PER_CLASS = 300
PROBES = {
    "LR": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000, class_weight="balanced")),
    "kNN": make_pipeline(StandardScaler(), KNeighborsClassifier(15)),
    "SVM rbf": make_pipeline(StandardScaler(), SVC(C=3, class_weight="balanced")),
}
FOREST = {"RF": RandomForestClassifier(200, max_depth=16, class_weight="balanced", random_state=0)}


class SmallCNN(ClassifierMixin, BaseEstimator):
    """Four convolutions on 32 px images, trained from scratch with flips and rotations."""

    def __init__(self, epochs: int = 20, random_state: int = 0) -> None:
        self.epochs = epochs
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> "SmallCNN":
        torch.manual_seed(self.random_state)
        self.classes_, codes = np.unique(y, return_inverse=True)
        widths = (3, 32, 64, 128, 256)
        layers = [
            layer
            for a, b in pairwise(widths)
            for layer in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        ]
        self.network_ = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, len(self.classes_))
        )
        images, target = self._pixels(X), torch.from_numpy(codes)
        weight = 1 / torch.bincount(target).float()
        optimizer = torch.optim.AdamW(self.network_.parameters(), 2e-3, weight_decay=0.05)
        steps = self.epochs * -(-len(X) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        self.network_.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(X)).split(64):
                batch = torch.rot90(images[rows], int(torch.randint(4, ())), (2, 3))
                batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
                if len(rows) > 1:
                    optimizer.zero_grad()
                    F.cross_entropy(self.network_(batch), target[rows], weight / weight.mean()).backward()
                    optimizer.step()
                schedule.step()
        self.network_.eval()
        return self

    @torch.inference_mode()
    def predict(self, X: np.ndarray) -> np.ndarray:
        logits = torch.cat([self.network_(part) for part in self._pixels(X).split(256)])
        return self.classes_[logits.argmax(1).numpy()]

    @staticmethod
    def _pixels(X: np.ndarray) -> torch.Tensor:
        return F.avg_pool2d(torch.from_numpy(X.reshape(-1, 64, 64, 3)).permute(0, 3, 1, 2).float(), 2)


def colour_histograms(pixels: np.ndarray) -> np.ndarray:
    """32 bins of each channel, (n, 96)."""
    counts = [np.bincount(channel // 8, minlength=32) for image in pixels for channel in image.reshape(-1, 3).T]
    return np.reshape(counts, (len(pixels), 96))


@torch.inference_mode()
def random_features(images: list[Path]) -> np.ndarray:
    """Mean token of vit_tiny's architecture with random weights, (n, 192)."""
    torch.manual_seed(0)
    sam = SAM(SIZES["vit_tiny"]).eval()
    nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)
    stats = packaged_adapter("vit_tiny").pixel_stats
    features = []
    for start in tqdm(range(0, len(images), 16), desc="random vit_tiny"):
        pixels = np.stack([load_square(image, 224) for image in images[start : start + 16]])
        with torch.autocast("cpu", torch.bfloat16):
            features.append(sam.tokens(normalise(torch.from_numpy(pixels), stats)).float().mean((2, 3)).numpy())
    return np.concatenate(features)


def feature_sets(cells: pd.DataFrame) -> dict[str, tuple[np.ndarray, dict[str, BaseEstimator]]]:
    """Features by name, each with the probes that suit it."""
    images = [*map(Path, cells["path"])]
    small = np.stack([load_square(image, 64) for image in tqdm(images, desc="pixels")])
    flat = small.reshape(len(small), -1).astype(np.float32) / 255
    return {
        "vit_tiny": (np.asarray(SAMLoRAEmbedder("vit_tiny", verbose=1).fit_transform(images)), PROBES),
        "random vit_tiny": (random_features(images), PROBES),
        "colour histogram": (colour_histograms(small), FOREST),
        "pixels, PCA": (PCA(50, random_state=0).fit_transform(flat), PROBES),
        "small CNN": (flat, {"CNN": SmallCNN()}),
    }


def in_domain(features: np.ndarray, label: np.ndarray, probe: BaseEstimator, seed: int) -> float:
    """Mean balanced accuracy over 5 folds; classes with fewer than 5 cells are left out."""
    names, counts = np.unique(label, return_counts=True)
    keep = np.isin(label, names[counts >= 5])
    features, label = features[keep], label[keep]
    folds = StratifiedKFold(5, shuffle=True, random_state=seed).split(features, label)
    return float(np.mean([score(probe, features[a], label[a], features[b], label[b]) for a, b in folds]))


def across(
    features: np.ndarray, label: np.ndarray, domain: np.ndarray, probe: BaseEstimator, seed: int
) -> Iterator[tuple[str, float]]:
    """Balanced accuracy of every ordered pair of laboratories."""
    rng = np.random.default_rng(seed)
    for source in np.unique(domain):
        names, counts = np.unique(label[domain == source], return_counts=True)
        names = names[counts >= 5]
        rows = np.concatenate(
            [rng.permutation(np.flatnonzero((domain == source) & (label == name)))[:PER_CLASS] for name in names]
        )
        fitted = clone(probe).fit(features[rows], label[rows])
        for target in np.unique(domain[domain != source]):
            tested = (domain == target) & np.isin(label, names)
            present, counts = np.unique(label[tested], return_counts=True)
            tested &= np.isin(label, present[counts >= 3])
            yield f"{source} -> {target}", balanced(label[tested], fitted.predict(features[tested]))


def score(probe: BaseEstimator, X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray) -> float:
    return balanced(y_test, clone(probe).fit(X, y).predict(X_test))


def balanced(truth: np.ndarray, answer: np.ndarray) -> float:
    with warnings.catch_warnings():  # a class that is answered but absent is wrong, as it should be
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        return float(balanced_accuracy_score(truth, answer))


def measure(
    cells: pd.DataFrame, features: np.ndarray, probe: BaseEstimator, seed: int, scalable: bool
) -> Iterator[dict[str, Any]]:
    """Rows of setting, what, balanced accuracy."""
    domain, label, fine = (cells[name].to_numpy() for name in ("domain", "label", "fine"))
    five = np.isin(label, FIVE)
    for name in np.unique(domain):
        rows = five & (domain == name)
        yield {"setting": "in domain", "what": name, "value": in_domain(features[rows], label[rows], probe, seed)}
    eleven = (domain == "acevedo") & np.isin(fine, ELEVEN)
    unseen = cells["path"].map(is_held_out).to_numpy()
    train, test = eleven & ~unseen, eleven & unseen
    value = score(probe, features[train], fine[train], features[test], fine[test])
    yield {"setting": "eleven", "what": "acevedo", "value": value}
    for setting, scaled in {"across": features, "across, standardised": None}.items():
        if scaled is None:
            if not scalable:
                continue
            scaled = standardise(features, domain)
        for pair, value in across(scaled[five], label[five], domain[five], probe, seed):
            yield {"setting": setting, "what": pair, "value": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/backbone_quality"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    cells = read_tables("cells.csv")
    cells["fine"] = cells["path"].str.split("/").str[-1].str.split("_").str[0]
    rows = []
    for name, (features, probes) in feature_sets(cells).items():
        for probe_name, probe in probes.items():
            for seed in tqdm(range(args.seeds), desc=f"{name}, {probe_name}"):
                scalable = name != "small CNN"  # scaled pixels are no picture any more
                for row in measure(cells, features, probe, seed, scalable):
                    rows.append({"features": name, "probe": probe_name, "seed": seed, **row})
    args.out.mkdir(parents=True, exist_ok=True)
    scores = pd.DataFrame(rows)
    scores.to_csv(args.out / "scores.csv", index=False)
    print("\nBalanced accuracy, mean over laboratories or pairs, then mean and standard deviation over seeds:")
    means = scores.groupby(["features", "probe", "setting", "seed"])["value"].mean()
    table = means.groupby(["features", "probe", "setting"], sort=False).agg(["mean", "std"])
    print(table.reset_index().pivot_table(index=["features", "probe"], columns="setting").round(3).to_string())
    print("\nIn domain, LR on vit_tiny, by laboratory:")
    probed = scores[(scores["features"] == "vit_tiny") & (scores["probe"] == "LR")]
    print(probed.groupby(["setting", "what"])["value"].mean().round(3).to_string())


if __name__ == "__main__":
    main()
