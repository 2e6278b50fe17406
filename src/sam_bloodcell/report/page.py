"""A benchmark's result as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import plotting
from ..evaluation import METRICS, BenchmarkResult, cross_domain_mean, summarise_scores
from ..evaluation.benchmark import images_of
from ..extras import require
from ..files import make_folder, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SECTIONS = ("transfer", "confusions", "mistakes", "cells", "quality", "history", "maps")
_MAX_STAINED = 200  # cells of a domain whose colours are drawn: each crop may have to be cut from its image file


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
        raise TypeError(
            f"Got result of type {type(result).__name__} but expected a BenchmarkResult. Fix: call run_benchmark."
        )
    path = Path(path)
    if path.is_dir():
        path = path / "report.html"
    template = _template()
    scores = result.scores
    pairs = scores[scores["train_domain"] != scores["test_domain"]].drop_duplicates(["train_domain", "test_domain"])
    page = template.render(
        title=title,
        headlines=list(_headlines(scores)),
        intervals=[] if result.intervals is None else result.intervals.to_dict("records"),
        n_classifiers=scores["classifier"].nunique(),
        n_folds=scores["fold"].nunique(),
        transductive="autoencoder" in result.features,
        counts=pd.crosstab(_class_names(result), np.asarray(result.cells.domain)),
        left_out=pairs[pairs["n_left_out"] > 0].to_dict("records"),
        score_tables=[
            (name, table.to_dict("records")) for name, table in summarise_scores(scores).groupby("features", sort=False)
        ],
        metrics=METRICS,
        spread=_spread,
        shift=result.shift_by_class.rename_axis(["features", "cells"]).reset_index().to_dict("records"),
        duplicates=result.duplicates[["a", "b"]].head(20).to_numpy().tolist(),
        domain=np.asarray(result.cells.domain),
        paths=result.cells.get("paths"),
        figures=_rendered(_pictures(result), None if figures is None else Path(figures)),
        settings={**result.settings, **(settings or {})},
    )
    make_folder(path.parent)
    write_text(path, page)
    return path


def _template() -> Any:
    jinja2 = require("jinja2", extra="report", purpose="Reports need Jinja2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))


def _headlines(scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the best classifier of each feature set across domains, beside the score of a constant answer."""
    across = scores[(scores["train_domain"] != scores["test_domain"]) & (scores["n_classes"] > 0)]
    for name, pairs in across.groupby("features", sort=False):
        means = cross_domain_mean(pairs)
        yield {
            "features": name,
            "classifier": means.index[int(means.argmax())][-1],
            "score": means.max(),
            "chance": float((1 / pairs["n_classes"]).mean()),
            "pairs": pairs.groupby(["train_domain", "test_domain"]).ngroups,
        }


def _class_names(result: BenchmarkResult) -> NDArray:
    return np.asarray(result.cells.target_names)[np.asarray(result.cells.target)]


def _spread(mean: float, std: float) -> str:
    if np.isnan(mean):
        return "none"
    return f"{mean:.3f}" if np.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def _pictures(result: BenchmarkResult) -> Iterator[tuple[str, Figure, str, str]]:
    """Yield each figure with its section of the page, its alternative text and its caption."""
    for name, table in result.scores.groupby("features", sort=False):
        alt = f"Heat maps of balanced accuracy, training by test laboratory, per classifier, on {name}."
        yield "transfer", plotting.plot_transfer_matrix(table.drop(columns="features")), alt, str(name)
    images, best = _images(result), _best(result)
    if best is not None:
        name = f"{best['classifier'].iloc[0]} on {best['features'].iloc[0]}"
        yield "confusions", plotting.plot_confusions(best), f"Confusion matrices by pair of laboratories, {name}.", name
        mistakes = None if images is None else plotting.plot_mistakes(best, images)
        if mistakes is not None:
            yield "mistakes", mistakes, "The most confident mistakes across laboratories, true class and answer.", ""
    if images is not None:
        alt = f"{len(result.shown)} cells, a few of each laboratory and class, with mask, crop and reconstruction."
        yield "cells", _plot_shown(result, images), alt, ""
    embeddings, domain = result.embeddings, np.asarray(result.cells.domain)
    if hasattr(embeddings, "quality"):
        alt = "Area and confidence of the masks by laboratory."
        yield "quality", plotting.plot_mask_quality(embeddings.quality, domain), alt, ""
    if hasattr(embeddings, "crops"):
        rows = _rows_by_domain(domain, int(result.settings.get("random_state", 0)))
        caption = f"Colours of at most {_MAX_STAINED} cells of each laboratory, drawn at random"
        yield "quality", plotting.plot_stain(embeddings.crops[rows], domain[rows]), f"{caption}.", caption
    history = getattr(result.autoencoder, "history_", None)
    if history is not None and len(history):
        alt = "The autoencoder's loss and its terms by epoch."
        yield "history", plotting.plot_history(pd.DataFrame(history)), alt, ""
    cells = result.cells
    maps = plotting.plot_embedding_map(result.features, cells.domain, cells.target, cells.target_names)
    yield "maps", maps, "First two principal components of each feature set, by class and by laboratory.", ""


def _images(result: BenchmarkResult) -> Any:
    """Return what can be shown of the cells, paths or pictures, or None where the benchmark had neither."""
    source = images_of(result.cells)
    return source if np.ndim(source[0]) in (0, 2, 3) else None


def _best(result: BenchmarkResult) -> pd.DataFrame | None:
    """Return predictions of the feature set and classifier that transfer best, if any pair could be scored."""
    best = max(_headlines(result.scores), key=lambda headline: headline["score"], default=None)
    if best is None:
        return None
    table = result.predictions
    return table[(table["features"] == best["features"]) & (table["classifier"] == best["classifier"])]


def _plot_shown(result: BenchmarkResult, images: Any) -> Figure:
    shown, embeddings = result.shown, result.embeddings
    names = zip(np.asarray(result.cells.domain)[shown], _class_names(result)[shown], strict=True)
    return plotting.plot_cells(
        [images[row] for row in shown],
        masks=embeddings.masks[shown] if hasattr(embeddings, "masks") else None,
        crops=embeddings.crops[shown] if hasattr(embeddings, "crops") else None,
        reconstructions=result.reconstructions,
        titles=[f"{domain}: {label}" for domain, label in names],
    )


def _rows_by_domain(domain: NDArray, seed: int) -> NDArray[np.intp]:
    """Draw the rows of at most `_MAX_STAINED` cells of each domain."""
    rows = np.random.default_rng(seed).permutation(len(domain))
    return np.sort(pd.Series(rows).groupby(domain[rows]).head(_MAX_STAINED).to_numpy())


def _rendered(pictures: Iterable[tuple[str, Figure, str, str]], folder: Path | None) -> dict[str, list[dict[str, str]]]:
    """Render pictures for the page, by section, as PNG; with a folder, also write them there as PNG and SVG."""
    sections: dict[str, list[dict[str, str]]] = {section: [] for section in _SECTIONS}
    drawn = list(pictures)
    if folder is not None:
        make_folder(folder)
    for section, figure, alt, caption in drawn:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        sections[section].append({"uri": uri, "alt": alt, "caption": caption})
        if folder is not None:
            alone = sum(other == section for other, *_ in drawn) == 1
            name = section if alone else f"{section}-{len(sections[section])}"
            (folder / f"{name}.png").write_bytes(buffer.getvalue())
            figure.savefig(folder / f"{name}.svg", dpi=150)
    return sections
