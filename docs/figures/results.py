"""Draw how well the cells of six laboratories are classified without their labels, with and without alignment.

    python docs/figures/results.py

writes results.png beside this file. The numbers are those of the README's table, from
docs/tables/laboratories.csv.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
METHODS = {
    "pooled": "image features\nas they are",
    "standardised": "features standardised\nper laboratory",
    "autoencoder, transductive": "features aligned between\nlaboratories (autoencoder)",
    "autoencoder, transductive, smoothed": "aligned, and answers\nsmoothed over similar cells",
}
SETTINGS = {"pair": "Trained in one other laboratory", "left out": "Trained in five other laboratories"}
LABORATORIES = ("acevedo", "leukocytes", "tecom", "jhu", "munich_bm", "cellavision")
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # told apart by colour-blind readers, too
CHANCE = (20, 33)  # percent: always the same answer, with five and with three classes


def main() -> None:
    """Draw a panel for each number of training laboratories."""
    table = pd.read_csv(HERE.parent / "tables" / "laboratories.csv", dtype={"C": str}).query("C == 'chosen'")
    scores = 100 * table.groupby(["setting", "method", "tested"])["balanced_accuracy"].mean()
    figure = Figure((6.8, 7), layout="constrained")  # narrow, so that it can be read on a phone
    axes = figure.subplots(len(SETTINGS), 1, sharex=True)
    for ax, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        _draw(ax, scores[setting])
        ax.set_title(title, fontsize=13, loc="left")
        ax.set_yticks(range(len(METHODS)), METHODS.values(), fontsize=11)
        ax.invert_yaxis()
    axes[-1].set_xlabel("balanced accuracy in percent", fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    figure.suptitle("Cells classified correctly\nin a new laboratory", fontsize=13, fontweight="bold")
    figure.savefig(HERE / "results.png", dpi=130)


def _draw(ax: Axes, scores: pd.Series) -> None:
    ax.axvspan(*CHANCE, color="0.92", zorder=0)
    ax.text(np.mean(CHANCE), 0.5, "chance", ha="center", va="center", fontsize=10, color="0.3")
    for row, method in enumerate(METHODS):
        found = scores[method]
        ax.barh(row, found.mean(), height=0.6, color="0.8", zorder=1)
        ax.text(108, row, f"{found.mean():.0f}", ha="center", va="center", fontsize=15, fontweight="bold")
        for lab, colour, place in zip(LABORATORIES, COLOURS, np.linspace(-0.2, 0.2, len(COLOURS)), strict=True):
            look = {"color": colour, "markersize": 8, "markeredgecolor": "white", "zorder": 2}
            ax.plot(found[lab], row + place, "o", label=lab if row == 0 else None, **look)
    ax.text(108, 0.33, "mean", ha="center", va="center", fontsize=10, color="0.4")
    ax.set(xlim=(0, 114), xticks=range(0, 101, 20))
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(left=False)


if __name__ == "__main__":
    main()
