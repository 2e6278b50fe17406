"""Trained on Acevedo-20, tested on Matek-19, MLL23 and Raabin-WBC: our macro-F1 beside published ones.

python benchmarks/published_transfer.py --acevedo DIR [--matek DIR] [--mll23 DIR] [--raabin DIR] [--cache-dir DIR]

The folders are the public datasets as they come unpacked (`sam_bloodcell.datasets.load_acevedo20` and the like say
where to get them). The column of a dataset without a folder stays empty in our rows. Five common classes; a logistic
regression is trained on all cells of Acevedo-20 and tested on all cells of the other dataset. The published numbers
(arXiv 2608.25148) are those of docs/tables/published_transfer.csv. Our features of each pair of datasets:

- pooled embeddings of the backbone. They see nothing of the tested dataset, as the published ones.
- the same, standardised by laboratory (transductive: by the statistics of the tested dataset's unlabelled cells).
- `CrossDomainAutoencoder` with default settings, fitted on the unlabelled cells of both datasets (transductive).

Embedding takes most of the time. With `--cache-dir`, a run that was interrupted goes on where it was.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from shared_cells import standardise
from sklearn.metrics import f1_score
from tqdm import tqdm

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import join_cells, load_acevedo20, load_matek19, load_mll23, load_raabin
from sam_bloodcell.evaluation import default_classifiers

TABLE = Path(__file__).parents[1] / "docs" / "tables" / "published_transfer.csv"
LOADERS = {"acevedo": load_acevedo20, "matek": load_matek19, "mll23": load_mll23, "raabin": load_raabin}
SOURCE, *TESTED = LOADERS


def pooled(X: np.ndarray, domain: np.ndarray, seed: int) -> np.ndarray:
    return X


def standardised(X: np.ndarray, domain: np.ndarray, seed: int) -> np.ndarray:
    return standardise(X, domain)


def aligned(X: np.ndarray, domain: np.ndarray, seed: int) -> np.ndarray:
    return CrossDomainAutoencoder(random_state=seed).fit(X, domain=domain).transform(X, domain=domain)


FEATURES: dict[str, Callable] = {
    "pooled": pooled,
    "pooled, standardised by laboratory": standardised,
    "CrossDomainAutoencoder": aligned,
}


def scores_of(X: np.ndarray, label: np.ndarray, domain: np.ndarray, seeds: int) -> pd.DataFrame:
    """Return macro-F1, trained on `SOURCE`, for each of our features, other laboratory and seed."""
    tested = [name for name in TESTED if name in domain]
    fits = {name: seeds if transform is aligned else 1 for name, transform in FEATURES.items()}  # others draw nothing
    rows = []
    with tqdm(total=len(tested) * sum(fits.values()), desc="fits") as progress:
        for name in tested:
            pair = np.isin(domain, [SOURCE, name])
            label_, domain_ = label[pair], domain[pair]
            train = domain_ == SOURCE
            for features, transform in FEATURES.items():
                for seed in range(fits[features]):
                    found = transform(X[pair], domain_, seed)
                    classifier = default_classifiers(seed)["LR"].fit(found[train], label_[train])
                    truth, answer = label_[~train], classifier.predict(found[~train])
                    over = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
                    rows.append((features, name, f1_score(truth, answer, **over), len(truth)))
                    progress.update()
    return pd.DataFrame(rows, columns=["features", "tested", "macro_f1", "n_test"])


def beside_published(scores: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """Return a row per features and tested laboratory: the published ones, then the means of ours over seeds."""
    published = pd.read_csv(TABLE, dtype={"n_test": "Int64"}).query("source == 'published'")
    groups = scores.groupby(["features", "tested"], sort=False)
    ours = groups.agg(macro_f1=("macro_f1", "mean"), std=("macro_f1", "std"), n_test=("n_test", "first")).reset_index()
    ours = ours.assign(source="ours", features=f"{backbone}, " + ours["features"]).astype({"n_test": "Int64"})
    return pd.concat([published, ours[published.columns]], ignore_index=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in LOADERS:
        parser.add_argument(f"--{name}", type=Path, required=name == SOURCE, help="folder of the unpacked dataset")
    parser.add_argument("--backbone", default="vit_tiny", help="as in SAMLoRAEmbedder")
    parser.add_argument("--seeds", type=int, default=3, help="of the autoencoder")
    parser.add_argument("--cache-dir", type=Path, help="keeps the embeddings for the next run")
    parser.add_argument("--out", type=Path, help="CSV with a row per features and tested dataset")
    args = parser.parse_args(argv)
    folders = {name: folder for name in LOADERS if (folder := getattr(args, name)) is not None}
    if list(folders) == [SOURCE]:
        parser.error(f"there is nothing to test on. Fix: give one or more of --{', --'.join(TESTED)}")
    # All folders are read before the first image is embedded: a wrong one is told at once.
    read = {name: LOADERS[name](folder) for name, folder in folders.items()}
    for name, cells in read.items():
        print(f"{name}: {pd.Series(cells.labels).value_counts().to_dict()}")
    for name in [name for name in TESTED if name not in read]:
        print(f"{name}: no folder was given (--{name}), so its column is empty in our rows")
    cells = join_cells(*read.values())
    domain = np.repeat(list(read), [len(part.target) for part in read.values()])
    embedder = SAMLoRAEmbedder(args.backbone, cache_dir=args.cache_dir, verbose=1)
    X = np.asarray(embedder.fit_transform(cells.paths))
    table = beside_published(scores_of(X, cells.labels, domain, args.seeds), args.backbone)
    shown = table.pivot_table("macro_f1", ["source", "features"], "tested", sort=False).reindex(columns=TESTED)
    print(shown.round(3).to_string(na_rep=""))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        table.round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
