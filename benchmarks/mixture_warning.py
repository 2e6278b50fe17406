"""How often `CellClassifier` warns of an unusual mixture of cells, and what the answers with and without it are worth.

python benchmarks/mixture_warning.py [--out docs/tables/mixture_warning.csv] [--cache-dir FOLDER]

The default classifier is trained in one or five of six laboratories and classifies draws of another one, with its name
and without it. The draws are the mixtures of `laboratories_cells.py`, and 20, 50 or 100 random cells of all classes or
of one class (all cells of a class that has fewer). The warning compares the share of equal answers with a limit. The
last lines choose the limit on three tested laboratories, as the one with at most 2% of warnings of all draws of several
classes together, and report it on the three others.
"""

import argparse
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from laboratories_cells import LABORATORIES, MIXTURES, ONE_CLASS, draw_mixture, draw_training, read_cells, training_sets
from sklearn.metrics import recall_score

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.classification.mixture import _LEAST_AGREEMENT
from sam_bloodcell.evaluation.classifiers import balanced_regression

SIZES = (20, 50, 100)
FALSE = 0.02  # share of warnings of draws of several classes that the choice of a limit allows


def draws_of(label, lab):
    """Yield the mixture and the rows of each draw from the cells of a laboratory."""
    for mixture in MIXTURES:
        for draw in range(1 if mixture == "as it is" else 10):
            yield mixture, draw_mixture(label, mixture, draw, lab)
    names, counts = np.unique(label, return_counts=True)
    for size in SIZES:
        for draw in range(10):
            rng = np.random.default_rng([size, draw])
            yield f"{size} cells", rng.permutation(len(label))[:size]
            of_one = np.flatnonzero(label == rng.choice(names[counts >= ONE_CLASS]))
            yield f"{size} cells of one class", rng.permutation(of_one)[:size]


def score_draws(X, label, domain, labs, tested):
    """Yield a row for each draw from the tested laboratory, for the classifier that was trained in `labs`."""
    train = draw_training(label, domain, labs, 0)
    autoencoder = CrossDomainAutoencoder(random_state=0).fit(X[train], domain=domain[train])
    classifier = balanced_regression().fit(autoencoder.transform(X[train], domain=domain[train]), label[train])
    inside = np.flatnonzero((domain == tested) & (label != ""))
    for mixture, rows in draws_of(label[inside], tested):
        cells, true = X[inside[rows]], label[inside[rows]]
        named = classifier.predict(autoencoder.transform(cells, domain=np.full(len(cells), "new")))
        nameless = classifier.predict(autoencoder.transform(cells))
        options = {"labels": np.intersect1d(true, classifier.classes_), "average": "macro", "zero_division": 0}
        yield {
            "mixture": mixture,
            "agreement": np.mean(named == nameless),
            "named": recall_score(true, named, **options),
            "nameless": recall_score(true, nameless, **options),
        }


def choose_limits(table):
    """Print the warnings at limits that were chosen on three laboratories, on the three others."""
    table = table.assign(one=table["mixture"].str.contains("one class") & (table["mixture"] != "one class missing"))
    several = table[~table["one"]]
    rows = []
    for chosen_on in combinations(LABORATORIES, 3):
        seen = several[several["tested"].isin(chosen_on)]
        limit = seen.groupby("setting")["agreement"].quantile(FALSE).min()
        others = table[~table["tested"].isin(chosen_on)]
        warned = (others["agreement"] < limit).groupby([others["setting"], others["one"]]).mean()
        rows.append(
            {"limit": limit, **{f"{setting}, one class: {one}": warned[setting, one] for setting, one in warned.index}}
        )
    found = pd.DataFrame(rows)
    print(f"\nLimit chosen on three laboratories: {found['limit'].min():.2f} to {found['limit'].max():.2f}")
    print(
        "Share of draws with a warning on the three others:",
        found.drop(columns="limit").mean().round(2).to_string(),
        sep="\n",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells = read_cells()
    X = np.asarray(SAMLoRAEmbedder("vit_tiny", cache_dir=args.cache_dir, verbose=1).fit_transform(cells["path"]))
    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The domain |Got one domain")  # this is what is measured
        table = pd.DataFrame(
            {"setting": setting, "train": "+".join(labs), "tested": lab} | row
            for setting, labs, tested in training_sets()
            if setting in ("pair", "left out")
            for lab in tested
            for row in score_draws(X, label, domain, labs, lab)
        )
    warned = table["agreement"] < _LEAST_AGREEMENT
    by = [table["setting"], table["mixture"]]
    summary = pd.DataFrame({"warned": warned.groupby(by, sort=False).mean()})
    for where, rows in (("warned", warned), ("not warned", ~warned)):
        means = table[rows].groupby(["setting", "mixture"])[["named", "nameless"]].mean()
        summary = summary.join(means.add_suffix(f", {where}"))
    print(summary.round(3).to_string())
    choose_limits(table)
    if args.out:
        summary.round(4).reset_index().to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
