"""Pictures of cells: with outline, crop and reconstruction, and the most confident mistakes."""

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..cells import first_of
from ..evaluation.checks import check_arguments
from ..evaluation.scores import check_predictions
from ..images.collections import as_image_list
from ..images.frames import pad_to_square
from ..images.reading import load_rgb
from .canvas import escaped, font_family, new_figure, plain, shorten_middle, title_of_two

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_TITLE = 100  # characters
_MISTAKE_WIDTH = 28  # characters above a picture at 5.5 points


def plot_cells(
    images: Sequence[Any] | np.ndarray, masks: Sequence[Any] | np.ndarray | None = None,
    crops: Sequence[Any] | np.ndarray | None = None, reconstructions: Sequence[Any] | np.ndarray | None = None, *,
    titles: Sequence[str] | None = None, title_size: float = 7, columns: int = 3,
) -> "Figure":  # fmt: skip
    """Draw cells side by side, each as its picture with the mask's outline, its crop and its reconstruction.

    Parameters
    ----------
    images : sequence of paths or (H, W, 3) arrays, length n
        Pictures of the cells. They are padded to squares, as the embedder does, so that the masks fit.
    masks : bool array of shape (n, S, S) or None
        Masks of the cells in the padded pictures, at any resolution S.
    crops, reconstructions : uint8 array of shape (n, S, S, 3) or None
        Crops and their reconstructions, drawn next to the pictures.
    titles : sequence of str, length n, or None
        Titles, drawn above the pictures.
    title_size : float, default=7
        Font size of the titles in points, above 0.
    columns : int, default=3
        Number of cells per row, at least 1.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.plotting import plot_cells
    >>> picture = np.zeros((2, 8, 6, 3), dtype=np.uint8)
    >>> len(plot_cells(picture, crops=picture, columns=2).axes)
    4
    """
    check_arguments("plot_cells", columns=columns, title_size=title_size)
    images = as_image_list(images, "images")
    parts = {"images": images, "masks": masks, "crops": crops, "reconstructions": reconstructions, "titles": titles}
    lengths = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"Got {lengths} but expected the same number of each. Fix: pass the same rows of each.")
    strips = [strip for strip in (crops, reconstructions) if strip is not None]
    columns = min(columns, len(images))
    lines = 0 if titles is None else max(str(title).count("\n") + 1 for title in titles)
    # In inches: square panels of side 1, narrow gaps within a cell, wide gaps between cells, lines for the title.
    wide, tall = (1 + len(strips)) * 1.03 + 0.2, 1.08 + 0.17 * lines * title_size / 7
    width, height = columns * wide, -(-len(images) // columns) * tall
    figure = new_figure((width, height), layout=None)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        bottom = height - (row + 1) * tall + 0.04
        for j in range(1 + len(strips)):
            left = column * wide + j * 1.03 + 0.1
            ax = figure.add_axes((left / width, bottom / height, 1 / width, 1 / height))
            ax.set_axis_off()
            if j:
                ax.imshow(np.asarray(strips[j - 1][i]))
            else:
                _draw_outlined(ax, image, None if masks is None else np.asarray(masks[i]))
                title = "" if titles is None else str(titles[i])
                shown = "\n".join(plain(line, _LONGEST_TITLE) for line in title.split("\n"))
                ax.set_title(shown, loc="left", pad=3, fontsize=title_size, fontfamily=font_family(title))
    return figure


def plot_mistakes(
    predictions: pd.DataFrame, images: Sequence[Any] | np.ndarray, *, n: int = 24, pair: tuple[Any, Any] | None = None
) -> "Figure | None":  # fmt: skip
    r"""Draw the most confident mistakes across laboratories as a contact sheet.

    Above each cell are the name of its file (or its row), the laboratories of training and test, its true class, the
    answer and the confidence.

    Parameters
    ----------
    predictions : pandas.DataFrame
        The result of `cross_domain_predictions`.
    images : sequence of paths or arrays, length n_samples
        All images from which X was embedded. The column ``row`` contains indices into them.
    n : int, default=24
        Maximum number of cells to draw.
    pair : (train_domain, test_domain) or None, default=None
        Draw only the mistakes of this pair of laboratories, which may be the same laboratory twice.

    Returns
    -------
    matplotlib.figure.Figure or None
        The figure, or None if there are no mistakes.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sam_bloodcell.plotting import plot_mistakes
    >>> found = pd.DataFrame({"train_domain": "a", "test_domain": "b", "row": [0, 1], "label": ["x", "y"],
    ...                       "predicted": ["x", "x"], "confidence": [0.9, 0.8], "known": True})
    >>> figure = plot_mistakes(found, np.zeros((2, 8, 8, 3), dtype=np.uint8), pair=("a", "b"))
    >>> figure.axes[0].get_title(loc="left").split("\n")
    ['row 1', 'a → b', 'y → x 0.80']
    """
    check_predictions(predictions, "train_domain", "test_domain", "row", "label", "predicted", "confidence", "known")
    check_arguments("plot_mistakes", n=n)
    chosen = predictions["train_domain"] != predictions["test_domain"] if pair is None else _of_pair(predictions, pair)
    known = predictions[chosen & predictions["known"]]
    wrong = known[known["label"] != known["predicted"]].sort_values("confidence", ascending=False, kind="stable")
    wrong = wrong.drop_duplicates("row").head(n)
    if wrong.empty:
        return None
    images, last = as_image_list(images, "images"), wrong["row"].max()
    if last >= len(images):
        fix = "Fix: pass all images from which X was embedded."
        raise ValueError(f"Got {len(images)} images but expected more than {last}, a predicted row. {fix}")
    shown = [images[row] for row in wrong["row"]]
    titles = [_mistake_title(cell, image) for cell, image in zip(wrong.itertuples(), shown, strict=True)]
    return plot_cells(shown, titles=titles, columns=6, title_size=5.5)


def _of_pair(predictions: pd.DataFrame, pair: Any) -> pd.Series:
    """Tell which predictions are of a pair of laboratories; raise if there are none."""
    if isinstance(pair, str) or np.shape(pair) != (2,):
        raise ValueError(f"Got pair={pair!r} but expected (train_domain, test_domain). Fix: pass two laboratories.")
    chosen = (predictions["train_domain"] == pair[0]) & (predictions["test_domain"] == pair[1])
    if not chosen.any():
        names = predictions[["train_domain", "test_domain"]].drop_duplicates().itertuples(index=False, name=None)
        fix = f"Fix: pass one of these pairs: {first_of(list(map(str, names)))}."
        raise ValueError(f"Got pair={tuple(pair)!r} but expected a pair of the predictions. {fix}")
    return chosen


def _mistake_title(cell: Any, image: Any) -> str:
    """Return lines with a cell's file, the pair of laboratories, and the true class, the answer and the confidence."""
    name = PurePath(os.fsdecode(image)).name if isinstance(image, str | os.PathLike) else f"row {cell.row}"
    pair = title_of_two(cell.train_domain, " →", cell.test_domain, width=_MISTAKE_WIDTH)
    confidence = "" if pd.isna(cell.confidence) else f" {cell.confidence:.2f}"
    answer = title_of_two(cell.label, " →", cell.predicted, width=_MISTAKE_WIDTH - len(confidence))
    return f"{shorten_middle(escaped(name), _MISTAKE_WIDTH)}\n{pair}\n{answer}{confidence}"


def _draw_outlined(ax: "Axes", image: Any, mask: np.ndarray | None) -> None:
    picture = pad_to_square(load_rgb(image))
    if mask is None or not mask.any():
        ax.imshow(picture)
        return
    height, width = mask.shape
    ax.imshow(picture, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    # An empty frame around the mask closes the outline of a cell that touches the border.
    framed = np.pad(mask.astype(float), 1)
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for colour, linewidth in (("white", 1.8), ("black", 0.7)):
        ax.contour(x, y, framed, [0.5], colors=colour, linewidths=linewidth)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
