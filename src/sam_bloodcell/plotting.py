"""Results as pictures: transfer matrices, cells, loss curves and feature maps, as matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.utils import check_array

from .evaluation import confusion_counts, summarise_scores
from .evaluation._checks import check_arguments, check_lengths, check_table, label_column
from .evaluation._scores import check_predictions
from .images import as_image_list, load_rgb, pad_to_square

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; yellow last, it is weak on white paper.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#F0E442")
# 13 markers and 8 colours share no factor: 104 pairs, and 13 classes told apart in print by marker alone.
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*", "h", "p", "8")


def plot_transfer_matrix(
    scores: pd.DataFrame,
    *,
    metric: str = "balanced_accuracy",
    classifier: str | Sequence[str] | None = None,
) -> Figure:
    """Draw one heat map of training domain by test domain for each classifier, mean and spread over folds.

    Parameters
    ----------
    scores : pandas.DataFrame
        From `cross_domain_scores`, or a benchmark's (a map for each of its ``features`` too).
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        What to show, always on the scale from 0 to 1.
    classifier : str, sequence of str or None, default=None
        Which to draw; None draws all.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``figure.savefig(path)``.

    Raises
    ------
    ValueError
        If `metric` or `classifier` is not in the scores.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.plotting import plot_transfer_matrix
    >>> scores = pd.DataFrame({"classifier": "RF", "train_domain": ["a", "a"], "test_domain": ["a", "b"]})
    >>> scores = scores.assign(accuracy=[0.9, 0.6], balanced_accuracy=[0.9, 0.5], macro_f1=[0.9, 0.5])
    >>> plot_transfer_matrix(scores).axes[0].get_title()
    'RF'
    """
    check_arguments("plot_transfer_matrix", metric=metric)
    summary = summarise_scores(_of_classifiers(scores, classifier))
    labs = sorted({*summary["train_domain"], *summary["test_domain"]}, key=str)
    keys = [key for key in ("features", "classifier") if key in summary and len(summary[key].unique()) > 1]
    panels = list(summary.groupby(keys or ["classifier"], sort=False))
    side = 1.1 + 0.72 * len(labs)
    figure, axes = _grid(len(panels), columns=4, width=side, height=side + 0.35)
    for i, (ax, (names, table)) in enumerate(zip(axes, panels, strict=True)):
        _draw_matrix(ax, table, metric, labs)
        ax.set_title(_plain(" · ".join(map(str, reversed(names)))), fontsize=10)
        if i % 4:
            ax.set_yticklabels([])
        else:
            ax.set_ylabel("trained on", fontsize=9)
        ax.set_xlabel("tested on", fontsize=9)
    figure.suptitle(metric.replace("_", " "), fontsize=11)
    return figure


def plot_cells(
    images: Sequence[Any] | np.ndarray,
    masks: Sequence[Any] | np.ndarray | None = None,
    crops: Sequence[Any] | np.ndarray | None = None,
    reconstructions: Sequence[Any] | np.ndarray | None = None,
    *,
    titles: Sequence[str] | None = None,
    title_size: float = 7,
    columns: int = 3,
) -> Figure:
    """Draw cells side by side: the picture with the mask's outline, the crop, the reconstruction.

    Parameters
    ----------
    images : sequence of paths or (H, W, 3) arrays, length n
        The pictures. They are padded to a square as the embedder does, so that the mask fits.
    masks : array of shape (n, S, S), bool, or None
        The cell in the padded picture, at any resolution S.
    crops, reconstructions : array of shape (n, S, S, 3), uint8, or None
        Shown where given.
    titles : sequence of str, length n, or None
        Shown above each picture.
    title_size : float, default=7
        In points.
    columns : int, default=3
        Cells per row.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the lengths differ, there is no image, or a number is out of range.
    ImportError
        If matplotlib is not installed.

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
    n = len(images)
    parts = {
        "images": images,
        "masks": masks,
        "crops": crops,
        "reconstructions": reconstructions,
        "titles": titles,
    }
    lengths = {name: len(part) for name, part in parts.items() if part is not None}
    if n == 0 or set(lengths.values()) != {n}:
        raise ValueError(f"Got {lengths} but expected the same number of each, at least 1.")
    strips = [strip for strip in (crops, reconstructions) if strip is not None]
    per_cell = 1 + len(strips)
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    # In inches: square panels of 1, close within a cell, apart between cells, a line above for the title.
    wide, tall = per_cell * 1.03 + 0.2, 1.08 if titles is None else 1.25
    width, height = columns * wide, rows * tall
    figure = _figure((width, height), layout=None)
    for i in range(n):
        row, column = divmod(i, columns)
        for j in range(per_cell):
            left, bottom = column * wide + j * 1.03 + 0.1, height - (row + 1) * tall + 0.04
            ax = figure.add_axes((left / width, bottom / height, 1 / width, 1 / height))
            ax.set_axis_off()
            if j:
                ax.imshow(np.asarray(strips[j - 1][i]))
                continue
            _draw_outlined(ax, images[i], None if masks is None else np.asarray(masks[i]))
            if titles is not None:
                ax.set_title(_plain(titles[i]), fontsize=title_size, loc="left", pad=3)
    return figure


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw the loss and each of its terms over the epochs, each on its own scale.

    Parameters
    ----------
    history : pandas.DataFrame
        An estimator's ``history_``: a column ``epoch`` (else the row number stands for it) and a numeric
        column per loss term.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no loss column or no row.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.plotting import plot_history
    >>> figure = plot_history(pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.4], "alignment": [0.2, 0.1]}))
    >>> [ax.get_title() for ax in figure.axes]
    ['loss', 'alignment']
    """
    check_table(history, "history", (), "an estimator's history_")
    epochs = history["epoch"] if "epoch" in history else pd.Series(range(1, len(history) + 1))
    terms = history.drop(columns="epoch", errors="ignore").select_dtypes("number")
    if terms.empty:
        raise ValueError(f"Got columns {list(history)} and {len(history)} rows but expected losses by epoch.")
    figure, axes = _grid(terms.shape[1], columns=4, width=2.7, height=2.1, sharex=True)
    from matplotlib.ticker import MaxNLocator

    for i, (ax, name) in enumerate(zip(axes, terms, strict=True)):
        ax.plot(
            epochs.to_numpy(), terms[name].to_numpy(), color=_COLOURS[i % len(_COLOURS)],
            marker="o" if len(terms) < 30 else "", markersize=3,
        )  # fmt: skip
        ax.set_title(_plain(str(name).replace("_", " ")), fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch", fontsize=8)
        ax.grid(alpha=0.3)
        ax.tick_params(labelbottom=True, labelsize=8)
    return figure


def plot_confusions(predictions: pd.DataFrame) -> Figure:
    """Draw a confusion matrix for every pair of training and test laboratory, as shares of each true class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Of one classifier, from `cross_domain_predictions` or `leave_one_domain_out_predictions`.

    Returns
    -------
    matplotlib.figure.Figure
        A row per training laboratory.

    Raises
    ------
    ValueError
        If there are several classifiers or feature sets.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.plotting import plot_confusions
    >>> found = pd.DataFrame({"classifier": "LR", "train_domain": "a", "test_domain": ["a", "b"],
    ...                       "label": ["x", "y"], "predicted": ["x", "x"]})
    >>> [ax.get_title() for ax in plot_confusions(found).axes]
    ['a → a', 'a → b']
    """
    check_predictions(predictions, "classifier", "train_domain", "test_domain", "label", "predicted")
    series = predictions[[key for key in ("features", "classifier") if key in predictions]].drop_duplicates()
    if len(series) != 1:
        raise ValueError(f"Got predictions of {len(series)} classifiers but expected one; select its rows.")
    classes = sorted({*predictions["label"], *predictions["predicted"]}, key=str)
    pairs = list(predictions.groupby(["train_domain", "test_domain"], sort=False))
    columns = predictions["test_domain"].nunique() if len(pairs) > predictions["test_domain"].nunique() else len(pairs)
    side = 1.3 + 0.42 * len(classes)
    figure, axes = _grid(len(pairs), columns=columns, width=side, height=side)
    ticks = [_plain(name) for name in classes]
    for i, (ax, ((train, test), table)) in enumerate(zip(axes, pairs, strict=True)):
        shares = confusion_counts(table).reindex(index=classes, columns=classes).to_numpy(float)
        ax.imshow(shares, vmin=0, vmax=1, cmap="cividis")
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share < 0.55 else "black"
                ax.text(column, row, f"{share:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=colour)
        ax.set_title(_plain(f"{train} → {test}"), fontsize=9)
        ax.set_xticks(range(len(classes)), ticks, rotation=45, ha="right", fontsize=7)
        ax.set_yticks(range(len(classes)), ticks if i % columns == 0 else [""] * len(classes), fontsize=7)
        ax.spines[:].set_visible(False)
    figure.supylabel("true class", fontsize=9)
    figure.supxlabel("answer", fontsize=9)
    return figure


def plot_mistakes(predictions: pd.DataFrame, images: Sequence[Any] | np.ndarray, *, n: int = 24) -> Figure | None:
    """Draw the most confident mistakes across laboratories as a contact sheet.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `cross_domain_predictions`.
    images : sequence of paths or arrays, length n_samples
        What X was embedded from; ``row`` points into it.
    n : int, default=24
        Cells to show.

    Returns
    -------
    matplotlib.figure.Figure or None
        None where there is no mistake.

    Raises
    ------
    ValueError
        If there are fewer images than `row` asks for.
    ImportError
        If matplotlib is not installed.
    """
    shown = ("train_domain", "test_domain", "row", "label", "predicted", "confidence", "known")
    check_predictions(predictions, *shown)
    check_arguments("plot_mistakes", n=n)
    across = predictions[(predictions["train_domain"] != predictions["test_domain"]) & predictions["known"]]
    wrong = across[across["label"] != across["predicted"]].sort_values("confidence", ascending=False, kind="stable")
    wrong = wrong.drop_duplicates("row").head(n)
    if wrong.empty:
        return None
    images = as_image_list(images, "images")
    if wrong["row"].max() >= len(images):
        raise ValueError(
            f"Got {len(images)} images but predictions of row {wrong['row'].max()}. Fix: pass the images that X was "
            "embedded from, all of them."
        )
    titles = [f"{cell.label} → {cell.predicted}" for cell in wrong.itertuples()]
    return plot_cells([images[row] for row in wrong["row"]], titles=titles, columns=6, title_size=5.5)


def plot_mask_quality(quality: np.ndarray, domain: Any) -> Figure:
    """Draw how far masks can be trusted, by laboratory: area, confidence, contact with the border.

    Parameters
    ----------
    quality : structured array of shape (n,)
        `CellEmbeddings.quality`.
    domain : array-like of shape (n,)

    Returns
    -------
    matplotlib.figure.Figure
        Boxes from the lower to the upper quartile, whiskers from the 5th to the 95th percentile.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    labs = label_column(domain, "domain")
    check_lengths(len(quality), domain=labs)
    panels = {
        "area (share of the image)": quality["area"],
        "confidence (mean probability)": quality["confidence"],
        "border inside the mask (share)": quality["border"],
    }
    figure = _draw_boxes(panels, labs)
    lost = int(quality["fallback"].sum())
    figure.suptitle(f"{lost} of {len(quality)} images without a plausible cell", fontsize=10)
    return figure


def plot_stain(crops: Any, domain: Any) -> Figure:
    """Draw the colours of the cells by laboratory: mean red, green and blue under the mask, 0 to 255.

    Parameters
    ----------
    crops : uint8 array of shape (n, S, S, 3)
        `CellEmbeddings.crops`; grey (128) is outside the cell.
    domain : array-like of shape (n,)

    Returns
    -------
    matplotlib.figure.Figure
        Boxes from the lower to the upper quartile, whiskers from the 5th to the 95th percentile.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    labs = label_column(domain, "domain")
    check_lengths(len(crops), domain=labs)
    means = np.full((len(crops), 3), np.nan)
    for row in range(len(crops)):
        crop = np.asarray(crops[row])
        inside = (crop != 128).any(-1)
        if inside.any():
            means[row] = crop[inside].mean(0)
    return _draw_boxes(dict(zip(("red", "green", "blue"), means.T, strict=True)), labs)


def plot_embedding_map(
    features: Mapping[str, Any], domain: Any, y: Any, names: Sequence[str] | None = None, *, method: str = "pca"
) -> Figure:
    """Draw each feature set in two dimensions, by class and by laboratory.

    Where the laboratories overlap and the classes part, features transfer.

    Parameters
    ----------
    features : dict of str to array of shape (n_samples, n_features)
        A row of two maps each.
    domain, y : array-like of shape (n_samples,)
        Laboratory and class of each cell.
    names : sequence of str or None, default=None
        Class names, if `y` holds indices into them.
    method : {"pca", "umap"}, default="pca"
        The first two principal components, or UMAP (``pip install "sam-bloodcell[umap]"``), whose distances between
        groups mean little.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no features, lengths differ, a value is missing, or the method is unknown.
    ImportError
        If matplotlib, or umap-learn for "umap", is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.plotting import plot_embedding_map
    >>> names = ["lymphocyte", "monocyte"]
    >>> figure = plot_embedding_map({"pixels": np.eye(4)}, list("aabb"), [0, 1, 0, 1], names)
    >>> [ax.get_title() for ax in figure.axes]
    ['pixels, by class', 'pixels, by laboratory']
    """
    if not isinstance(features, Mapping):
        raise TypeError(
            f"Got features of type {type(features).__name__} but expected a dict. Fix: {{'name': features}}."
        )
    classes = label_column(y, "y")
    if names is not None:
        if classes.dtype.kind not in "iu" or not 0 <= classes.min() <= classes.max() < len(names):
            raise ValueError(f"Got y that does not index the {len(names)} names. Fix: leave names out, or pass all.")
        classes = np.asarray(names)[classes]
    groupings = {"class": classes, "laboratory": label_column(domain, "domain")}
    lengths = [*(len(matrix) for matrix in features.values()), *(len(by) for by in groupings.values())]
    if not len(features) or len(set(lengths)) != 1:
        raise ValueError(f"Got lengths {lengths} of features, classes and domains but expected the same.")
    figure = _figure((10, 4.2 * len(features)))
    axes = figure.subplots(len(features), 2, squeeze=False)
    for row, (name, matrix) in zip(axes, features.items(), strict=True):
        points, axis_labels = _in_two_dimensions(check_array(matrix, dtype=float, input_name=name), method)
        for ax, (by, labels) in zip(row, groupings.items(), strict=True):
            _draw_points(ax, points, labels)
            ax.set_title(_plain(f"{name}, by {by}"), fontsize=10)
            ax.set_xlabel(axis_labels[0], fontsize=8)
            ax.set_ylabel(axis_labels[1], fontsize=8)
    return figure


def _in_two_dimensions(matrix: np.ndarray, method: str) -> tuple[np.ndarray, tuple[str, str]]:
    if method == "pca":
        pca = PCA(2, svd_solver="full").fit(matrix)
        first, second = pca.explained_variance_ratio_
        return pca.transform(matrix), (f"component 1 ({first:.0%} of variance)", f"component 2 ({second:.0%})")
    if method != "umap":
        raise ValueError(f"Got method={method!r} but expected pca or umap.")
    try:
        from umap import UMAP
    except ImportError as exc:
        raise ImportError('This map needs umap-learn. Fix: pip install "sam-bloodcell[umap]"') from exc
    return UMAP(random_state=0, n_jobs=1).fit_transform(matrix), ("UMAP 1", "UMAP 2")


def _figure(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Make an empty figure that belongs to no pyplot session, so nothing leaks and no display is needed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ImportError('Plots need matplotlib. Fix: pip install "sam-bloodcell[report]"') from exc
    return Figure(figsize=size, layout=layout)


def _grid(n: int, columns: int, width: float, height: float, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    figure = _figure((width * columns + 0.9, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel()
    for ax in axes[n:]:
        ax.remove()
    return figure, list(axes[:n])


def _of_classifiers(scores: pd.DataFrame, classifier: str | Sequence[str] | None) -> pd.DataFrame:
    if classifier is None:
        return scores
    wanted = [classifier] if isinstance(classifier, str) else list(classifier)
    present = scores["classifier"].unique().tolist()
    unknown = [name for name in wanted if name not in present]
    if unknown or not wanted:
        raise ValueError(f"Got classifier={classifier!r} but expected of {', '.join(map(repr, present))}.")
    return scores[scores["classifier"].isin(wanted)]


def _draw_matrix(ax: Axes, table: pd.DataFrame, metric: str, labs: Sequence[Any]) -> None:
    order = pd.Index(labs)
    mean, std = (
        table.pivot_table(f"{metric}_{name}", "train_domain", "test_domain", dropna=False)
        .reindex(index=order, columns=order)
        .to_numpy()
        for name in ("mean", "std")
    )
    ax.imshow(mean, vmin=0, vmax=1, cmap="cividis")
    for (i, j), value in np.ndenumerate(mean):
        if math.isnan(value):
            text, colour = "none", "black"
        else:
            text = f"{value:.2f}" + ("" if math.isnan(std[i, j]) else f"\n± {std[i, j]:.2f}")
            colour = "white" if value < 0.55 else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color=colour, linespacing=1.1)
    ticks = [_plain(lab) for lab in labs]
    ax.set_xticks(range(len(labs)), ticks, rotation=30, ha="right", fontsize=8)
    ax.set_yticks(range(len(labs)), ticks, fontsize=8)
    ax.spines[:].set_visible(False)


def _draw_outlined(ax: Axes, image: Any, mask: np.ndarray | None) -> None:
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


def _draw_points(ax: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    groups = np.unique(labels).tolist()
    size = float(np.clip(6000 / len(points), 5, 30))
    handles = [
        ax.scatter(
            points[labels == group, 0], points[labels == group, 1], s=size, alpha=0.65, linewidths=0,
            color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
        )
        for i, group in enumerate(groups)
    ]  # fmt: skip
    legend = ax.legend(
        handles, [_plain(group) for group in groups], fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5),
        frameon=False, handletextpad=0.3,
    )  # fmt: skip
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[25])  # type: ignore[union-attr]
    ax.tick_params(labelsize=7)


def _draw_boxes(panels: Mapping[str, np.ndarray], labs: np.ndarray) -> Figure:
    names = np.unique(labs).tolist()
    figure, axes = _grid(len(panels), columns=3, width=2.6, height=0.9 + 0.32 * len(names))
    for i, (ax, (title, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        groups = [values[(labs == name) & ~np.isnan(values)] for name in names]
        drawn = ax.boxplot(groups, orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True)
        for box in drawn["boxes"]:
            box.set(facecolor=_COLOURS[5], alpha=0.6)
        for middle in drawn["medians"]:
            middle.set(color="black")
        ax.set_yticks(range(1, len(names) + 1), [_plain(name) for name in names] if i == 0 else [""] * len(names))
        ax.invert_yaxis()
        ax.set_title(title, fontsize=9)
        ax.tick_params(labelsize=8)
    return figure


def _plain(text: Any) -> str:
    """Text as it is: no mathematics between dollar signs, no label hidden for its leading underscore."""
    shown = str(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
