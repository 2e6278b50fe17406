"""Judge encoders, in about a minute each, by how well linear probes on their features cross laboratories.

    python training/probe.py packaged runs/encoder3/checkpoint.pt --cells runs/probe

At most 150 cells of a common class and laboratory, in a fixed order, pooled under the packaged masks. A row is printed
for each kind of features and each C: the balanced accuracy on each laboratory when it is left out, the means over the
laboratories that training saw and over those that it never sees, and the means over ordered pairs. Choose by the
laboratories that training never sees.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from cells import SHARED_DATA, TRAINED, as_batch, manifest, real_cells
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F
from vit_tiny_distill import mean_weights, standardise
from vit_tiny_encoder import SIZE, Pretraining, pool

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES

PACKAGED = Path(__file__).parents[1] / "src" / "sam_bloodcell" / "weights" / "vit_tiny"
LABELLED = ("tecom", "acevedo", "cellavision", "munich_bm", "jhu", "leukocytes")
COMMON = {"neutrophil_segmented": "neutrophil", "neutrophil_banded": "neutrophil"}
PER_CLASS = 150
LEAST_TRAINED, LEAST_TESTED = 5, 3  # cells of a class


def judged_rows() -> list[dict[str, str]]:
    """At most PER_CLASS cells of each common class and laboratory, with `label` one of the common classes."""
    rows = [row | {"label": COMMON.get(row["label"], row["label"])} for row in manifest()]
    rng, found = np.random.default_rng(0), []
    for name in LABELLED:
        for label in COMMON_CLASSES:
            group = [row for row in rows if (row["domain"], row["label"]) == (name, label)]
            found += [group[k] for k in sorted(rng.permutation(len(group))[:PER_CLASS])]
    return found


def judged_cells(rows: list[dict[str, str]], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 224, 224, 3) and packaged masks (n, 224, 224); kept in the folder for the next call."""
    saved = [folder / name for name in ("pixels.npy", "masks.npy")]
    if not all(file.exists() for file in saved):
        folder.mkdir(parents=True, exist_ok=True)
        embedded = SAMLoRAEmbedder("vit_tiny", verbose=1).fit_transform([SHARED_DATA / row["path"] for row in rows])
        np.save(saved[1], np.stack([embedded.masks[k] for k in range(len(rows))]))
        np.save(saved[0], real_cells(rows, SIZE).pixels)
    return np.load(saved[0]), np.load(saved[1])


def encoder_weights(source: str) -> dict[str, Tensor]:
    """Weights of a checkpoint of either stage (.pt), of an encoder.safetensors, or of the packaged encoder."""
    if source.endswith(".pt"):
        trained = torch.load(source, map_location="cpu", weights_only=True)["trained"]
        named = mean_weights(trained) or {name.removeprefix("sam."): value for name, value in trained.items()}
    else:
        named = load_file(PACKAGED / "encoder.safetensors" if source == "packaged" else source)
    return {name: value.float() for name, value in named.items() if name.startswith("image_encoder.")}


def embed(source: str, pixels: np.ndarray, masks: np.ndarray, batch: int = 32) -> np.ndarray:
    """Pooled features (n, 192)."""
    module = Pretraining(((221.86, 190.27, 182.81), (42.05, 50.27, 24.28))).eval()
    module.sam.load_state_dict(encoder_weights(source), strict=False)
    found = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(pixels), batch):
            rows = slice(start, start + batch)
            inside = F.avg_pool2d(torch.from_numpy(masks[rows])[:, None].float(), 16) + 1e-3
            found.append(pool(module.tokens(as_batch(pixels[rows])).float(), inside).float())
    return torch.cat(found).numpy().astype(np.float64)


def balanced_accuracy(X: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray, C: float) -> float:
    """Mean recall over the classes that the tested cells have enough of, of a logistic regression on other cells."""
    trained = [name for name in COMMON_CLASSES if (label[train] == name).sum() >= LEAST_TRAINED]
    train = train & np.isin(label, trained)
    scaler = StandardScaler().fit(X[train])
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=300).fit(scaler.transform(X[train]), label[train])
    right = model.predict(scaler.transform(X[test])) == label[test]
    tested = [name for name in trained if (label[test] == name).sum() >= LEAST_TESTED]
    return float(np.mean([right[label[test] == name].mean() for name in tested]))


def judge(source: str, X: np.ndarray, domain: np.ndarray, label: np.ndarray) -> None:
    """Print the rows of one encoder."""
    for kind, features in (("pooled", X), ("standardised", standardise(X, domain))):
        for C in (0.01, 0.1):
            left_out = {
                name: balanced_accuracy(features, label, domain != name, domain == name, C) for name in LABELLED
            }
            pairs = {
                name: np.mean(
                    [
                        balanced_accuracy(features, label, domain == other, domain == name, C)
                        for other in LABELLED
                        if other != name
                    ]
                )
                for name in LABELLED
            }
            each = " ".join(f"{name} {score:.3f}" for name, score in left_out.items())
            print(f"{source} {kind} C={C}: left out {means(left_out)} | pairs {means(pairs)} | {each}", flush=True)


def means(scores: dict[str, float]) -> str:
    """Mean over all laboratories, those that training saw, and those that it never sees."""
    seen = [score for name, score in scores.items() if name in TRAINED]
    new = [score for name, score in scores.items() if name not in TRAINED]
    return f"all {np.mean(seen + new):.3f} trained {np.mean(seen):.3f} new {np.mean(new):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", help="checkpoint.pt, encoder.safetensors, or packaged")
    parser.add_argument("--cells", type=Path, default=Path("runs/probe"), help="folder that keeps the decoded cells")
    args = parser.parse_args()
    rows = judged_rows()
    pixels, masks = judged_cells(rows, args.cells)
    domain, label = (np.array([row[key] for row in rows]) for key in ("domain", "label"))
    for source in args.encoders:
        judge(source, embed(source, pixels, masks), domain, label)


if __name__ == "__main__":
    main()
