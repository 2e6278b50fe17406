"""Do the papers' autoencoders beat their own input? Their presets beside plain averages of the tokens they read.

    python benchmarks/papers_designs.py --work-dir out/papers [--out docs/tables/papers_designs.csv]

The cells, pairs and classifiers are those of `autoencoder_quality.py`: five classes, six ordered pairs of laboratories,
packaged vit_tiny. The presets are fitted as in the papers, on the unlabelled cells of all laboratories together: BC-SAM
for its own 10 epochs, with crops of `--crop-size` px (128 in the paper, which takes 1.4 hours on two cores), DoRL with
128 px for `--dorl-epochs` of its 300. An interrupted training resumes from the work folder; Ctrl-C goes on with the
epochs that are done. Every kind of features is scored as it is and standardised by laboratory.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from autoencoder_quality import scores_of
from shared_cells import read_tables, standardise
from sklearn.decomposition import PCA
from tqdm import tqdm

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder

PAPERS = {"bc-sam": ("BC-SAM's preset", 10), "dorl": ("DoRL's preset", 300)}  # with the papers' epochs


def preset_features(
    preset: str, cells: CellEmbeddings, crop_size: int, epochs: int, folder: Path
) -> tuple[str, np.ndarray]:
    """Return a preset's name, with the epochs and crops it was trained on, and its features of all cells."""
    name, asked = PAPERS[preset]
    autoencoder = CrossDomainAutoencoder(
        preset=preset, crop_size=crop_size, epochs=epochs, random_state=0, verbose=1,
        checkpoint=folder / f"{preset}-{crop_size}.pt",
    ).fit(cells)  # fmt: skip
    features = autoencoder.transform(cells)
    return f"{name}, {crop_size} px, {len(autoencoder.history_)} of {asked} epochs", features


def all_features(
    cells: CellEmbeddings, crop_size: int, dorl_epochs: int, folder: Path
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each kind of features, by name."""
    plain = {
        "mean of all tokens (BC-SAM's input)": np.concatenate(
            [cells.tokens[start : start + 256].mean((2, 3), dtype=np.float32) for start in range(0, len(cells), 256)]
        ),
        "mean of the tokens under the mask": np.asarray(cells),
    }
    for name, values in plain.items():
        yield name, values
        yield f"{name}, PCA to 50", PCA(50, random_state=0).fit_transform(values)
    yield preset_features("bc-sam", cells, crop_size, 10, folder)
    yield preset_features("dorl", cells, 128, dorl_epochs, folder)
    yield "our default autoencoder", CrossDomainAutoencoder(random_state=0).fit(cells).transform(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--crop-size", type=int, default=128, choices=(32, 64, 128))
    parser.add_argument("--dorl-epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="of the training cells and the classifiers")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table = read_tables("cells.csv")
    domain, label = table["domain"].to_numpy(), table["label"].to_numpy()
    embedder = SAMLoRAEmbedder(
        "vit_tiny", keep=("tokens", "published_crops"), cache_dir=args.work_dir / "cache", verbose=1
    )
    cells = embedder.fit_transform(table)
    rows = []
    for name, values in all_features(cells, args.crop_size, args.dorl_epochs, args.work_dir):
        for scaled in (False, True):
            for seed in tqdm(range(args.seeds), desc=name):
                features = standardise(values, domain) if scaled else values
                for source in np.unique(domain):
                    for score in scores_of(features, label, domain, source, seed):
                        rows.append({"features": name, "standardised": scaled, "seed": seed} | score)
    scores = pd.DataFrame(rows)
    keys = ["features", "standardised", "classifier"]
    means = scores.groupby([*keys, "seed"], sort=False)["balanced_accuracy"].mean()
    overall = means.groupby(level=[0, 1, 3], sort=False).mean()
    stats = pd.concat([means, pd.concat({"mean": overall}, names=["classifier"]).reorder_levels([1, 2, 0, 3])])
    result = stats.groupby(level=keys, sort=False).agg(["mean", "std"]).reset_index()
    print(result.pivot_table("mean", keys[:2], "classifier", sort=False).round(3).to_string())
    if args.out:
        result.to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Pairs of images that look duplicated")
    main()
