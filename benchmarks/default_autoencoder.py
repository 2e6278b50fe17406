"""Which default of `CrossDomainAutoencoder`? Chosen on some laboratories, reported on the others.

    python benchmarks/default_autoencoder.py --out out/default_autoencoder

Cells, training sets and classifiers are those of `laboratories.py`: pairs of laboratories, and all but one. For each
laboratory in turn, the candidate is chosen by the training sets and tests in which this laboratory has no part, and its
score is reported where this laboratory is tested. Every training set and seed writes a file of its own; a second call
goes on from there.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd
from laboratories import Cells
from laboratories_cells import LABORATORIES, draw_training, read_cells, scored_classes, training_sets
from laboratories_methods import NEW, Features, _transform, fit_classifiers, score, standardised
from shared_cells import standardise
from tqdm import tqdm

from sam_bloodcell import CrossDomainAutoencoder

STRENGTHS = (0.01, 0.1)
CANDIDATES = {
    "MLP, clusters": {"architecture": "vector"},
    "MLP, domain": {"architecture": "vector", "normalization": "domain"},
    "linear, clusters": {"architecture": "linear"},
    "linear, domain": {"architecture": "linear", "normalization": "domain"},
    "linear to 20, clusters": {"architecture": "linear", "n_components": 20},
    "linear to 192, clusters": {"architecture": "linear", "n_components": 192},
}


def features_of(name, X, domain, label, seed):
    """Make the features of one candidate from the training cells."""
    if name == "standardised":
        return Features(name, True, standardise(X, domain), label, standardised)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got one domain")
        autoencoder = CrossDomainAutoencoder(random_state=seed, **CANDIDATES[name]).fit(X, domain=domain)
    train = autoencoder.transform(X, domain=domain)
    return Features(name, True, train, label, lambda tested: _transform(autoencoder, tested, NEW))


def run(cells, labs, tested, seed):
    """Yield the scores of every candidate, trained on `labs`, in the laboratories that are tested."""
    rows = draw_training(cells.label, cells.domain, labs, seed)
    for name in ("standardised", *CANDIDATES):
        features = features_of(name, cells.X[rows], cells.domain[rows], cells.label[rows], seed)
        models = fit_classifiers(features, STRENGTHS)
        for lab in tested:
            here = (cells.domain == lab) & (cells.label != "")
            made, truth = features.transform(cells.X[here]), cells.label[here]
            for strength, model in models.items():
                found = score(
                    truth, model.predict_proba(made), model.classes_, scored_classes(features.label, truth), truth != ""
                )
                yield {
                    "train": "+".join(labs), "tested": lab, "seed": seed, "candidate": name, "C": strength,
                    "balanced_accuracy": found["balanced_accuracy"],
                }  # fmt: skip


def nested(scores):
    """Choose for each laboratory without it, and report with it: one row per laboratory."""
    trained = scores["train"].str.split("+")
    size, rows = trained.str.len(), []
    for lab in LABORATORIES:
        without = trained.map(lambda labs: lab not in labs) & (scores["tested"] != lab)  # noqa: B023
        # Pairs and training sets of four weigh the same: these stand for "one left out", which has none without `lab`.
        by_size = scores[without].groupby(["candidate", size[without].rename("size")])["balanced_accuracy"].mean()
        chosen = by_size.groupby("candidate").mean().idxmax()
        row = {"laboratory": lab, "chosen": chosen}
        for setting, count in (("pairs", 1), ("left out", 5)):
            here = scores[(scores["tested"] == lab) & (size == count)]
            found = here.groupby("candidate")["balanced_accuracy"].mean()
            row |= {setting: found[chosen], f"{setting}, standardised": found["standardised"]}
        rows.append(row)
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/default_autoencoder"))
    parser.add_argument("--cache-dir", type=Path, help="the embedder's cache; default: in --out")
    parser.add_argument("--tables", type=Path, help="folder for the two tables of the documentation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    parts = args.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    cells = Cells(read_cells(), args.out, args.cache_dir)
    tasks = [
        (seed, labs, tested)
        for seed in args.seeds
        for setting, labs, tested in training_sets()
        if setting in ("pair", "left out", "four")
    ]
    for seed, labs, tested in tqdm(tasks, desc="training sets"):
        saved = parts / f"{'+'.join(labs)}-{seed}.csv"
        if not saved.exists():
            pd.DataFrame(run(cells, labs, tested, seed)).to_csv(saved.with_suffix(".part"), index=False)
            saved.with_suffix(".part").rename(saved)
    scores = pd.concat(map(pd.read_csv, sorted(parts.glob("*.csv"))), ignore_index=True)
    size = scores["train"].str.count(r"\+").add(1).map({1: "pairs", 4: "four train", 5: "left out"})
    means = scores.groupby(["candidate", size.rename("setting"), "C", "seed"], sort=False)["balanced_accuracy"].mean()
    summary = means.groupby(level=[0, 1, 2], sort=False).agg(["mean", "std"]).reset_index()
    print(summary.round(3).to_string(index=False))
    chosen = nested(scores)
    print(chosen.round(3).to_string(index=False))
    print(chosen.drop(columns=["laboratory", "chosen"]).mean().round(3).to_string())
    if args.tables:
        summary.to_csv(args.tables / "default_autoencoder.csv", index=False, float_format="%.4f")
        chosen.to_csv(args.tables / "default_autoencoder_nested.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
