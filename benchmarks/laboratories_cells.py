"""Cells, training sets and class mixtures of `laboratories.py`."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from shared_cells import read_tables, with_common_names

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.datasets import COMMON_CLASSES, harmonise_labels

LABORATORIES = ("tecom", "acevedo", "cellavision", "jhu", "munich_bm", "leukocytes")
FINE_PAIRS = (("jhu", "acevedo"), ("jhu", "munich_bm"), ("acevedo", "munich_bm"))
PER_CLASS = 150  # cells of a class and laboratory that train
LEAST_TRAINED, LEAST_TESTED = 5, 3  # cells of a class
N_VIEWS = 4  # of a training cell, in other stains
DRAWS = 3  # training sets of two and of three laboratories

# Shares of the classes in a draw from the tested laboratory; None: see `draw_mixture`.
HEALTHY = {"neutrophil": 0.6, "lymphocyte": 0.3, "monocyte": 0.06, "eosinophil": 0.03, "basophil": 0.01}
MIXTURES = ("as it is", "balanced", "healthy", "one class missing", "one class only")
MOST_DRAWN = 600  # cells of a draw: more would make the ten draws of the largest laboratory nearly the same
FEW = 10  # a class with fewer cells does not limit the size of a balanced draw: it is left out of it
ONE_CLASS = 20  # cells of a class that make a draw of its own


def read_cells():
    """Read the six labelled laboratories' cells, with their common and fine classes ("" where there is none)."""
    cells = read_tables()
    cells = cells[cells["domain"].isin(LABORATORIES)].reset_index(drop=True)
    named = with_common_names(cells)["label"]
    fine = cells["label"].where(cells["domain"].isin({"jhu", "munich_bm"}), "")
    acevedo = cells["domain"] == "acevedo"
    codes = cells.loc[acevedo, "path"].map(lambda path: Path(path).stem.split("_")[0])
    fine[acevedo] = harmonise_labels(codes.tolist(), "acevedo-20")["label"]
    return cells.assign(
        common=named.where(named.isin(COMMON_CLASSES), ""),
        fine=fine.replace({"lymphocyte_typical": "lymphocyte"}),
    )


def embed(cells, folder, cache_dir):
    """Return the pooled vit_tiny embeddings (n, 192) of the cells; they are kept in the folder for the next call."""
    saved = folder / "vit_tiny.npz"
    if saved.exists():
        with np.load(saved) as found:
            if found["path"].tolist() == cells["path"].tolist():
                return found["X"]
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=cache_dir or folder / "cache", verbose=1)
    X = np.asarray(embedder.fit_transform(cells["path"].tolist()))
    np.savez(saved, X=X, path=cells["path"].to_numpy(str))
    return X


def training_sets():
    """List what trains and where it is tested: (setting, training laboratories, tested laboratories).

    "four" is not reported: it is where methods are chosen for "left out".
    """
    rng = np.random.default_rng(0)
    found = [("pair", (lab,), _others((lab,))) for lab in LABORATORIES]
    found += [("left out", _others((lab,)), (lab,)) for lab in LABORATORIES]
    for setting, count in (("two", 2), ("three", 3)):
        every = list(combinations(LABORATORIES, count))
        drawn = sorted(rng.choice(len(every), DRAWS, replace=False))
        found += [(setting, every[number], _others(every[number])) for number in drawn]
    return found + [("four", _others(two), two) for two in combinations(LABORATORIES, 2)]


def _others(labs):
    return tuple(lab for lab in LABORATORIES if lab not in labs)


def read_views(folder, name, cells, labs):
    """Return rows of cells and the embeddings (n, views, 192) of their views in other stains; made where not there yet.

    "own" has donors of the stain from the cell's own laboratory, "without_<lab>" from the five laboratories but one.
    """
    saved = folder / f"views_{name}.npz"
    if not saved.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make_views(saved, name, cells)
    with np.load(saved) as found:
        path, views = found["path"], found["X"]
    rows = pd.Index(cells["path"]).get_indexer(pd.Index(path))
    kept = np.isin(cells["domain"].to_numpy(str)[rows], labs) & (rows >= 0)
    return rows[kept], views[kept]


def _make_views(saved, name, cells):
    """Draw and embed the views that `StainAugmentedClassifier` trains on, of one draw of the training cells."""
    from sam_bloodcell.images.stain_views import draw_views

    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    rows = [draw_training(label, domain, (lab,), 0) for lab in LABORATORIES if f"without_{lab}" != name]
    parts = rows if name == "own" else [np.concatenate(rows)]
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=saved.parent / "views_cache", verbose=1)
    views = []
    for part in parts:
        drawn = draw_views(cells["path"].iloc[part].tolist(), domain[part], N_VIEWS, embedder.image_size, 0)
        made = np.asarray(embedder.fit_transform(drawn.views))
        views.append(made.reshape(N_VIEWS, len(part), -1).swapaxes(0, 1))
    np.savez(saved, X=np.concatenate(views), path=cells["path"].to_numpy(str)[np.concatenate(parts)])


def draw_training(label, domain, labs, seed, classes=None):
    """Return the rows that train: at most 150 of each class and laboratory, of the classes with enough cells."""
    rng = np.random.default_rng([seed, *(LABORATORIES.index(lab) for lab in labs)])
    inside = np.isin(domain, labs) & (label != "")
    names, counts = np.unique(label[inside], return_counts=True)
    names = names[counts >= LEAST_TRAINED]
    if classes is not None:
        names = np.intersect1d(names, classes)
    groups = [np.flatnonzero((domain == lab) & (label == name)) for lab in labs for name in names]
    return np.concatenate([rng.permutation(rows)[:PER_CLASS] for rows in groups])


def scored_classes(trained, tested):
    """Return the classes that training has and of which the tested laboratory has enough cells."""
    names, counts = np.unique(tested, return_counts=True)
    return np.intersect1d(names[counts >= LEAST_TESTED], trained)


def draw_mixture(label, mixture, draw, lab):
    """Return the rows of one draw, without replacement, or None where the laboratory has too few cells.

    "as it is": all. "balanced": as many of each class, of those with at least 10 cells. "healthy": the shares of
    `HEALTHY`, as many cells as the rarest of its classes gives. "one class missing": four fifths of the cells, less one
    class. "one class only": the cells of one class that has at least 20. Which class it is goes on with the draw.
    """
    rng = np.random.default_rng([draw, LABORATORIES.index(lab), MIXTURES.index(mixture)])
    rows = {name: rng.permutation(np.flatnonzero(label == name)) for name in np.unique(label)}
    counts = {name: len(found) for name, found in rows.items()}
    if mixture == "as it is":
        return np.arange(len(label))
    if mixture == "balanced":
        usual = {name: count for name, count in counts.items() if count >= FEW}
        share = dict.fromkeys(usual, 1 / len(usual))
    elif mixture == "healthy":
        # A rare class may be absent (no basophils) without making the draw small.
        known = {name: value for name, value in HEALTHY.items() if counts.get(name, 0) >= LEAST_TESTED}
        share = {name: value / sum(known.values()) for name, value in known.items()}
    elif mixture == "one class missing":
        several = sorted(name for name, count in counts.items() if count >= LEAST_TESTED)
        missing = several[draw % len(several)]
        kept = np.concatenate([found for name, found in rows.items() if name != missing])
        return rng.permutation(kept)[: min(MOST_DRAWN, int(0.8 * len(kept)))]
    else:
        many = sorted(name for name, count in counts.items() if count >= ONE_CLASS)
        return rows[many[draw % len(many)]][:MOST_DRAWN]
    size = min(MOST_DRAWN, *(counts[name] / value for name, value in share.items()))
    return np.concatenate([rows[name][: max(1, round(size * value))] for name, value in share.items()])
