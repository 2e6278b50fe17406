"""A benchmark's result as one self-contained HTML page."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from ..evaluation import METRICS, BenchmarkResult, findings, summarise_scores
from ..evaluation.checks import class_names
from ..evaluation.few_labels import summarise_curve
from ..evaluation.headlines import best_headlines
from ..exceptions import warn_caller
from ..files import check_writable, make_folder, write_text
from ..plotting.canvas import is_plain, plain, spread_text
from .matrices import (
    MANY,
    confusion_tables,
    draws_confusions,
    draws_transfer,
    recall_matrix,
    shade,
    transfer_matrix,
    transfer_tables,
)
from .mistakes import MAX_DIRECTIONS, MAX_GROUPS, MAX_NAMES, MAX_OPEN, MAX_PICTURES, CellNames, group_mistakes
from .pictures import render_pictures
from .words import GOOD, POOR, WEAK, judge, used_terms

_MAX_LISTED = 20  # duplicates, cells of an advice, and pairs of laboratories whose classes differ
_MAX_KEPT = 20  # rows of a table that stays on one sheet of paper
_MAX_REASONS = 3  # in the warning of pictures that cannot be drawn


def write_report(
    result: BenchmarkResult, path: str | os.PathLike[str], *, title: str = "Blood cells across laboratories",
    settings: Mapping[str, Any] | None = None, figures: str | os.PathLike[str] | None = None,
) -> Path:  # fmt: skip
    """Write a benchmark's verdict, tables, pictures and settings as one HTML file, and return its path.

    The page begins with whether the classifier can be trusted in another laboratory, and what to do. Pictures are
    embedded and nothing is loaded from elsewhere, so the file can be mailed, archived and printed. It is written to a
    temporary file and then moved, so an interrupted run leaves the old report whole.

    Parameters
    ----------
    result : BenchmarkResult
        The result of `run_benchmark`.
    path : path
        The file to write, or an existing folder to write ``report.html`` into. Missing folders are created.
    title : str, default="Blood cells across laboratories"
        The page's title.
    settings : dict or None, default=None
        More settings to list, such as the command line. They replace the result's own of the same name.
    figures : path or None, default=None
        A folder to which the pictures are also written, as PNG and SVG files. It is created if it is missing.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If a picture cannot be drawn, for example because an image can no longer be read. The report then gives the
        reason in the picture's place.

    Notes
    -----
    The report shows transfer and confusions as tables instead of pictures if there are more than 10 laboratories, or if
    no installed font has the characters of a name. Other pictures escape such characters, and the report lists the
    names. The 1,000 most confident mistakes are shown as pictures, and the next 4,000 by name.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> from sam_bloodcell.evaluation import run_benchmark
    >>> from sam_bloodcell.report import write_report
    >>> cells = make_blood_cells(5, classes=["lymphocyte", "monocyte"], random_state=0)
    >>> mean_colour = FunctionTransformer(lambda images: images.mean(axis=(1, 2)))
    >>> result = run_benchmark(cells, mean_colour, None, LogisticRegression(), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(result, folder).name
    'report.html'
    """
    if not isinstance(result, BenchmarkResult):
        kind = type(result).__name__
        raise TypeError(f"Got result of type {kind} but expected a BenchmarkResult. Fix: call run_benchmark.")
    path, engine, result = prepare_report(path, figures), _engine(), _with_printable_names(result)
    settings = {**result.settings, **(settings or {})}
    pictures = render_pictures(result, None if figures is None else Path(figures))
    names = CellNames(result)
    found = {**_findings(result, names), **_tables(result, names)}
    body = engine.get_template("body.html.j2").render(**found, title=title, settings=settings, figures=pictures)
    page = engine.get_template("report.html.j2").render(title=title, body=body, glossary=used_terms(body))
    write_text(path, printable(page))
    failures = [item["failure"] for section in pictures.values() for item in section if "failure" in item]
    _warn_of(failures + found["unreadable"])
    return path


def prepare_report(path: str | os.PathLike[str], figures: str | os.PathLike[str] | None = None) -> Path:
    """Return the file that `write_report` will write, and raise its errors now instead of after hours of work.

    Missing folders are created.
    """
    path = Path(path, "report.html") if Path(path).is_dir() else Path(path)
    make_folder(path.parent)
    check_writable(path)
    if figures is not None:
        check_writable(make_folder(figures) / "maps.png")
    return path


def printable(text: str) -> str:
    r"""Return text that UTF-8 can encode: the bytes of a file's name that are not UTF-8 become \udcXX."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _with_printable_names(result: BenchmarkResult) -> BenchmarkResult:
    """Return the result with names of classes and laboratories that UTF-8 can encode.

    When pandas groups, it treats all names that UTF-8 cannot encode as the same name.
    """
    cells, domain = result.cells, np.asarray(result.cells.domain)
    if all(str(name) == printable(str(name)) for name in [*cells.target_names, *np.unique(domain)]):
        return result
    columns = ["train_domain", "test_domain", "label", "predicted"]
    tables = [
        table.assign(**{name: [printable(str(value)) for value in table[name]] for name in columns if name in table})
        for table in (result.predictions, result.scores, result.label_curve)
    ]
    named = {"target_names": list(map(printable, cells.target_names)), "domain": np.array(list(map(printable, domain)))}
    predictions, scores, curve = tables
    return replace(result, predictions=predictions, scores=scores, label_curve=curve, cells=Bunch(**cells | named))


def _engine() -> Any:
    import jinja2

    def load(name: str) -> str:
        return files(__package__).joinpath(name).read_text("utf-8")

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(load), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _warn_of(failures: list[str]) -> None:
    if failures:
        more = [f"and {len(failures) - _MAX_REASONS} more"] if len(failures) > _MAX_REASONS else []
        reasons = "; ".join([*failures[:_MAX_REASONS], *more])
        found = f"The report lacks {len(failures)} picture(s) that could not be drawn: {reasons}."
        warn_caller(f"{found} No score depends on a picture. Fix: remove the cause, and write the report again.")


def _findings(result: BenchmarkResult, names: CellNames) -> dict[str, Any]:
    """Return the findings under their names in the template."""
    best = findings.recommended(result)
    verdict = None if best is None else findings.verdict(result)
    mistakes = pd.DataFrame() if best is None else findings.mistakes(result)
    groups, unreadable = ([], []) if mistakes.empty else group_mistakes(result, mistakes, names)
    level, answer = judge(verdict)
    return {
        "verdict": verdict,
        "level": level,
        "answer": answer,
        "limits": {"good": GOOD, "poor": POOR, "weak": WEAK},
        "n_candidates": len(findings.candidates(result)),
        "advice": [_with_cells(advice, names) for advice in findings.advice(result)],
        "recall": None if best is None else recall_matrix(findings.recall_by_direction(result), _counts(result)),
        "transfer": None if best is None else transfer_matrix(result, *best),
        "mistakes": groups,
        "n_mistakes": len(mistakes),
        "max_pictures": MAX_PICTURES,
        "max_names": MAX_NAMES,
        "max_open": MAX_OPEN,
        "max_directions": MAX_DIRECTIONS,
        "max_groups": MAX_GROUPS,
        "unreadable": unreadable,
        "suspected": [] if best is None else _suspected(result, names),
        "clashing": findings.clashing_labels(result).to_dict("records"),
    }


def _with_cells(advice: Any, names: CellNames) -> dict[str, Any]:
    rows = [int(row) for row in advice.rows]
    return {"text": advice.text, "n": len(rows), "cells": [names(row) for row in rows[:_MAX_LISTED]]}


def _suspected(result: BenchmarkResult, names: CellNames) -> list[dict[Hashable, Any]]:
    table = findings.suspected_labels(result).head(_MAX_LISTED)
    return [{**cell, "names": names(int(cell["row"]))} for cell in table.to_dict("records")]


def _tables(result: BenchmarkResult, names: CellNames) -> dict[str, Any]:
    """Return the tables of the page under their names in the template."""
    scores, cells, headlines = result.scores, result.cells, result.headlines
    pairs = scores[scores["train_domain"] != scores["test_domain"]].drop_duplicates(["train_domain", "test_domain"])
    summary = summarise_scores(scores).groupby("features", sort=False)
    counts, n_folds = _counts(result), scores["fold"].nunique()
    return {
        "headlines": best_headlines(headlines).to_dict("records"),
        "all_headlines": headlines.to_dict("records"),
        "across": len(pairs) > 0,
        "class_recall": _recall_by_class(result),
        "n_folds": n_folds,
        "transductive": "autoencoder" in result.features,
        "counts": counts,
        "few": bool(((counts > 0) & (counts < n_folds)).any(axis=None)),
        "left_out": pairs[pairs["n_left_out"] > 0].to_dict("records"),
        "transfer_tables": [] if draws_transfer(result) else list(transfer_tables(result)),
        "confusion_tables": [] if draws_confusions(result) else list(confusion_tables(result)),
        "score_tables": [(name, table.to_dict("records")) for name, table in summary],
        "grouped": cells.get("group") is not None,
        "encoders": result.encoders.to_dict("records"),
        "label_curve": summarise_curve(result.label_curve).to_dict("records"),
        "unlabelled": [name for name in np.unique(np.asarray(cells.domain)).tolist() if not _has_curve(result, name)],
        "metrics": METRICS,
        "spread": spread_text,
        "shade": shade,
        "many": MANY,
        "max_kept": _MAX_KEPT,
        "shift": _shift_rows(result.shift_by_class),
        "duplicates": [
            [(names(row), np.asarray(cells.domain)[row]) for row in pair]
            for pair in result.duplicates[["a", "b"]].head(_MAX_LISTED).to_numpy().tolist()
        ],
        "n_duplicates": len(result.duplicates),
        "max_listed": _MAX_LISTED,
        "n_cells": len(cells.target),
        "domains": np.unique(np.asarray(cells.domain)).tolist(),
        "data": names.folder or next(iter(str(cells.get("DESCR") or "").strip().splitlines()), ""),
        "versions": ("python", "sam-bloodcell", "torch", "scikit-learn", "numpy"),
        "written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "escaped": _escaped_names(result),
    }


def _has_curve(result: BenchmarkResult, domain: Any) -> bool:
    """Tell whether a laboratory has enough cells to measure what a few labels bring."""
    curve = result.label_curve
    return len(curve) > 0 and bool((curve.loc[curve["n_labels"] > 0, "test_domain"] == domain).any())


def _counts(result: BenchmarkResult) -> pd.DataFrame:
    """Return the number of cells of each class (rows) in each laboratory (columns)."""
    cells = result.cells
    return pd.crosstab(class_names(cells.target, cells.target_names, "target"), np.asarray(cells.domain))


def _recall_by_class(result: BenchmarkResult) -> list[dict[str, Any]]:
    """Return each class with its recall by feature set; NaN where no pair of laboratories scores it."""
    table = result.recall.pivot_table("recall", "label", "features", dropna=False)
    return [{"label": name, "recall": row.to_dict()} for name, row in table.iterrows()]


def _shift_rows(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the distances between laboratories by feature set and class; empty if nothing could be compared."""
    if table.empty:
        return []
    return table.rename_axis(["features", "cells"]).reset_index().to_dict("records")


def _escaped_names(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return the names that pictures show in another form, as pairs of the form shown and the name."""
    names = [*result.cells.target_names, *np.unique(np.asarray(result.cells.domain)).tolist()]
    return [(plain(name).strip().replace(r"\$", "$"), str(name)) for name in names if not is_plain(name)]
