"""Pictures of cells: with outline, crop and reconstruction, and the most confident mistakes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..evaluation.checks import check_arguments
from ..evaluation.scores import check_predictions
from ..images.collections import as_image_list
from ..images.frames import pad_to_square
from ..images.reading import load_rgb
from .canvas import font_family, new_figure, plain, title_of_two

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_TITLE = 100  # characters


def plot_cells(
    images: Sequence[Any] | np.ndarray, masks: Sequence[Any] | np.ndarray | None = None,
    crops: Sequence[Any] | np.ndarray | None = None, reconstructions: Sequence[Any] | np.ndarray | None = None, *,
    titles: Sequence[str] | None = None, title_size: float = 7, columns: int = 3,
) -> "Figure":  # fmt: skip
    """Draw cells side by side, each as its picture with the mask's outline, its crop and its reconstruction.

    Parameters
    ----------
    images : sequence of paths or (H, W, 3) arrays, length n
        They are padded to squares, as the embedder does, so that the masks fit.
    masks : bool array of shape (n, S, S) or None
        The cell in the padded picture, at any resolution S.
    crops, reconstructions : uint8 array of shape (n, S, S, 3) or None
        Drawn beside the pictures.
    titles : sequence of str, length n, or None
        Drawn above the pictures.
    title_size : float, default=7
        In points.
    columns : int, default=3
        Cells per row.

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
    # In inches: square panels of 1, close within a cell, apart between cells, lines above for the title.
    wide, tall = (1 + len(strips)) * 1.03 + 0.2, 1.08 + 0.17 * lines
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


def plot_mistakes(predictions: pd.DataFrame, images: Sequence[Any] | np.ndarray, *, n: int = 24) -> "Figure | None":
    """Draw the most confident mistakes across laboratories as a contact sheet, or return None where there are none.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions`.
    images : sequence of paths or arrays, length n_samples
        All images that X was embedded from; the column ``row`` holds indices into them.
    n : int, default=24
        Number of cells to draw.
    """
    check_predictions(predictions, "train_domain", "test_domain", "row", "label", "predicted", "confidence", "known")
    check_arguments("plot_mistakes", n=n)
    across = predictions[(predictions["train_domain"] != predictions["test_domain"]) & predictions["known"]]
    wrong = across[across["label"] != across["predicted"]].sort_values("confidence", ascending=False, kind="stable")
    wrong = wrong.drop_duplicates("row").head(n)
    if wrong.empty:
        return None
    images, last = as_image_list(images, "images"), wrong["row"].max()
    if last >= len(images):
        fix = "Fix: pass all images that X was embedded from."
        raise ValueError(f"Got {len(images)} images but expected more than {last}, a predicted row. {fix}")
    titles = [title_of_two(cell.label, " →", cell.predicted, width=26) for cell in wrong.itertuples()]
    return plot_cells([images[row] for row in wrong["row"]], titles=titles, columns=6, title_size=5.5)


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
