"""What other read-outs of the packaged vit_tiny give across laboratories, without training it.

    python benchmarks/readouts.py --out out/readouts --table docs/tables/readouts.csv

At most 150 cells of each of the five common classes from six laboratories: pooling under the mask, tokens of earlier
blocks, averages over turned images, colours brought to a reference, morphology, and the package's measures. Logistic
regression, classes of equal weight, on 30 pairs of laboratories and with one laboratory left out; the balanced accuracy
is over the classes of which the tested laboratory has 3 cells. A read-out is judged on the tested
laboratories that the encoder saw and on those that it never saw, in each group with the C that is best in the other.
Passes of the network (2 to 4 minutes each on one core) and scores are kept in files of their own; a second call
resumes.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from laboratories_cells import LABORATORIES, LEAST_TRAINED, scored_classes
from laboratories_methods import STRENGTHS
from readouts_passes import BLOCKS, COLOURS, TURNS, blocks_of, read_subset, run_pass
from shared_cells import standardise
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

HALVES = {"unseen": ("jhu", "leukocytes"), "pretrained": ("tecom", "acevedo", "cellavision", "munich_bm")}
OTHER = dict(zip(HALVES, reversed(HALVES), strict=True))
TODAY = "mean"
# Views whose read-outs are averaged with those of the image as it is.
AVERAGED = {"2 turned": ["turned 180"], "4 turned": list(TURNS)}
STRENGTHS = tuple(strength for strength in STRENGTHS if strength < 1)
POOLED = (
    "std", "max", "nucleus", "cytoplasm", "middle_of_the_cell", "middle_of_the_image", "whole_image",
    "mean_of_unit_tokens", "nucleus cytoplasm", "mean nucleus", "mean nucleus cytoplasm", "mean std", "mean max",
    "mean min max", "mean middle_of_the_cell", "mean surroundings", "mean std max", "mean std nucleus cytoplasm",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/readouts"))
    parser.add_argument("--table", type=Path, default=Path("out/readouts.csv"))
    args = parser.parse_args()
    (args.out / "scores").mkdir(parents=True, exist_ok=True)
    cells = read_subset()
    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    found = []
    for family, name, make in tqdm(list_readouts(Passes(args.out, cells)), desc="read-outs"):
        saved = args.out / "scores" / f"{name}.csv"
        if not saved.exists():
            pd.DataFrame(score_readout(make(), label, domain)).to_csv(saved, index=False, float_format="%.4f")
        found.append(pd.read_csv(saved).assign(family=family, readout=name))
    table = summarise(pd.concat(found))
    args.table.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.table, index=False, float_format="%.3f", lineterminator="\n")
    print(table.to_string(index=False, float_format="%.3f"))


class Passes:
    """Passes of the network by name, each made when it is first wanted and kept in the folder."""

    def __init__(self, folder, cells):
        self.folder, self.cells = folder, cells

    def read(self, part, colour="plain", turn=None):
        saved = self.folder / "parts" / f"{colour}{'' if turn is None else ' ' + turn}.npz"
        if not saved.exists():
            saved.parent.mkdir(exist_ok=True)
            masks = None if turn is None else self.read("mask", colour)
            made = run_pass(self.cells, colour, turn and TURNS[turn], masks)
            np.savez(saved.with_suffix(".part.npz"), **made)
            saved.with_suffix(".part.npz").rename(saved)
        with np.load(saved) as found:
            return found[part].astype(np.float32) if part != "mask" else found[part]

    def pool(self, *specs, colour="plain", turns=()):
        """Return the parts of blocks ("8 mean std") side by side, averaged over the image and its turned views."""
        wanted = [(int(block), part) for block, *parts in map(str.split, specs) for part in parts]
        views, parts = [], {part.replace("_", " ") for _, part in wanted}
        for turn in (None, *turns):
            read, kept = {part: self.read(part, colour, turn) for part in parts}, blocks_of(colour, turn)
            views.append(np.hstack([read[part.replace("_", " ")][:, kept.index(block)] for block, part in wanted]))
        return np.mean(views, axis=0)


def list_readouts(passes):
    """List the read-outs: (family, name, function that makes the (n, d) features)."""
    found = []

    def add(family, name, *specs, beside=None, **options):
        def make():
            parts = [passes.pool(*specs, **options)] if specs else []
            return np.hstack([*parts, passes.read(beside)]) if beside else parts[0]

        found.append((family, name, make))

    add("today", TODAY, "12 mean")
    for parts in POOLED:
        add("pooling", parts.replace(" ", ", ").replace("_", " "), f"12 {parts}")
    _add_blocks(add)
    for name, turns in AVERAGED.items():
        add("turned", name, "12 mean", turns=turns)
    for name in COLOURS:
        add("colour", name, "12 mean", colour=name)
    best = ("12 mean", "4 mean std")
    for name in COLOURS:
        add("combined", f"{name}, block 4 mean, std", *best, colour=name)
    add("combined", "4 turned, block 4 mean, std", *best, turns=list(TURNS))
    for name in ("morphology", "measures"):
        add(name, name, beside=name)
        add(name, f"mean, {name}", "12 mean", beside=name)
        add(name, f"mean, block 4 mean, std, {name}", *best, beside=name)
    return found


def _add_blocks(add):
    for block in (4, 6, 8, 10):
        add("blocks", f"block {block}", f"{block} mean")
    for block in BLOCKS[:-1]:
        add("blocks", f"block {block}, mean, std", f"{block} mean std")
    for block in (4, 6, 8, 10):
        add("blocks", f"mean, block {block}", "12 mean", f"{block} mean")
        add("blocks", f"mean, block {block} std", "12 mean", f"{block} std")
    for block in BLOCKS[1:-1]:
        add("blocks", f"mean, block {block} mean, std", "12 mean", f"{block} mean std")
    for blocks in ((4, 12), (8, 12), (4, 8, 12)):
        add("blocks", f"blocks {' '.join(map(str, blocks))}, mean, std", *(f"{block} mean std" for block in blocks))
    add("blocks", "mean, block 4 mean, std, nucleus, cytoplasm", "12 mean", "4 mean std nucleus cytoplasm")


def score_readout(X, label, domain):
    """Return a row for each training set, tested laboratory, kind of features and C."""
    rows = []
    for kind, features in (("pooled", X), ("standardised", standardise(X, domain))):
        for setting, trained, tested in _training_sets():
            train = np.flatnonzero(np.isin(domain, trained))
            names, counts = np.unique(label[train], return_counts=True)
            train = train[np.isin(label[train], names[counts >= LEAST_TRAINED])]
            scaler = StandardScaler().fit(features[train])
            scaled = scaler.transform(features).astype(np.float64)
            for strength in STRENGTHS:
                model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, tol=1e-3)
                answers = model.fit(scaled[train], label[train]).predict(scaled)
                for lab in tested:
                    inside = np.flatnonzero(domain == lab)
                    scored = scored_classes(label[train], label[inside])
                    score = recall_score(label[inside], answers[inside], labels=scored, average="macro")
                    rows.append({
                        "setting": setting, "features": kind, "trained": "+".join(trained), "tested": lab,
                        "C": strength, "width": X.shape[1], "score": score,
                    })  # fmt: skip
    return rows


def _training_sets():
    for lab in LABORATORIES:
        others = tuple(other for other in LABORATORIES if other != lab)
        yield "pair", (lab,), others
        yield "left out", others, (lab,)


def summarise(scores):
    """Return a row for each read-out: its scores, and its gain over today's in each half of the tested laboratories.

    A gain of a half is the mean over both settings; "laboratories" counts the tested ones of six whose mean rises.
    """
    half = {lab: name for name, labs in HALVES.items() for lab in labs}
    keys = ["family", "readout", "width", "features", "setting"]
    by_lab = scores.groupby([*keys, "tested", "C"], sort=False)["score"].mean().reset_index()
    by_lab["half"] = by_lab["tested"].map(half)
    by_half = by_lab.groupby([*keys, "half", "C"], sort=False)["score"].mean().reset_index()
    best = by_half.loc[by_half.groupby([*keys, "half"])["score"].idxmax(), [*keys, "half", "C"]]
    best["half"] = best["half"].map(OTHER)  # the C of a half is chosen on the other one
    chosen = by_lab.merge(best, on=[*keys, "half", "C"])
    today = chosen[chosen["readout"] == TODAY][["features", "setting", "tested", "score"]]
    chosen = chosen.merge(today, on=["features", "setting", "tested"], suffixes=("", " today"))
    chosen["gain"] = chosen["score"] - chosen["score today"]
    rows = []
    for (family, name, width), part in chosen.groupby(["family", "readout", "width"], sort=False):
        row = {"family": family, "readout": name, "width": width}
        for kind in ("pooled", "standardised"):
            of_kind = part[part["features"] == kind]
            for setting in ("pair", "left out"):
                row[f"{kind}, {setting}"] = of_kind.loc[of_kind["setting"] == setting, "score"].mean()
            for each in HALVES:
                row[f"{kind}, gain {each}"] = of_kind.loc[of_kind["half"] == each, "gain"].mean()
            row[f"{kind}, laboratories"] = int((of_kind.groupby("tested")["gain"].mean() > 0).sum())
        rows.append(row)
    order = {name: number for number, name in enumerate(scores["readout"].unique())}
    return pd.DataFrame(rows).sort_values("readout", key=lambda names: names.map(order))


if __name__ == "__main__":
    main()
