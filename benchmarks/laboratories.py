"""Every method on six laboratories: pairs, one left out, a few trained, and under real mixtures of classes.

    python benchmarks/laboratories.py --out out/laboratories

Pooled vit_tiny embeddings of the shared cells, logistic regression with classes of equal weight. At most 150 cells of a
class and laboratory train, of the five common classes with at least 5 cells. The classes that are scored are those that
training has and of which the tested laboratory has at least 3 cells. No label of the tested laboratory is used, for the
choice of a setting neither. Every training set and seed writes a file of its own; a second call goes on from there.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from laboratories_cells import (
    LEAST_TRAINED,
    MIXTURES,
    draw_mixture,
    draw_training,
    embed,
    read_cells,
    read_views,
    scored_classes,
    training_sets,
)
from laboratories_methods import (
    CLUSTERS,
    Features,
    all_features,
    as_they_are,
    cluster_shares,
    fit_abstention,
    fit_classifiers,
    fitted_together,
    neighbours_of,
    score,
    smooth,
)
from sklearn.cluster import KMeans
from tqdm import tqdm

DRAWN = 10  # draws of each mixture, shared out among the seeds
MIXED = ("pair", "left out")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/laboratories"))
    parser.add_argument("--cache-dir", type=Path, help="the embedder's cache; default: in --out")
    parser.add_argument("--views", type=Path, help="folder with embeddings of stain views; default: --out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    parts = args.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    cells = read_cells()
    X = embed(cells, args.out, args.cache_dir)
    kinds = {"main": run, "views": partial(run_views, folder=args.views or args.out), "together": run_together}
    tasks = [(kind, seed, *task) for kind in kinds for seed in args.seeds for task in training_sets()]
    for kind, seed, setting, labs, tested in tqdm(tasks, desc="training sets"):
        saved = parts / f"{kind}-{setting.replace(' ', '_')}-{'+'.join(labs)}-{seed}.csv"
        if saved.exists():
            continue
        rows = pd.DataFrame(kinds[kind](X, cells, setting, labs, tested, seed))
        if len(rows):
            rows.to_csv(saved.with_suffix(".part"), index=False, float_format="%.4f")
            saved.with_suffix(".part").rename(saved)


def run(X, cells, setting, labs, tested, seed):
    """Return the scores of every kind of features that one training set makes, in every laboratory that is tested."""
    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    rows = draw_training(label, domain, labs, seed)
    found = []
    for features in all_features(X[rows], domain[rows], label[rows], seed):
        found += scores_of(features, X, label, domain, setting, labs, tested, seed)
    return found


def run_views(X, cells, setting, labs, tested, seed, folder):
    """Return the scores of training with views; they are of one draw of the training cells, whatever the seed."""
    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    name = f"without_{tested[0]}" if setting == "left out" else "own"
    found = read_views(folder, name, cells, labs) if seed == 0 else None
    if found is None:
        return []
    rows, views = found
    names, counts = np.unique(label[rows], return_counts=True)
    kept = np.isin(label[rows], names[counts >= LEAST_TRAINED])
    rows, views = rows[kept], views[kept]
    every = np.concatenate([X[rows], views.reshape(-1, X.shape[1])])
    known = np.concatenate([label[rows], np.repeat(label[rows], views.shape[1])])
    features = Features("pooled, stain views", False, every, known, as_they_are)
    return scores_of(features, X, label, domain, setting, labs, tested, seed)


def run_together(X, cells, setting, labs, tested, seed):
    """Return the scores of the autoencoder that is fitted on training and tested cells, as they are, together."""
    if setting not in MIXED:
        return []
    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    rows = draw_training(label, domain, labs, seed)
    found = []
    for lab in tested:
        here = (domain == lab) & (label != "")
        features = fitted_together(X[rows], domain[rows], label[rows], X[here], seed)
        found += scores_of(features, X, label, domain, setting, labs, [lab], seed, mixed=False)
    return found


def scores_of(features, X, label, domain, setting, labs, tested, seed, mixed=True):
    """Return the scores of one kind of features in every laboratory that is tested."""
    models = fit_classifiers(features)
    mixed = mixed and setting in MIXED
    limit = fit_abstention(features, models[0.1], seed) if setting in MIXED else None
    found = []
    for lab in tested:
        here = (domain == lab) & (label != "")
        known = {"setting": setting, "train": "+".join(labs), "tested": lab, "seed": seed}
        draws = draws_of(label[here], lab, seed, mixed)
        found += [known | row for row in tests(features, models, limit, X[here], label[here], draws)]
    return found


def draws_of(label, lab, seed, mixed):
    """List the draws of this seed: (mixture, number, rows)."""
    found = [("as it is", 0, np.arange(len(label)))]
    if mixed:
        numbers = range(seed, DRAWN, 3)
        found += [(mixture, n, draw_mixture(label, mixture, n, lab)) for mixture in MIXTURES[1:] for n in numbers]
    return found


def tests(features, models, limit, X, label, draws):
    """Yield the scores of every draw and strength, with and without smoothing."""
    scaler = models[0.1][0]
    clusters = KMeans(CLUSTERS, n_init=4, random_state=0).fit(scaler.transform(features.train))
    usual = cluster_shares(clusters, scaler.transform(features.train))
    classes = models[0.1].classes_
    scored = scored_classes(features.label, label)

    def answers(tested):
        made = features.transform(tested)
        novelty = limit.novelty(made) if limit else np.zeros(len(made))
        return made, novelty, {strength: model.predict_proba(made) for strength, model in models.items()}

    whole = None if features.transductive else answers(X)
    for mixture, number, rows in draws:
        if whole is None:
            made, novelty, probabilities = answers(X[rows])
        else:
            made, novelty = whole[0][rows], whole[1][rows]
            probabilities = {strength: found[rows] for strength, found in whole[2].items()}
        scaled = scaler.transform(made)
        graph = neighbours_of(scaled)
        moved = np.abs(cluster_shares(clusters, scaled) - usual).sum() / 2
        answered = novelty <= (limit.threshold_ if limit else 0)
        for strength, found in probabilities.items():
            for smoothed in (False, True):
                scores = score(label[rows], smooth(found, graph) if smoothed else found, classes, scored, answered)
                if scores:
                    yield {
                        "features": features.name, "aligned": features.transductive, "smoothed": smoothed,
                        "C": strength, "mixture": mixture, "draw": number, "cells": len(rows),
                        "classes": len(scored), "clusters_moved": moved, **scores,
                    }  # fmt: skip


if __name__ == "__main__":
    main()
