"""Draw what the autoencoder brings on three real laboratories, from the benchmark's scores.

    python docs/figures/results.py

writes results.png beside this file. The numbers are those of docs/tables/autoencoder_quality.csv: logistic regression,
autoencoder fitted on unlabelled cells, mean over seeds.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

HERE = Path(__file__).parent
SHOWN = {
    "pooled embeddings": "embeddings alone",
    "pooled, standardised by laboratory": "standardised by laboratory",
    "linear (default)": "CrossDomainAutoencoder",
}


def main() -> None:
    """Draw a heat map for each set of features."""
    scores = pd.read_csv(HERE.parent / "tables" / "autoencoder_quality.csv")
    scores = scores[(scores["protocol"] == "transductive") & (scores["classifier"] == "LR")]
    scores[["trained", "tested"]] = scores["pair"].str.split(" -> ", expand=True)
    domains = sorted(scores["trained"].unique())
    figure = Figure((9, 3.5), layout="constrained")
    axes = figure.subplots(1, len(SHOWN), sharey=True)
    for ax, (name, title) in zip(axes, SHOWN.items(), strict=True):
        rows = scores[scores["features"] == name]
        means = (
            rows.pivot_table("balanced_accuracy", "trained", "tested")
            .reindex(index=domains, columns=domains)
            .to_numpy()
        )
        ax.imshow(means, vmin=0.2, vmax=1, cmap="cividis")
        for (row, column), value in np.ndenumerate(means):
            shown, colour = ("", "black") if np.isnan(value) else (f"{value:.2f}", "white" if value < 0.6 else "black")
            ax.text(column, row, shown, ha="center", va="center", fontsize=13, color=colour)
        ax.set_title(f"{title}: {np.nanmean(means):.2f}", fontsize=12)
        ax.set_xticks(range(len(domains)), domains)
        ax.set_yticks(range(len(domains)), domains)
        ax.set_xlabel("tested on")
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("trained on")
    figure.suptitle("Balanced accuracy in a laboratory that no label came from (five classes, chance 0.20 to 0.25)")
    figure.savefig(HERE / "results.png", dpi=110)


if __name__ == "__main__":
    main()
