"""Figures of scores, confusions and losses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..evaluation import confusion_shares, summarise_scores
from ..evaluation.checks import check_arguments, check_table
from ..evaluation.scores import check_predictions
from .canvas import COLOURS, draw_heat_map, font_family, new_grid, plain, spread_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_transfer_matrix(
    scores: pd.DataFrame, *, metric: str = "balanced_accuracy", classifier: str | Sequence[str] | None = None
) -> "Figure":
    """Draw one heat map of training domain by test domain for each classifier, mean and spread over folds.

    Parameters
    ----------
    scores : pandas.DataFrame
        The result of `cross_domain_scores`, or the scores of a benchmark, whose ``features`` each have their own maps.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        Score to draw, on a scale from 0 to 1.
    classifier : str, sequence of str or None, default=None
        Classifiers to draw, by their names in the scores. None draws all.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

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
    if classifier is not None:
        wanted = [classifier] if isinstance(classifier, str) else list(classifier)
        present = scores["classifier"].unique().tolist()
        if not wanted or any(name not in present for name in wanted):
            raise ValueError(f"Got classifier={classifier!r} but expected any of {present}. Fix: pass some of these.")
        scores = scores[scores["classifier"].isin(wanted)]
    summary = summarise_scores(scores)
    domains = sorted({*summary["train_domain"], *summary["test_domain"]}, key=str)
    keys = [key for key in ("features", "classifier") if key in summary and len(summary[key].unique()) > 1]
    panels = list(summary.groupby(keys or ["classifier"], sort=False))
    pairs = pd.MultiIndex.from_product([domains, domains])
    side = 1.1 + 0.72 * len(domains)
    figure, axes = new_grid(len(panels), columns=4, width=side, height=side + 0.35)
    for i, (ax, (names, table)) in enumerate(zip(axes, panels, strict=True)):
        drawn = table.set_index(["train_domain", "test_domain"])[[f"{metric}_mean", f"{metric}_std"]].reindex(pairs)
        mean, std = drawn.to_numpy().T.reshape(2, len(domains), len(domains))
        texts = np.vectorize(spread_text, otypes=[object])(mean, std, 2, "\n")
        draw_heat_map(ax, mean, texts, domains, name_rows=i % 4 == 0, fontsize=8)
        ax.set_title(" · ".join(map(plain, reversed(names))), fontsize=10, fontfamily=font_family(*names))
        ax.set_ylabel("" if i % 4 else "trained on", fontsize=9)
        ax.set_xlabel("tested on", fontsize=9)
    figure.suptitle(metric.replace("_", " "), fontsize=11)
    return figure


def plot_history(history: pd.DataFrame) -> "Figure":
    """Draw the loss and its terms over the epochs, each on its own scale.

    Parameters
    ----------
    history : pandas.DataFrame
        An estimator's ``history_``: a numeric column per loss term, and ``epoch`` (default: the row number).

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell.plotting import plot_history
    >>> figure = plot_history(pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.4], "alignment": [0.2, 0.1]}))
    >>> [ax.get_title() for ax in figure.axes]
    ['loss', 'alignment']
    """
    check_table(history, "history", (), "an estimator's history_")
    epochs = history.get("epoch", np.arange(1, len(history) + 1))
    terms = history.drop(columns="epoch", errors="ignore").select_dtypes("number")
    if terms.empty:
        raise ValueError(f"Got columns {list(history)} but expected losses by epoch. Fix: pass history_.")
    figure, axes = new_grid(terms.shape[1], columns=4, width=2.7, height=2.1, sharex=True)
    for i, (ax, name) in enumerate(zip(axes, terms, strict=True)):
        ax.plot(epochs, terms[name], "o-" if len(terms) < 30 else "-", color=COLOURS[i % len(COLOURS)], markersize=3)
        ax.set_title(plain(str(name).replace("_", " ")), fontsize=10, fontfamily=font_family(name))
        ax.locator_params("x", integer=True)
        ax.set_xlabel("epoch", fontsize=8)
        ax.grid(alpha=0.3)
        ax.tick_params(labelbottom=True, labelsize=8)
    return figure


def plot_confusions(predictions: pd.DataFrame) -> "Figure":
    """Draw a confusion matrix for each pair of laboratories, with a row of matrices for each training laboratory.

    The numbers are shares of each true class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Predictions of one classifier and feature set, from `cross_domain_predictions` or
        `leave_one_domain_out_predictions`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

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
        raise ValueError(f"Got predictions of {len(series)} classifiers but expected one. Fix: select its rows.")
    classes = sorted({*predictions["label"], *predictions["predicted"]}, key=str)
    pairs = list(predictions.groupby(["train_domain", "test_domain"], sort=False))
    columns = predictions["test_domain"].nunique()
    side = 1.3 + 0.42 * len(classes)
    figure, axes = new_grid(len(pairs), columns, width=side, height=side)
    for i, (ax, ((train, test), table)) in enumerate(zip(axes, pairs, strict=True)):
        shares = confusion_shares(table).reindex(index=classes, columns=classes).to_numpy(float)
        texts = np.array([[f"{share:.2f}".lstrip("0") if share >= 0.005 else "" for share in row] for row in shares])
        draw_heat_map(ax, shares, texts, classes, name_rows=i % columns == 0, fontsize=7)
        ax.set_title(f"{plain(train)} → {plain(test)}", fontsize=9, fontfamily=font_family(train, test))
    figure.supylabel("true class", fontsize=9)
    figure.supxlabel("answer", fontsize=9)
    return figure
