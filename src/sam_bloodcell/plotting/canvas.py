"""Shared parts of all figures: an empty figure, a grid of axes, colours, markers, and text without markup."""

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish. Yellow is last because it is pale on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#F0E442")
# 13 and 8 share no factor, so there are 104 pairs of marker and colour; 13 classes differ by their marker alone.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*", "h", "p", "8")


def new_figure(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """Make an empty figure outside pyplot, so that no figure stays in memory and no display is needed."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout=layout)


def new_grid(n: int, columns: int, width: float, height: float, sharex: bool = False) -> "tuple[Figure, list[Axes]]":
    """Make a figure of n panels, row by row; `width` and `height` of a panel are in inches."""
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    figure = new_figure((width * columns + 0.9, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel()
    for ax in axes[n:]:
        ax.remove()
    return figure, list(axes[:n])


def plain(text: Any, longest: int = 32) -> str:
    """Return a name as figures show it: `escaped`, `shorten`ed, and without matplotlib markup.

    Matplotlib reads mathematics between dollar signs, and hides labels that start with _.
    """
    shown = shorten(escaped(text), longest).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def escaped(text: Any) -> str:
    r"""Escape control characters, and those that no installed font has, as Python does, such as \n and \u8840.

    Escaped names stay distinct, unlike names of boxes.
    """
    return "".join(c if _is_drawable(c) else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shorten(text: str, longest: int = 24) -> str:
    """Cut text that is longer than `longest`, and replace its end by a digest, so that names stay distinct."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 6]}…#{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:4]}"


def shorten_middle(text: str, longest: int = 24) -> str:
    """Cut the middle of text that is longer than `longest`, because file names differ at their ends."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def title_of_two(first: Any, mark: str, second: Any, width: int) -> str:
    """Join two names by a mark, on two lines if `width` characters are too few, or if a name is read from the right.

    On one line, such a name would reverse the order of the two.
    """
    names = [shorten(escaped(name)) for name in (first, second)]
    from_the_right = any(unicodedata.bidirectional(c) in ("R", "AL") for name in names for c in name)
    title = f"{names[0]}{mark} {names[1]}"
    return f"{names[0]}{mark}\n{names[1]}" if from_the_right or len(title) > width else title


def is_plain(text: Any) -> bool:
    """Tell whether figures show a name unchanged."""
    return plain(text).strip().replace(r"\$", "$") == str(text).strip()


def font_family(*names: Any) -> list[str]:
    """Return matplotlib's font families, followed by installed ones with the characters that these names need."""
    families = list(_own_families())
    characters = {c for name in names for c in str(name) if c.isprintable()}
    return list(dict.fromkeys([*families, *filter(None, map(_font_with, sorted(characters)))]))


def _is_drawable(character: str) -> bool:
    return character.isprintable() and _font_with(character) is not None


def _own_families() -> tuple[str, ...]:
    from matplotlib import rcParams

    return tuple(rcParams["font.family"])


def _font_with(character: str) -> str | None:
    """Return the first font family that has a character, or None; matplotlib's own families come first."""
    if character.isascii():
        return _own_families()[0]
    return _search_fonts(character, _own_families())


@lru_cache(maxsize=4096)
def _search_fonts(character: str, own: tuple[str, ...]) -> str | None:
    from matplotlib import font_manager as fonts

    files: list[tuple[str, Any]] = [(family, fonts.findfont(fonts.FontProperties(family=[family]))) for family in own]
    files += sorted((entry.name, entry.fname) for entry in fonts.fontManager.ttflist if _is_upright(entry))
    for family, file in files:
        if fonts.get_font(file).get_char_index(ord(character)):
            return family
    return None


def _is_upright(font: Any) -> bool:
    """Tell whether matplotlib finds a font by its family's name; a last-resort font has a box for every character."""
    return font.style == "normal" and font.weight in (400, "normal") and "last resort" not in font.name.lower()


def spread_text(mean: float, std: float, digits: int = 3, separator: str = " ") -> str:
    """Write a mean and its standard deviation; either may be NaN."""
    if math.isnan(mean):
        return "none"
    rounded = f"{mean:.{digits}f}"
    return rounded if math.isnan(std) else f"{rounded}{separator}± {std:.{digits}f}"


def draw_heat_map(
    ax: "Axes", shares: np.ndarray, texts: np.ndarray, names: Sequence[Any], name_rows: bool, fontsize: float
) -> None:
    """Draw an (n, n) matrix of values from 0 to 1, with text in each cell, names below, and optionally on the left."""
    ax.imshow(shares, vmin=0, vmax=1, cmap="cividis")
    for (row, column), text in np.ndenumerate(texts):
        if not text:
            continue
        colour = "white" if shares[row, column] < 0.55 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=colour, linespacing=1.1)
    ticks = [plain(name) for name in names]
    drawn: dict[str, Any] = {"fontsize": fontsize, "fontfamily": font_family(*names)}
    ax.set_xticks(range(len(names)), ticks, rotation=35, ha="right", **drawn)
    ax.set_yticks(range(len(names)), ticks if name_rows else [""] * len(names), **drawn)
    ax.spines[:].set_visible(False)
