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
    FINE_PAIRS,
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
    STRENGTHS,
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
    standardised,
)
from shared_cells import standardise
from sklearn.cluster import KMeans
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from tqdm import tqdm

DRAWN = 10  # draws of each mixture, shared out among the seeds
MIXED = ("pair", "left out")
# Settings of each kind of run; all where nothing is said.
PARTS = {
    "fine": {"pair"}, "within": {"pair"}, "foreign": set(MIXED), "together": set(MIXED), "imagenet": set(MIXED),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/laboratories"))
    parser.add_argument("--cache-dir", type=Path, help="the embedder's cache; default: in --out")
    parser.add_argument(
        "--views", type=Path, help="also train on stain views; their embeddings are kept in this folder"
    )
    parser.add_argument("--imagenet", nargs="?", const="", help="also run the ImageNet baseline [file of its weights]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    parts = args.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    cells = Cells(read_cells(), args.out, args.cache_dir)
    kinds = {"main": run}
    if args.views:
        kinds["views"] = partial(run_views, folder=args.views)
    kinds |= {"fine": run_fine, "within": run_within, "together": run_together, "foreign": run_foreign}
    if args.imagenet is not None:
        from laboratories_imagenet import embed_imagenet

        typed = cells.label != ""
        found = embed_imagenet(cells.table["path"][typed].tolist(), args.imagenet, args.out / "imagenet.npz")
        images = np.zeros((len(typed), found.shape[1]), found.dtype)
        images[typed] = found
        kinds["imagenet"] = partial(run_imagenet, images=images)
    tasks = [(kind, seed, *task) for kind in kinds for seed in args.seeds for task in training_sets()]
    tasks = [(kind, seed, *task) for kind, seed, *task in tasks if task[0] in PARTS.get(kind, {task[0]})]
    for kind, seed, setting, labs, tested in tqdm(tasks, desc="training sets"):
        saved = parts / f"{kind}-{setting.replace(' ', '_')}-{'+'.join(labs)}-{seed}.csv"
        if not saved.exists() and (rows := kinds[kind](cells, setting, labs, tested, seed)):
            pd.DataFrame(rows).to_csv(saved.with_suffix(".part"), index=False, float_format="%.4f")
            saved.with_suffix(".part").rename(saved)


class Cells:
    """The cells' table, embeddings, laboratories and common classes ("" for none), as arrays."""

    def __init__(self, table, folder, cache_dir):
        self.table = table
        self.X = embed(table, folder, cache_dir)
        self.domain, self.label = table["domain"].to_numpy(str), table["common"].to_numpy(str)


def run(cells, setting, labs, tested, seed):
    """Return the scores of every kind of features that one training set makes, in every laboratory that is tested."""
    rows = draw_training(cells.label, cells.domain, labs, seed)
    found = []
    for features in all_features(cells.X[rows], cells.domain[rows], cells.label[rows], seed):
        found += scores_of(features, cells.X, cells.label, cells.domain, setting, labs, tested, seed)
    return found


def run_foreign(cells, setting, labs, tested, seed):
    """Return the scores where transductive methods see the tested laboratory's cells of all other types, too."""
    rows = draw_training(cells.label, cells.domain, labs, seed)
    tested = [lab for lab in tested if (cells.label[cells.domain == lab] == "").any()]
    found = []
    for features in all_features(cells.X[rows], cells.domain[rows], cells.label[rows], seed) if tested else []:
        found += scores_of(features, cells.X, cells.label, cells.domain, setting, labs, tested, seed, draws="foreign")
    return found


def run_imagenet(cells, setting, labs, tested, seed, images):
    """Return the scores of the ImageNet features, as they are and standardised by laboratory."""
    if seed:  # wide features: one draw of the training cells has to do
        return []
    rows = draw_training(cells.label, cells.domain, labs, seed)
    X, label = images[rows], cells.label[rows]
    found = []
    for features in (
        Features("ImageNet", False, X, label, as_they_are),
        Features("ImageNet, standardised", True, standardise(X, cells.domain[rows]), label, standardised),
    ):
        found += scores_of(features, images, cells.label, cells.domain, setting, labs, tested, seed)
    return found


def run_views(cells, setting, labs, tested, seed, folder):
    """Return the scores of training with views; they are of one draw of the training cells, whatever the seed."""
    name = f"without_{tested[0]}" if setting == "left out" else "own"
    if seed:
        return []
    rows, views = read_views(folder, name, cells.table, labs)
    names, counts = np.unique(cells.label[rows], return_counts=True)
    kept = np.isin(cells.label[rows], names[counts >= LEAST_TRAINED])
    rows, views = rows[kept], views[kept]
    every = np.concatenate([cells.X[rows], views.reshape(-1, views.shape[2])])
    label = np.concatenate([cells.label[rows], np.repeat(cells.label[rows], views.shape[1])])
    features = Features("pooled, stain views", False, every, label, as_they_are)
    draws = "all" if setting in MIXED else "as it is"
    return scores_of(features, cells.X, cells.label, cells.domain, setting, labs, tested, seed, draws)


def run_together(cells, setting, labs, tested, seed):
    """Return the scores of the autoencoder that is fitted on training and tested cells, as they are, together."""
    rows = draw_training(cells.label, cells.domain, labs, seed)
    found = []
    for lab in tested:
        here = (cells.domain == lab) & (cells.label != "")
        features = fitted_together(cells.X[rows], cells.domain[rows], cells.label[rows], cells.X[here], seed)
        known = (cells.X, cells.label, cells.domain, setting, labs, [lab], seed)
        found += scores_of(features, *known, draws="as it is")
    return found


def run_fine(cells, setting, labs, tested, seed):
    """Return the scores in the fine classes of a laboratory and another that has them, too."""
    fine, found = cells.table["fine"].to_numpy(str), []
    for lab in tested:
        if {lab, *labs} not in map(set, FINE_PAIRS):
            continue
        shared = np.intersect1d(*(fine[(cells.domain == each) & (fine != "")] for each in (lab, *labs)))
        label = np.where(np.isin(fine, shared), fine, "")
        rows = draw_training(label, cells.domain, labs, seed)
        for features in all_features(cells.X[rows], cells.domain[rows], label[rows], seed):
            known = (cells.X, label, cells.domain, "fine", labs, [lab], seed)
            found += scores_of(features, *known, draws="as it is")
    return found


def run_within(cells, setting, labs, tested, seed):
    """Return the scores of folds within one laboratory; where patients are known, none is in two folds."""
    found = []
    for name, label in (("within", cells.label), ("within, fine", cells.table["fine"].to_numpy(str))):
        inside = np.flatnonzero((cells.domain == labs[0]) & (label != ""))
        names, counts = np.unique(label[inside], return_counts=True)
        inside = inside[np.isin(label[inside], names[counts >= LEAST_TRAINED])]
        if not len(inside):
            continue
        group = cells.table["group"].to_numpy(str)[inside]
        folds = StratifiedGroupKFold if (group != "").all() else StratifiedKFold
        splits = folds(5, shuffle=True, random_state=seed).split(
            inside, label[inside], group if (group != "").all() else None
        )
        probabilities = {strength: np.zeros((len(inside), len(np.unique(label[inside])))) for strength in STRENGTHS}
        classes = np.unique(label[inside])
        for train, left in splits:
            X, y = cells.X[inside[train]], label[inside[train]]
            few = draw_training(y, np.full(len(y), labs[0]), labs, seed)
            models = fit_classifiers(Features("pooled", False, X[few], y[few], as_they_are))
            for strength, model in models.items():
                columns = np.searchsorted(classes, model.classes_)
                probabilities[strength][np.ix_(left, columns)] = model.predict_proba(cells.X[inside[left]])
        known = {"setting": name, "train": labs[0], "tested": labs[0], "seed": seed, "features": "pooled"}
        known |= {"aligned": False, "smoothed": False, "mixture": "as it is", "draw": 0, "cells": len(inside)}
        every = np.ones(len(inside), bool)
        for strength, made in probabilities.items():
            scores = score(label[inside], made, classes, classes, every)
            found.append({**known, "C": strength, "classes": len(classes), **scores})
    return found


def scores_of(features, X, label, domain, setting, labs, tested, seed, draws="all"):
    """Return the scores of one kind of features in every laboratory that is tested.

    `draws`: "all" mixtures, the cells "as it is" alone, or "foreign": together with those of all other types.
    """
    models = fit_classifiers(features)
    limit = fit_abstention(features, models[0.1], seed) if setting in MIXED else None
    found, typed = [], label != ""
    usual = np.mean([X[(domain == lab) & typed].var(0) for lab in labs], axis=0)
    varies = usual > 0
    for lab in tested:
        here = (domain == lab) & (typed | (draws == "foreign"))
        known = {"setting": setting, "train": "+".join(labs), "tested": lab, "seed": seed}
        if draws == "foreign":
            drawn = [("with its other cells", 0, np.arange(here.sum()))]
        else:
            drawn = draws_of(label[here], lab, seed, draws == "all" and setting in MIXED)
        spread = {
            (mixture, number): np.mean(X[here][rows][:, varies].var(0) / usual[varies])
            for mixture, number, rows in drawn
        }
        found += [
            known | row | {"spread": spread[row["mixture"], row["draw"]]}
            for row in tests(features, models, limit, X[here], label[here], drawn)
        ]
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
    scored = scored_classes(features.label, label[label != ""])

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
        near = neighbours_of(scaled)
        moved = np.abs(cluster_shares(clusters, scaled) - usual).sum() / 2
        typed = label[rows] != ""
        answered = (novelty <= (limit.threshold_ if limit else 0))[typed]
        for strength, found in probabilities.items():
            for smoothed in (False, True):
                made = smooth(found, near) if smoothed else found
                scores = score(label[rows][typed], made[typed], classes, scored, answered)
                if scores:
                    yield {
                        "features": features.name, "aligned": features.transductive, "smoothed": smoothed,
                        "C": strength, "mixture": mixture, "draw": number, "cells": len(rows),
                        "classes": len(scored), "clusters_moved": moved, **scores,
                    }  # fmt: skip


if __name__ == "__main__":
    main()
