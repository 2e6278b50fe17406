"""A benchmark's result as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..evaluation import METRICS, BenchmarkResult, cross_domain_mean, summarise_scores
from ..files import make_folder, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "svg")


def write_report(
    result: BenchmarkResult,
    path: str | os.PathLike[str],
    *,
    title: str = "Blood cells across laboratories",
    settings: Mapping[str, Any] | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a benchmark's tables, pictures and settings as one HTML file.

    Pictures are embedded and nothing is loaded from elsewhere, so the file can be mailed, archived and
    printed. It is written beside its place and then moved: an interrupted run leaves the old report whole.

    Parameters
    ----------
    result : BenchmarkResult
        From `run_benchmark`.
    path : path
        The file to write, or an existing folder to write ``report.html`` into. Missing folders are made.
    title : str, default="Blood cells across laboratories"
        The page's title.
    settings : dict or None, default=None
        More settings to list, such as the command line. They win over the result's own of the same name.

    figures : path or None, default=None
        A folder for the pictures as PNG and SVG files too; made if need be.

    Returns
    -------
    pathlib.Path
        The written file.

    Raises
    ------
    ImportError
        If matplotlib or Jinja2 is not installed.
    OSError
        If the file cannot be written, or a shown image can no longer be read.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from sklearn.utils import Bunch
    >>> from sam_bloodcell.evaluation import run_benchmark
    >>> from sam_bloodcell.report import write_report
    >>> target, images = np.tile([0, 1], 10), np.random.default_rng(0).random((20, 6, 6))
    >>> cells = Bunch(images=images, target=target, target_names=["lymphocyte", "monocyte"],
    ...               domain=np.repeat(["a", "b"], 10))
    >>> flatten = FunctionTransformer(lambda X: X.reshape(len(X), -1))
    >>> result = run_benchmark(cells, flatten, None, LogisticRegression(), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(result, folder).name
    'report.html'
    """
    if not isinstance(result, BenchmarkResult):
        raise TypeError(f"Got result of type {type(result).__name__} but expected run_benchmark's.")
    path = Path(path)
    if path.is_dir():
        path = path / "report.html"
    pictures = {name: list(shown) for name, shown in _figures(result).items()}
    page = _template().render(
        title=title,
        headlines=list(_headlines(result.scores)),
        intervals=[] if result.intervals is None else result.intervals.to_dict("records"),
        n_classifiers=result.scores["classifier"].nunique(),
        n_folds=result.scores["fold"].nunique(),
        transductive="autoencoder" in result.features,
        counts=_counts(result),
        left_out=_left_out(result.scores),
        score_tables=_score_tables(result.scores),
        shift=_shift_rows(result.shift_by_class),
        duplicates=_duplicates(result),
        figures=pictures,
        settings={**result.settings, **(settings or {})},
    )
    make_folder(path.parent)
    write_text(path, page)
    if figures is not None:
        _write_figures(pictures, Path(figures))
    return path


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as exc:
        raise ImportError('Reports need Jinja2. Fix: pip install "sam-bloodcell[report]"') from exc
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))


def _headlines(scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the best classifier of each feature set across domains, beside the score of a constant answer."""
    across = scores[(scores["train_domain"] != scores["test_domain"]) & (scores["n_classes"] > 0)]
    for name in scores["features"].unique():
        pairs = across[across["features"] == name]
        if pairs.empty:
            continue
        means = cross_domain_mean(pairs)
        yield {
            "features": name,
            "classifier": means.index[int(means.argmax())][-1],
            "score": means.max(),
            "chance": float((1 / pairs["n_classes"]).mean()),
            "pairs": len(pairs[["train_domain", "test_domain"]].drop_duplicates()),
        }


def _counts(result: BenchmarkResult) -> dict[str, Any]:
    """Cells by class (rows) and domain (columns), with totals, and the least a class needs to be scored."""
    names = np.asarray(result.cells.target_names)[np.asarray(result.cells.target)]
    table = pd.crosstab(names, np.asarray(result.cells.domain))
    return {
        "domains": list(table.columns),
        "rows": [(name, row.tolist(), int(row.sum())) for name, row in table.iterrows()],
        "totals": table.sum().tolist(),
        "total": int(table.to_numpy().sum()),
        "least": result.scores["fold"].nunique(),
    }


def _left_out(scores: pd.DataFrame) -> list[dict[str, Any]]:
    pairs = scores[scores["train_domain"] != scores["test_domain"]]
    pairs = pairs[pairs["n_left_out"] > 0].drop_duplicates(["train_domain", "test_domain"])
    columns = ["train_domain", "test_domain", "n_left_out"]
    return [dict(zip(columns, row, strict=True)) for row in pairs[columns].to_numpy().tolist()]


def _score_tables(scores: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    tables = []
    for name, table in summarise_scores(scores).groupby("features", sort=False):
        rows = [
            {
                "classifier": row["classifier"],
                "train": row["train_domain"],
                "test": row["test_domain"],
                "across": row["train_domain"] != row["test_domain"],
                "values": [_spread(row[f"{metric}_mean"], row[f"{metric}_std"]) for metric in METRICS],
            }
            for row in table.to_dict("records")
        ]
        tables.append((str(name), rows))
    return tables


def _spread(mean: float, std: float) -> str:
    if np.isnan(mean):
        return "none"
    return f"{mean:.3f}" if np.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def _figures(result: BenchmarkResult) -> dict[str, Iterator[dict[str, str]]]:
    """Pictures by section, each a PNG data URI with its alternative text."""
    return {
        "transfer": _transfer_figures(result.scores),
        "confusions": _confusion_figures(result),
        "mistakes": _mistake_figures(result),
        "cells": _cell_figures(result),
        "quality": _quality_figures(result),
        "history": _history_figures(result.autoencoder),
        "maps": _map_figures(result),
    }


def _transfer_figures(scores: pd.DataFrame) -> Iterator[dict[str, str]]:
    from ..plotting import plot_transfer_matrix

    for name, table in scores.groupby("features", sort=False):
        figure = plot_transfer_matrix(table.drop(columns="features"))
        alt = f"Heat maps of balanced accuracy, training by test laboratory, per classifier, on {name}"
        yield _picture(figure, f"{alt}.", caption=str(name))


def _best(result: BenchmarkResult) -> pd.DataFrame | None:
    """Predictions of the feature set and classifier that transfer best, if any pair could be scored."""
    best = max(_headlines(result.scores), key=lambda headline: headline["score"], default=None)
    if best is None:
        return None
    table = result.predictions
    return table[(table["features"] == best["features"]) & (table["classifier"] == best["classifier"])]


def _confusion_figures(result: BenchmarkResult) -> Iterator[dict[str, str]]:
    from ..plotting import plot_confusions

    best = _best(result)
    if best is not None:
        name = f"{best['classifier'].iloc[0]} on {best['features'].iloc[0]}"
        yield _picture(plot_confusions(best), f"Confusion matrices by pair of laboratories, {name}.", caption=name)


def _mistake_figures(result: BenchmarkResult) -> Iterator[dict[str, str]]:
    from ..plotting import plot_mistakes

    best, images = _best(result), _images(result)
    if best is not None and images is not None:
        figure = plot_mistakes(best, images)
        if figure is not None:
            yield _picture(figure, "The most confident mistakes across laboratories, true class and answer.")


def _quality_figures(result: BenchmarkResult) -> Iterator[dict[str, str]]:
    from ..plotting import plot_mask_quality, plot_stain

    embeddings, domain = result.embeddings, np.asarray(result.cells.domain)
    if hasattr(embeddings, "quality"):
        yield _picture(plot_mask_quality(embeddings.quality, domain), "Area and confidence of the masks by laboratory.")
    if hasattr(embeddings, "crops"):
        yield _picture(plot_stain(embeddings.crops, domain), "Colours of the cells by laboratory.")


def _images(result: BenchmarkResult) -> Any:
    """Return what can be shown of the cells: paths or pictures, else None."""
    source = result.cells["paths"] if result.cells.get("paths") is not None else result.cells["images"]
    return source if np.ndim(source[0]) in (0, 2, 3) else None


def _shift_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"features": features, "cells": cells} | {str(name): value for name, value in row.items()}
        for (features, cells), row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def _duplicates(result: BenchmarkResult) -> list[str]:
    labs = np.asarray(result.cells.domain)
    paths = result.cells.get("paths")

    def named(row: int) -> str:
        return f"row {row}" + (f" ({paths[row]})" if paths is not None else "") + f" of {labs[row]}"

    return [f"{named(a)} and {named(b)}" for a, b in result.duplicates[["a", "b"]].head(20).to_numpy().tolist()]


def _cell_figures(result: BenchmarkResult) -> Iterator[dict[str, str]]:
    from ..plotting import plot_cells

    cells, shown, embeddings = result.cells, result.shown, result.embeddings
    source = _images(result)
    if source is None:
        return
    names = np.asarray(cells.target_names)[np.asarray(cells.target)[shown]]
    figure = plot_cells(
        [source[i] for i in shown],
        masks=embeddings.masks[shown] if hasattr(embeddings, "masks") else None,
        crops=embeddings.crops[shown] if hasattr(embeddings, "crops") else None,
        reconstructions=result.reconstructions,
        titles=[f"{lab}: {name}" for lab, name in zip(np.asarray(cells.domain)[shown], names, strict=True)],
    )
    yield _picture(figure, f"{len(shown)} cells, a few of each laboratory and class, as seen by each step.")


def _history_figures(autoencoder: Any) -> Iterator[dict[str, str]]:
    from ..plotting import plot_history

    history = getattr(autoencoder, "history_", None)
    if history is not None and len(history):
        yield _picture(plot_history(pd.DataFrame(history)), "The autoencoder's loss and its terms by epoch.")


def _map_figures(result: BenchmarkResult) -> Iterator[dict[str, str]]:
    from ..plotting import plot_embedding_map

    cells = result.cells
    figure = plot_embedding_map(result.features, cells.domain, cells.target, cells.target_names)
    yield _picture(figure, "First two principal components of each feature set, by class and by laboratory.")


def _picture(figure: Figure, alt: str, caption: str = "") -> dict[str, str]:
    drawn = {}
    for form in _FORMATS:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=150)
        drawn[form] = buffer.getvalue()
    uri = "data:image/png;base64," + base64.b64encode(drawn["png"]).decode("ascii")
    return {"uri": uri, "alt": alt, "caption": caption, **drawn}  # type: ignore[dict-item]


def _write_figures(figures: Mapping[str, list[dict[str, Any]]], folder: Path) -> None:
    make_folder(folder)
    for section, pictures in figures.items():
        for number, picture in enumerate(pictures, start=1):
            name = section if len(pictures) == 1 else f"{section}-{number}"
            for form in _FORMATS:
                (folder / f"{name}.{form}").write_bytes(picture[form])
