"""A benchmark's result as one self-contained HTML page."""

import base64
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import plotting
from ..evaluation import METRICS, BenchmarkResult, cross_domain_mean, summarise_scores
from ..evaluation.benchmark import images_of
from ..evaluation.checks import class_names
from ..extras import require
from ..files import make_folder, replacing, write_text
from ..plotting.canvas import spread_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_STAINED = 200  # cells of a domain whose colours are drawn: each crop may have to be cut from its image file


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
    ImportError
        If matplotlib or Jinja2 is not installed.
    OSError
        If the file cannot be written, or a shown image can no longer be read.

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
    path = Path(path, "report.html") if Path(path).is_dir() else Path(path)
    jinja2 = require("jinja2", extra="report", purpose="Reports need Jinja2")
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = engine.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    settings = {**result.settings, **(settings or {})}
    page = template.render(**_tables(result), title=title, settings=settings, figures=_rendered(result, figures))
    write_text(make_folder(path.parent) / path.name, page)
    return path


def _tables(result: BenchmarkResult) -> dict[str, Any]:
    """Return the numbers of the page, by their names in the template."""
    scores, cells = result.scores, result.cells
    pairs = scores[scores["train_domain"] != scores["test_domain"]].drop_duplicates(["train_domain", "test_domain"])
    summary = summarise_scores(scores).groupby("features", sort=False)
    return {
        "headlines": list(_headlines(scores)),
        "intervals": [] if result.intervals is None else result.intervals.to_dict("records"),
        "n_classifiers": scores["classifier"].nunique(),
        "n_folds": scores["fold"].nunique(),
        "transductive": "autoencoder" in result.features,
        "counts": pd.crosstab(class_names(cells.target, cells.target_names, "target"), np.asarray(cells.domain)),
        "left_out": pairs[pairs["n_left_out"] > 0].to_dict("records"),
        "score_tables": [(name, table.to_dict("records")) for name, table in summary],
        "metrics": METRICS,
        "spread": spread_text,
        "shift": result.shift_by_class.rename_axis(["features", "cells"]).reset_index().to_dict("records"),
        "duplicates": result.duplicates[["a", "b"]].head(20).to_numpy().tolist(),
        "domain": np.asarray(cells.domain),
        "paths": cells.get("paths"),
    }


def _headlines(scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the best classifier of each feature set across domains, beside the score of a constant answer."""
    across = scores[(scores["train_domain"] != scores["test_domain"]) & (scores["n_classes"] > 0)]
    for name, pairs in across.groupby("features", sort=False):
        means = cross_domain_mean(pairs)
        best = {"features": name, "classifier": means.index[int(means.argmax())][-1], "score": means.max()}
        n_pairs = pairs.groupby(["train_domain", "test_domain"]).ngroups
        yield {**best, "chance": float((1 / pairs["n_classes"]).mean()), "pairs": n_pairs}


def _pictures(result: BenchmarkResult) -> Iterator[tuple[str, "Figure", str, str]]:
    """Yield each figure with its section of the page, its alternative text and its caption."""
    for name, table in result.scores.groupby("features", sort=False):
        alt = f"Heat maps of balanced accuracy, training by test laboratory, per classifier, on {name}."
        yield "transfer", plotting.plot_transfer_matrix(table.drop(columns="features")), alt, str(name)
    cells, embeddings, domain = result.cells, result.embeddings, np.asarray(result.cells.domain)
    images = images_of(cells)
    if np.ndim(images[0]) not in (0, 2, 3):  # neither paths nor pictures, but features: there is no cell to show
        images = None
    best = max(_headlines(result.scores), key=lambda headline: headline["score"], default=None)
    if best is not None:
        table = result.predictions
        table = table[(table["features"] == best["features"]) & (table["classifier"] == best["classifier"])]
        name = f"{best['classifier']} on {best['features']}"
        alt = f"Confusion matrices by pair of laboratories, {name}."
        yield "confusions", plotting.plot_confusions(table), alt, name
        mistakes = None if images is None else plotting.plot_mistakes(table, images)
        if mistakes is not None:
            yield "mistakes", mistakes, "The most confident mistakes across laboratories, true class and answer.", ""
    if images is not None:
        alt = f"{len(result.shown)} cells, a few of each laboratory and class, with mask, crop and reconstruction."
        yield "cells", _plot_shown(result, images), alt, ""
    if hasattr(embeddings, "quality"):
        alt = "Area and confidence of the masks by laboratory."
        yield "quality", plotting.plot_mask_quality(embeddings.quality, domain), alt, ""
    if hasattr(embeddings, "crops"):
        shuffled = np.random.default_rng(int(result.settings.get("random_state", 0))).permutation(len(domain))
        rows = np.sort(pd.Series(shuffled).groupby(domain[shuffled]).head(_MAX_STAINED).to_numpy())
        caption = f"Colours of at most {_MAX_STAINED} cells of each laboratory, drawn at random"
        yield "quality", plotting.plot_stain(embeddings.crops[rows], domain[rows]), f"{caption}.", caption
    history = getattr(result.autoencoder, "history_", None)
    if history is not None and len(history):
        losses = plotting.plot_history(pd.DataFrame(history))
        yield "history", losses, "The autoencoder's loss and its terms by epoch.", ""
    maps = plotting.plot_embedding_map(result.features, cells.domain, cells.target, cells.target_names)
    yield "maps", maps, "First two principal components of each feature set, by class and by laboratory.", ""


def _plot_shown(result: BenchmarkResult, images: Any) -> "Figure":
    shown, embeddings, cells = result.shown, result.embeddings, result.cells
    labels = class_names(np.asarray(cells.target)[shown], cells.target_names, "target")
    titles = [f"{domain}: {label}" for domain, label in zip(np.asarray(cells.domain)[shown], labels, strict=True)]
    parts = {name: getattr(embeddings, name)[shown] for name in ("masks", "crops") if hasattr(embeddings, name)}
    pictures = [images[row] for row in shown]
    return plotting.plot_cells(pictures, reconstructions=result.reconstructions, titles=titles, **parts)


def _rendered(result: BenchmarkResult, figures: str | os.PathLike[str] | None) -> Mapping[str, list[dict[str, str]]]:
    """Render the pictures as PNG, by section of the page; with a folder, also write them there as PNG and SVG."""
    folder = None if figures is None else make_folder(figures)
    sections = defaultdict(list)  # a section without pictures is an empty list in the template
    drawn = list(_pictures(result))
    counts = Counter(section for section, *_ in drawn)
    for section, figure, alt, caption in drawn:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        sections[section].append({"uri": uri, "alt": alt, "caption": caption})
        if folder is not None:
            name = section if counts[section] == 1 else f"{section}-{len(sections[section])}"
            with replacing(folder / f"{name}.png") as draft:
                draft.write_bytes(buffer.getvalue())
            with replacing(folder / f"{name}.svg") as draft:
                figure.savefig(draft, dpi=150)
    return sections
