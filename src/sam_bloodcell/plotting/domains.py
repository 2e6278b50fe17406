"""Figures of the differences between laboratories: masks, stain and embeddings."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils import check_array

from ..cells import label_column
from ..evaluation.checks import cell_columns, class_names
from ..extras import require
from ..segmentation.cell import GREY
from .canvas import COLOURS, MARKERS, font_family, new_figure, new_grid, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND_ROWS = 28  # names in a column of the legend next to a map


def plot_mask_quality(quality: np.ndarray, domain: Any) -> "Figure":
    """Draw the quality of the masks by laboratory: area, confidence, and contact with the border.

    Boxes extend from the lower to the upper quartile, whiskers from the 5th to the 95th percentile.

    Parameters
    ----------
    quality : structured array of shape (n,)
        Quality of the masks, from `CellEmbeddings.quality`.
    domain : array-like of shape (n,)
        Laboratory of each cell.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    (domains,) = cell_columns(len(quality), domain=domain)
    titles = ("area (share of the image)", "confidence (mean probability)", "border inside the mask (share)")
    measured = (quality["area"], quality["confidence"], quality["border"])
    figure = _draw_boxes(dict(zip(titles, measured, strict=True)), domains)
    figure.suptitle(f"{quality['fallback'].sum()} of {len(quality)} images without a plausible cell", fontsize=10)
    return figure


def plot_stain(crops: Any, domain: Any) -> "Figure":
    """Draw the mean red, green and blue of the cells (0 to 255) by laboratory, in boxes as in `plot_mask_quality`.

    Parameters
    ----------
    crops : uint8 array of shape (n, S, S, 3)
        Crops of the cells, from `CellEmbeddings.crops`. Grey (128) is outside the cell.
    domain : array-like of shape (n,)
        Laboratory of each cell.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    (domains,) = cell_columns(len(crops), domain=domain)
    means = np.full((len(crops), 3), np.nan)
    for row in range(len(crops)):
        crop = np.asarray(crops[row])
        inside = (crop != GREY).any(-1)
        if inside.any():
            means[row] = crop[inside].mean(0)
    return _draw_boxes(dict(zip(("red", "green", "blue"), means.T, strict=True)), domains)


def plot_embedding_map(
    features: Mapping[str, Any], domain: Any, y: Any, names: Sequence[str] | None = None, *, method: str = "pca"
) -> "Figure":
    """Draw each feature set in two dimensions, by class and by laboratory.

    Features transfer well if laboratories overlap and classes are separate.

    Parameters
    ----------
    features : dict of str to array of shape (n_samples, n_features)
        Feature sets by name. The figure has a row of two maps for each. NaN raises ValueError.
    domain, y : array-like of shape (n_samples,)
        Laboratory and class of each cell.
    names : sequence of str or None, default=None
        Class names, if `y` contains indices into them.
    method : {"pca", "umap"}, default="pca"
        Projection: the first two principal components, or UMAP (``pip install "sam-bloodcell[umap]"``), in which
        distances between groups have little meaning.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.plotting import plot_embedding_map
    >>> figure = plot_embedding_map({"pixels": np.eye(4)}, list("aabb"), ["monocyte", "blast", "monocyte", "blast"])
    >>> [ax.get_title() for ax in figure.axes]
    ['pixels, by class', 'pixels, by laboratory']
    """
    if not isinstance(features, Mapping):
        kind = type(features).__name__
        raise TypeError(f"Got features of type {kind} but expected a dict. Fix: pass {{'name': features}}.")
    classes = label_column(y, "y") if names is None else class_names(label_column(y, "y"), names, "y")
    groupings = {"class": classes, "laboratory": label_column(domain, "domain")}
    lengths = [len(column) for column in (*features.values(), *groupings.values())]
    if not features or len(set(lengths)) != 1:
        found = f"lengths {lengths} of features, classes and domains"
        raise ValueError(f"Got {found} but expected the same. Fix: pass the same cells.")
    columns = sum(_legend_columns(labels) for labels in groupings.values())
    figure = new_figure((8 + columns, 4.2 * len(features)))
    axes = figure.subplots(len(features), 2, squeeze=False)
    for row, (name, matrix) in zip(axes, features.items(), strict=True):
        points, x_label, y_label = _in_two_dimensions(check_array(matrix, dtype=float, input_name=name), method)
        for ax, (by, labels) in zip(row, groupings.items(), strict=True):
            _draw_points(ax, points, labels)
            ax.set_title(f"{plain(name)}, by {by}", fontsize=10, fontfamily=font_family(name))
            ax.set_xlabel(x_label, fontsize=8)
            ax.set_ylabel(y_label, fontsize=8)
    return figure


def _in_two_dimensions(matrix: np.ndarray, method: str) -> tuple[np.ndarray, str, str]:
    """Return points of shape (n, 2) and the labels of the two axes."""
    if method == "pca":
        if min(matrix.shape) < 2 or not np.ptp(matrix, axis=0).any():  # a single feature or cell, or no difference
            points = np.column_stack([matrix[:, 0], np.zeros(len(matrix))])
            return points, "component 1 (the only one)", "none"
        pca = PCA(2, svd_solver="full").fit(matrix)
        first, second = pca.explained_variance_ratio_
        return pca.transform(matrix), f"component 1 ({first:.0%} of variance)", f"component 2 ({second:.0%})"
    if method != "umap":
        raise ValueError(f"Got method={method!r} but expected pca or umap. Fix: pass one of these.")
    umap = require("umap", extra="umap", purpose="This map needs umap-learn")
    return umap.UMAP(random_state=0, n_jobs=1).fit_transform(matrix), "UMAP 1", "UMAP 2"


def _legend_columns(labels: np.ndarray) -> int:
    """Return the number of legend columns next to a map; there is no legend if there are more names than marks."""
    n = len(np.unique(labels))
    return 0 if n > len(COLOURS) * len(MARKERS) else -(-n // _LEGEND_ROWS)


def _draw_points(ax: "Axes", points: np.ndarray, labels: np.ndarray) -> None:
    groups = np.unique(labels).tolist()
    size = float(np.clip(6000 / len(points), 5, 30))
    for group, colour, marker in zip(groups, cycle(COLOURS), cycle(MARKERS), strict=False):
        x, y = points[labels == group].T
        ax.scatter(x, y, s=size, alpha=0.65, linewidths=0, color=colour, marker=marker, label=plain(group))
    ax.tick_params(labelsize=7)
    if not (columns := _legend_columns(labels)):
        return
    legend = ax.legend(
        loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0.3, ncols=columns, columnspacing=0.6,
        prop={"size": 7, "family": font_family(*groups)},
    )  # fmt: skip
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[25])  # type: ignore[union-attr]


def _draw_boxes(panels: Mapping[str, np.ndarray], domains: np.ndarray) -> "Figure":
    names = np.unique(domains).tolist()
    figure, axes = new_grid(len(panels), columns=3, width=2.6, height=0.9 + 0.32 * len(names))
    for i, (ax, (title, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        groups = [values[(domains == name) & ~np.isnan(values)] for name in names]
        ax.boxplot(
            groups, orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True,
            boxprops={"facecolor": COLOURS[5], "alpha": 0.6}, medianprops={"color": "black"},
        )  # fmt: skip
        ticks = ["" if i else plain(name) for name in names]
        ax.set_yticks(range(1, len(names) + 1), ticks, fontfamily=font_family(*names))
        ax.invert_yaxis()
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=8)
    return figure
