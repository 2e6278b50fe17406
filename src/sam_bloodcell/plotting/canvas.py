"""What every figure starts from: an empty one, a grid of axes, colours, and text as it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; yellow last, it is weak on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#F0E442")
# 13 markers and 8 colours share no factor: 104 pairs, and 13 classes told apart in print by marker alone.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*", "h", "p", "8")


def new_figure(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Make an empty figure that belongs to no pyplot session, so nothing leaks and no display is needed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ImportError('Plots need matplotlib. Fix: pip install "sam-bloodcell[report]"') from exc
    return Figure(figsize=size, layout=layout)


def new_grid(n: int, columns: int, width: float, height: float, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure of n panels, each so many inches wide and high, row by row."""
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    figure = new_figure((width * columns + 0.9, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel()
    for ax in axes[n:]:
        ax.remove()
    return figure, list(axes[:n])


def plain(text: Any) -> str:
    """Return text as it is: no mathematics between dollar signs, no label hidden for its leading underscore."""
    shown = str(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
