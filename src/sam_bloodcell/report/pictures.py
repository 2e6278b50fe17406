"""The pictures of a report: what they show, and how they are embedded in the page."""

import base64
import io
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from .. import plotting
from ..evaluation import BenchmarkResult
from ..evaluation.benchmark import images_of
from ..evaluation.checks import class_names
from ..evaluation.findings import mistakes, recommended
from ..evaluation.headlines import select_series
from ..files import replacing
from ..plotting.canvas import title_of_two
from .matrices import draws_confusions, draws_transfer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Most cells whose colours are drawn, per domain and in total: each crop may have to be cut from its image file.
_MAX_STAINED, _MAX_STAINED_IN_ALL = 200, 900


class Picture(NamedTuple):
    """One picture that is not drawn yet: its section of the page, its alternative text and its caption."""

    section: str
    draw: Callable[[], "Figure | None"]  # returns None if there is nothing to show
    alt: str
    caption: str = ""


def render_pictures(result: BenchmarkResult, folder: Path | None) -> Mapping[str, list[dict[str, str]]]:
    """Render the pictures as PNG, by section of the page; with a folder, also write them there as PNG and SVG.

    The contact sheet of mistakes is written only to the folder, because the page shows each mistake separately.

    If a picture cannot be drawn, the reason, ``failure``, takes its place. The numbers do not depend on pictures.
    """
    # A section without pictures is an empty list in the template.
    sections: Mapping[str, list[dict[str, str]]] = defaultdict(list)
    pictures = [picture for picture in _pictures(result) if folder is not None or picture.section != "mistakes"]
    counts = Counter(picture.section for picture in pictures)
    for picture in pictures:
        shown = sections[picture.section]
        name = picture.section if counts[picture.section] == 1 else f"{picture.section}-{len(shown) + 1}"
        try:
            png = _render(picture, folder, name)
        except Exception as exc:  # a font, a damaged image or matplotlib may raise anything
            reason = f"{name}, {type(exc).__name__}: {exc!s:.300}"
            shown.append({"failure": reason, "caption": picture.caption})
        else:
            if png is not None:
                uri = _photo(png) if picture.section == "cells" else _data_uri(png, "png")
                shown.append({"uri": uri, "alt": picture.alt, "caption": picture.caption})
    return sections


def _photo(png: bytes) -> str:
    """Return a picture of photographs as a JPEG, which is a tenth of the size of a PNG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "JPEG", quality=85, optimize=True)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def _render(picture: Picture, folder: Path | None, name: str) -> bytes | None:
    """Return a picture's PNG, or None if there is nothing to show; also write it to the folder, if there is one."""
    figure = picture.draw()
    if figure is None:
        return None
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a small picture is better than none, and matplotlib's advice does not help users
        warnings.filterwarnings("ignore", message="constrained_layout not applied|Glyph ", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=150)
        if folder is not None:
            with replacing(folder / f"{name}.png") as draft:
                draft.write_bytes(buffer.getvalue())
            with replacing(folder / f"{name}.svg") as draft:
                figure.savefig(draft, dpi=150)
    return buffer.getvalue()


def _pictures(result: BenchmarkResult) -> Iterator[Picture]:
    if draws_transfer(result):
        for name, table in result.scores.groupby("features", sort=False):
            alt = f"Heat maps of balanced accuracy, training by test laboratory, per classifier, on {name}."
            draw = partial(plotting.plot_transfer_matrix, table.drop(columns="features"))
            yield Picture("transfer", draw, alt, str(name))
    images = images_of(result.cells)
    images = images.to_numpy() if hasattr(images, "to_numpy") else images
    if np.ndim(images[0]) not in (0, 2, 3):  # features, instead of paths or pictures, cannot be shown
        images = None
    yield from _answers(result, images)
    if images is not None:
        alt = f"{len(result.shown)} cells, a few of each laboratory and class, with mask, crop and reconstruction."
        yield Picture("cells", lambda: _plot_shown(result, images), alt)
    yield from _masks_and_stain(result)
    yield Picture("maps", lambda: _plot_maps(result), "Two components of each feature set, by class and by laboratory.")


def _answers(result: BenchmarkResult, images: Any) -> Iterator[Picture]:
    """Yield the pictures of the answers of the classifier that transfers best."""
    best = recommended(result)
    if best is None:
        return
    table = select_series(result.predictions, *best)
    name = f"{best[1]} on {best[0]}"
    if draws_confusions(result):
        alt = f"Confusion matrices by pair of laboratories, {name}."
        yield Picture("confusions", lambda: plotting.plot_confusions(table), alt, name)
    if images is not None:
        alt = "The most confident mistakes across laboratories, true class and answer."
        yield Picture("mistakes", lambda: _plot_mistakes(result, images), alt)


def _plot_mistakes(result: BenchmarkResult, images: Any) -> "Figure | None":
    """Draw the mistakes that the page lists."""
    listed = mistakes(result)
    return plotting.plot_mistakes(listed.assign(known=True), images) if len(listed) else None


def _masks_and_stain(result: BenchmarkResult) -> Iterator[Picture]:
    embeddings, domain = result.embeddings, np.asarray(result.cells.domain)
    if hasattr(embeddings, "quality"):
        alt = "Area and confidence of the masks by laboratory."
        yield Picture("quality", lambda: plotting.plot_mask_quality(embeddings.quality, domain), alt)
    if hasattr(embeddings, "crops"):
        most = min(_MAX_STAINED, max(1, _MAX_STAINED_IN_ALL // len(np.unique(domain))))
        shuffled = np.random.default_rng(int(result.settings.get("random_state", 0))).permutation(len(domain))
        rows = np.sort(pd.Series(shuffled).groupby(domain[shuffled]).head(most).to_numpy())
        caption = f"Colours of at most {most} cells of each laboratory, drawn at random"
        yield Picture(
            "quality", lambda: plotting.plot_stain(embeddings.crops[rows], domain[rows]), f"{caption}.", caption
        )


def _plot_shown(result: BenchmarkResult, images: Any) -> "Figure":
    shown, embeddings, cells = result.shown, result.embeddings, result.cells
    labels = class_names(np.asarray(cells.target)[shown], cells.target_names, "target")
    domains = np.asarray(cells.domain)[shown]
    parts = {name: getattr(embeddings, name)[shown] for name in ("masks", "crops") if hasattr(embeddings, name)}
    width = 21 * (1 + len({"crops"} & set(parts)) + (result.reconstructions is not None))  # characters above a cell
    titles = [title_of_two(a, ":", b, width) for a, b in zip(domains, labels, strict=True)]
    pictures = [images[row] for row in shown]
    return plotting.plot_cells(pictures, reconstructions=result.reconstructions, titles=titles, **parts)


def _plot_maps(result: BenchmarkResult) -> "Figure":
    cells = result.cells
    return plotting.plot_embedding_map(result.features, cells.domain, cells.target, cells.target_names)
