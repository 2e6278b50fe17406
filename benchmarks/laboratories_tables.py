"""The tables of `laboratories.py`: settings chosen on other laboratories, then means over training sets and draws.

    python benchmarks/laboratories_tables.py --parts out/laboratories/parts --out docs/tables

"C=chosen" is, for every training set and tested laboratory, the strength that was best where the tested laboratory
takes no part; "best inductive" and "best of all" choose the method in the same way:

- one laboratory trains: among the twelve pairs of the four other laboratories;
- two or three train: among the pairs of these;
- five train: each of the five is left out, and the four others train.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from laboratories_signs import rules

METRICS = ["balanced_accuracy", "macro_f1", "ece", "answered", "right_of_answered"]
METHOD = ["features", "aligned", "smoothed"]
TASK = ["setting", "train", "tested"]
ACROSS = ("pair", "two", "three", "left out")
REPORTED = ("pair", "two", "three", "left out", "fine", "within", "within, fine")
# Shown in every table, if they were run.
ORDER = (
    "ImageNet", "ImageNet, standardised", "pooled", "pooled, stain views", "autoencoder, inductive",
    "pooled, smoothed", "autoencoder, inductive, smoothed", "pooled, stain views, smoothed", "standardised",
    "standardised, smoothed", "autoencoder, transductive", "autoencoder, transductive, smoothed",
    "autoencoder, fitted on both", "autoencoder, fitted on both, smoothed", "best inductive", "best of all",
)  # fmt: skip


def read_parts(folder):
    """Read what the runs left: a row per task, seed, draw and method."""
    table = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))], ignore_index=True)
    name = table["features"].copy()
    bare = name == "autoencoder"
    name[bare] += np.where(table.loc[bare, "aligned"], ", transductive", ", inductive")
    table["method"] = name.where(~table["smoothed"], name + ", smoothed")
    table["transductive"] = table["aligned"] | table["smoothed"]
    table["C"] = table["C"].map("{:g}".format)
    return table


def inner_tasks(tasks, setting, train, tested):
    """Return the tasks, a frame, on which the settings of this task are chosen."""
    labs = set(train.split("+"))
    inside = tasks["train"].str.split("+").map(set)
    if setting == "left out":
        fits = (tasks["setting"] == "four") & inside.map(lambda found: found <= labs) & tasks["tested"].isin(labs)
    else:
        others = set(tasks["tested"]) - labs - {tested} if setting == "pair" else labs
        fits = (tasks["setting"] == "pair") & inside.map(lambda found: found <= others) & tasks["tested"].isin(others)
    return tasks[fits]


def with_choices(table):
    """Append the rows of what would have been chosen."""
    usual = table[table["mixture"] == "as it is"]
    means = usual.groupby([*TASK, "method", "transductive", "C"])["balanced_accuracy"].mean().reset_index()
    tasks = means[TASK].drop_duplicates()
    keyed = means.set_index(TASK).sort_index()
    picks = []
    for task in tasks[tasks["setting"].isin(ACROSS)].itertuples(index=False):
        inner = pd.MultiIndex.from_frame(inner_tasks(tasks, *task))
        if inner.empty:
            continue
        inside = keyed[keyed.index.isin(inner)].groupby(["method", "transductive", "C"])["balanced_accuracy"]
        found = inside.mean()[inside.size() == len(inner)].reset_index(name="mean")
        groups = dict(iter(found.groupby("method")))
        groups["best inductive"] = found[~found["transductive"]]
        groups["best of all"] = found
        for name, rows in groups.items():
            if len(rows):
                best = rows.loc[rows["mean"].idxmax()]
                picks.append({**task._asdict(), "method": best["method"], "C": best["C"], "shown": name})
    if not picks:
        return table
    chosen = table.merge(pd.DataFrame(picks), on=[*TASK, "method", "C"])
    chosen = chosen.assign(picked=chosen["method"] + " C=" + chosen["C"], method=chosen["shown"], C="chosen")
    return pd.concat([table, chosen.drop(columns="shown")], ignore_index=True)


def summarise(table):
    """Average over training sets and draws: a row per setting, method, strength, mixture, laboratory and seed."""
    keys = ["setting", "method", "C", "mixture", "tested", "seed"]
    table = table[table["setting"].isin(REPORTED)]
    found = table.groupby(keys)[[*METRICS, "cells"]].mean().reset_index()
    return found.merge(table.groupby(["setting", "method", "C"])["transductive"].max().reset_index())


def overview(summary, metric="balanced_accuracy"):
    """Show the mean over laboratories, by setting."""
    found = summary[summary["mixture"] == "as it is"].groupby(["method", "C", "setting", "tested"])[metric].mean()
    wide = found.groupby(level=[0, 1, 2]).agg(["mean", "std"]).map("{:.3f}".format)
    wide = (wide["mean"] + " ± " + wide["std"]).unstack()[[name for name in ACROSS if name in found.index.levels[2]]]  # noqa: PD010
    order = [name for name in ORDER if name in wide.index.levels[0]]
    return wide.reindex(order, level=0)


def by_mixture(summary, metric="balanced_accuracy", strength="0.1"):
    """Show the mean over laboratories of one metric, by class mixture."""
    rows = summary[(summary["C"] == strength) | summary["method"].str.startswith("best")]
    found = rows.groupby(["setting", "method", "mixture", "tested"])[metric].mean().groupby(level=[0, 1, 2]).mean()
    wide = found.unstack().round(3)  # noqa: PD010
    return wide.loc[[name for name in ("pair", "left out") if name in wide.index.levels[0]]].reindex(ORDER, level=1)


def write(summary, table, folder):
    """Write the tables of the docs: cells as they are, by seed; every mixture, mean over seeds; fine classes."""
    shown = summary[summary["C"].isin(("0.1", "0.01", "chosen"))]
    usual = shown["mixture"] == "as it is"
    across = shown["setting"].isin(ACROSS)
    shown[usual & across].drop(columns=["mixture", "cells"]).to_csv(
        folder / "laboratories.csv", index=False, float_format="%.4f"
    )
    keys = ["setting", "method", "transductive", "C", "mixture", "tested"]
    mixed = shown[shown["setting"].isin(("pair", "left out"))].groupby(keys)[[*METRICS, "cells"]].mean()
    mixed.reset_index().to_csv(folder / "laboratories_mixtures.csv", index=False, float_format="%.4f")
    fine = table[table["setting"].isin(("fine", "within", "within, fine")) & (table["C"] == "0.1")]
    where = (fine["train"] + " -> " + fine["tested"]).where(
        fine["setting"] == "fine", fine["train"] + ", " + fine["setting"]
    )
    columns = ["where", "classes", "cells", "method", "transductive", "C", "seed", *METRICS[:3]]
    fine.assign(where=where)[columns].to_csv(folder / "laboratories_fine.csv", index=False, float_format="%.4f")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, default=Path("out/laboratories/parts"))
    parser.add_argument("--out", type=Path, default=Path("docs/tables"))
    args = parser.parse_args()
    table = with_choices(read_parts(args.parts))
    summary = summarise(table)
    args.out.mkdir(parents=True, exist_ok=True)
    write(summary, table, args.out)
    rules(table).to_csv(args.out / "laboratories_signs.csv", index=False, float_format="%.4f")
    with pd.option_context("display.width", 250, "display.max_rows", 500):
        print(overview(summary).to_string())
        for metric in METRICS:
            print(f"\n{metric}, C=0.1\n{by_mixture(summary, metric).to_string()}")


if __name__ == "__main__":
    main()
