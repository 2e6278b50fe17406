"""Figures of scores, confusions and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..evaluation import confusion_counts, summarise_scores
from ..evaluation.checks import check_arguments, check_table
from ..evaluation.scores import check_predictions
from .canvas import COLOURS, draw_heat_map, new_grid, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_transfer_matrix(
    scores: pd.DataFrame, *, metric: str = "balanced_accuracy", classifier: str | Sequence[str] | None = None
) -> Figure:
    """Draw one heat map of training domain by test domain for each classifier, mean and spread over folds.

    Parameters
    ----------
    scores : pandas.DataFrame
        From `cross_domain_scores`, or a benchmark's (with a map for each of its ``features`` too).
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, default="balanced_accuracy"
        What to draw, on a scale from 0 to 1.
    classifier : str, sequence of str or None, default=None
        The classifiers to draw; None draws all.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``figure.savefig(path)``.

    Raises
    ------
    ValueError
        If `metric` or `classifier` is not in the scores.

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
    domains = sorted({*summary["train_domain"], *summary["test_domain"]}, key=str)
    keys = [key for key in ("features", "classifier") if key in summary and len(summary[key].unique()) > 1]
    panels = list(summary.groupby(keys or ["classifier"], sort=False))
    side = 1.1 + 0.72 * len(domains)
    figure, axes = new_grid(len(panels), columns=4, width=side, height=side + 0.35)
    for i, (ax, (names, table)) in enumerate(zip(axes, panels, strict=True)):
        _draw_matrix(ax, table, metric, domains)
        ax.set_title(plain(" · ".join(map(str, reversed(names)))), fontsize=10)
        if i % 4:
            ax.set_yticklabels([])
        else:
            ax.set_ylabel("trained on", fontsize=9)
        ax.set_xlabel("tested on", fontsize=9)
    figure.suptitle(metric.replace("_", " "), fontsize=11)
    return figure


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw the loss and its terms over the epochs, each on its own scale.

    Parameters
    ----------
    history : pandas.DataFrame
        An estimator's ``history_``: a column ``epoch`` (by default the row number) and a numeric column per loss
        term.

    Raises
    ------
    ValueError
        If there is no loss column or no row.

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
        raise ValueError(
            f"Got columns {list(history)} and {len(history)} rows but expected losses by epoch. Fix: pass history_."
        )
    figure, axes = new_grid(terms.shape[1], columns=4, width=2.7, height=2.1, sharex=True)
    for i, (ax, name) in enumerate(zip(axes, terms, strict=True)):
        ax.plot(
            epochs.to_numpy(), terms[name].to_numpy(), color=COLOURS[i % len(COLOURS)],
            marker="o" if len(terms) < 30 else "", markersize=3,
        )  # fmt: skip
        ax.set_title(plain(str(name).replace("_", " ")), fontsize=10)
        ax.locator_params("x", integer=True)
        ax.set_xlabel("epoch", fontsize=8)
        ax.grid(alpha=0.3)
        ax.tick_params(labelbottom=True, labelsize=8)
    return figure


def plot_confusions(predictions: pd.DataFrame) -> Figure:
    """Draw a confusion matrix for each pair of training and test laboratory, as shares of each true class.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Of one classifier, from `cross_domain_predictions` or `leave_one_domain_out_predictions`.

    Returns
    -------
    matplotlib.figure.Figure
        A row of matrices per training laboratory.

    Raises
    ------
    ValueError
        If there are several classifiers or feature sets.

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
    columns = min(predictions["test_domain"].nunique(), len(pairs))
    side = 1.3 + 0.42 * len(classes)
    figure, axes = new_grid(len(pairs), columns=columns, width=side, height=side)
    for i, (ax, ((train, test), table)) in enumerate(zip(axes, pairs, strict=True)):
        shares = confusion_counts(table).reindex(index=classes, columns=classes).to_numpy(float)
        texts = np.array([[f"{share:.2f}".lstrip("0") if share >= 0.005 else "" for share in row] for row in shares])
        draw_heat_map(ax, shares, texts, classes, fontsize=7)
        ax.set_title(plain(f"{train} → {test}"), fontsize=9)
        if i % columns:
            ax.set_yticklabels([])
    figure.supylabel("true class", fontsize=9)
    figure.supxlabel("answer", fontsize=9)
    return figure


def _of_classifiers(scores: pd.DataFrame, classifier: str | Sequence[str] | None) -> pd.DataFrame:
    if classifier is None:
        return scores
    wanted = [classifier] if isinstance(classifier, str) else list(classifier)
    present = scores["classifier"].unique().tolist()
    unknown = [name for name in wanted if name not in present]
    if unknown or not wanted:
        names = ", ".join(map(repr, present))
        raise ValueError(f"Got classifier={classifier!r} but expected of {names}. Fix: pass one or more of these.")
    return scores[scores["classifier"].isin(wanted)]


def _draw_matrix(ax: Axes, table: pd.DataFrame, metric: str, domains: Sequence[Any]) -> None:
    order = pd.Index(domains)
    mean, std = (
        table.pivot_table(f"{metric}_{name}", "train_domain", "test_domain", dropna=False)
        .reindex(index=order, columns=order)
        .to_numpy()
        for name in ("mean", "std")
    )
    draw_heat_map(ax, mean, np.vectorize(_score_text, otypes=[object])(mean, std), domains, fontsize=8)


def _score_text(mean: float, std: float) -> str:
    if math.isnan(mean):
        return "none"
    return f"{mean:.2f}" + ("" if math.isnan(std) else f"\n± {std:.2f}")
