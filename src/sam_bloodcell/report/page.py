"""A benchmark's result as one self-contained HTML page."""

import os
from collections.abc import Hashable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import METRICS, BenchmarkResult, summarise_scores
from ..evaluation.checks import class_names, warn_caller
from ..evaluation.headlines import best_headlines
from ..files import check_writable, make_folder, write_text
from ..plotting.canvas import is_plain, plain, spread_text
from .matrices import confusion_tables, draws_confusions, draws_transfer, transfer_tables
from .pictures import render_pictures

_MAX_LISTED = 20  # duplicates, and pairs of laboratories whose classes differ


def write_report(
    result: BenchmarkResult, path: str | os.PathLike[str], *, title: str = "Blood cells across laboratories",
    settings: Mapping[str, Any] | None = None, figures: str | os.PathLike[str] | None = None,
) -> Path:  # fmt: skip
    """Write a benchmark's tables, pictures and settings as one HTML file, and return its path.

    Pictures are embedded and nothing is loaded from elsewhere, so the file can be mailed, archived and
    printed. It is written to a temporary file and then moved, so an interrupted run leaves the old report whole.

    Parameters
    ----------
    result : BenchmarkResult
        From `run_benchmark`.
    path : path
        The file to write, or an existing folder to write ``report.html`` into. Missing folders are made.
    title : str, default="Blood cells across laboratories"
        The page's title.
    settings : dict or None, default=None
        More settings to list, such as the command line. They replace the result's own of the same name.
    figures : path or None, default=None
        A folder to which the pictures are also written, as PNG and SVG files. It is made if it is missing.

    Raises
    ------
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If a picture cannot be drawn, such as that of an image that can no longer be read. The report then says so in
        the picture's place.

    Notes
    -----
    Beyond 10 laboratories, or where no installed font has the characters of a name, tables take the place of the
    pictures of transfer and confusions. Other pictures escape such characters, and the report lists what they mean.

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
    path, engine = prepare_report(path, figures), _engine()
    template = engine.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    settings = {**result.settings, **(settings or {})}
    pictures = render_pictures(result, None if figures is None else Path(figures))
    page = template.render(**_tables(result), title=title, settings=settings, figures=pictures)
    write_text(path, printable(page))
    failures = [item["failure"] for section in pictures.values() for item in section if "failure" in item]
    if failures:
        found = f"Left {len(failures)} picture(s) out of the report that cannot be drawn: {'; '.join(failures)}."
        warn_caller(f"{found} Fix: see to the cause and write the report again; no score depends on a picture.")
    return path


def prepare_report(path: str | os.PathLike[str], figures: str | os.PathLike[str] | None = None) -> Path:
    """Return the file that `write_report` will write; raise now, before hours of work, if it could not.

    Folders are made. The errors are those of `write_report`.
    """
    path = Path(path, "report.html") if Path(path).is_dir() else Path(path)
    make_folder(path.parent)
    check_writable(path)
    if figures is not None:
        check_writable(make_folder(figures) / "maps.png")
    return path


def printable(text: str) -> str:
    r"""Return a text that UTF-8 can hold: the bytes of a file's name that are not UTF-8 become \udcXX."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _engine() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _tables(result: BenchmarkResult) -> dict[str, Any]:
    """Return the numbers of the page, by their names in the template."""
    scores, cells, headlines = result.scores, result.cells, result.headlines
    pairs = scores[scores["train_domain"] != scores["test_domain"]].drop_duplicates(["train_domain", "test_domain"])
    summary = summarise_scores(scores).groupby("features", sort=False)
    return {
        "headlines": best_headlines(headlines).to_dict("records"),
        "all_headlines": headlines.to_dict("records"),
        "across": len(pairs) > 0,
        "recall": _recall_by_class(result),
        "n_classifiers": scores["classifier"].nunique(),
        "n_folds": scores["fold"].nunique(),
        "transductive": "autoencoder" in result.features,
        "counts": pd.crosstab(class_names(cells.target, cells.target_names, "target"), np.asarray(cells.domain)),
        "left_out": pairs[pairs["n_left_out"] > 0].to_dict("records"),
        "transfer_tables": [] if draws_transfer(result) else list(transfer_tables(result)),
        "confusion_tables": [] if draws_confusions(result) else list(confusion_tables(result)),
        "score_tables": [(name, table.to_dict("records")) for name, table in summary],
        "metrics": METRICS,
        "spread": spread_text,
        "shift": _shift_rows(result.shift_by_class),
        "duplicates": result.duplicates[["a", "b"]].head(_MAX_LISTED).to_numpy().tolist(),
        "n_duplicates": len(result.duplicates),
        "max_listed": _MAX_LISTED,
        "domain": np.asarray(cells.domain),
        "paths": cells.get("paths"),
        "escaped": _escaped_names(result),
    }


def _recall_by_class(result: BenchmarkResult) -> list[dict[str, Any]]:
    """Return each class with its recall by feature set; NaN where no pair of laboratories scores it."""
    table = result.recall.pivot_table("recall", "label", "features", dropna=False)
    return [{"label": name, "recall": row.to_dict()} for name, row in table.iterrows()]


def _shift_rows(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the distances between laboratories by feature set and class; none where nothing could be compared."""
    if table.empty:
        return []
    return table.rename_axis(["features", "cells"]).reset_index().to_dict("records")


def _escaped_names(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return the classes and laboratories that pictures do not show as they are, after what they show instead."""
    names = [*result.cells.target_names, *np.unique(np.asarray(result.cells.domain)).tolist()]
    return [(plain(name).strip().replace(r"\$", "$"), str(name)) for name in names if not is_plain(name)]
