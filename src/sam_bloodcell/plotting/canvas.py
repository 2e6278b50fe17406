"""What all figures share: an empty figure, a grid of axes, colours, markers, and text without markup."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart. Yellow is last, because it is pale on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#F0E442")
# 13 and 8 share no factor, so there are 104 pairs of marker and colour; 13 classes differ by their marker alone.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*", "h", "p", "8")


def new_figure(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """Make an empty figure outside pyplot, so that no figure stays in memory and no display is needed."""
    figure = require("matplotlib.figure", extra="report", purpose="Plots need matplotlib")
    return figure.Figure(figsize=size, layout=layout)


def new_grid(n: int, columns: int, width: float, height: float, sharex: bool = False) -> "tuple[Figure, list[Axes]]":
    """Make a figure of n panels, row by row; `width` and `height` of a panel are in inches."""
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    figure = new_figure((width * columns + 0.9, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel()
    for ax in axes[n:]:
        ax.remove()
    return figure, list(axes[:n])


def plain(text: Any) -> str:
    """Escape text for matplotlib, which reads mathematics between dollar signs and hides labels that start with _."""
    shown = str(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def spread_text(mean: float, std: float, digits: int = 3, separator: str = " ") -> str:
    """Write a mean and its standard deviation; either may be NaN."""
    if math.isnan(mean):
        return "none"
    rounded = f"{mean:.{digits}f}"
    return rounded if math.isnan(std) else f"{rounded}{separator}± {std:.{digits}f}"


def draw_heat_map(
    ax: "Axes", shares: np.ndarray, texts: np.ndarray, names: Sequence[Any], name_rows: bool, fontsize: float
) -> None:
    """Draw an (n, n) matrix of values from 0 to 1, a text in each cell, the names below and, if asked, on the left."""
    ax.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    for (row, column), text in np.ndenumerate(texts):
        colour = "white" if shares[row, column] < 0.55 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=colour, linespacing=1.1)
    ticks = [plain(name) for name in names]
    ax.set_xticks(range(len(names)), ticks, rotation=35, ha="right", fontsize=fontsize)
    ax.set_yticks(range(len(names)), ticks if name_rows else [""] * len(names), fontsize=fontsize)
    ax.spines[:].set_visible(False)
