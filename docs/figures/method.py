"""Draw the method with a synthetic cell: image, tokens and mask, autoencoder, 50 features, classifier.

    python docs/figures/method.py

writes method.png beside this file. The pictures are what `vit_tiny` and an autoencoder fitted on 30 cells give.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from sklearn.decomposition import PCA

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells

CELL = 7  # of the synthetic cells, the one shown
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"


def main() -> None:
    """Embed, fit and draw."""
    cells = make_blood_cells(
        3, classes=("eosinophil", "monocyte", "neutrophil", "lymphocyte", "basophil"), random_state=0
    )
    embeddings = SAMLoRAEmbedder("vit_tiny", keep=("tokens", "crops")).fit_transform(cells.images)
    features = (
        CrossDomainAutoencoder(random_state=0)
        .fit(embeddings, domain=cells.domain)
        .transform(embeddings, domain=cells.domain)
    )
    figure = draw(cells.images[CELL], embeddings[[CELL]], features[CELL])
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=150)


def draw(image: np.ndarray, embedded: CellEmbeddings, features: np.ndarray) -> Figure:
    """Draw the steps for one cell, from left to right, on a canvas of 12 x 4 units."""
    figure = Figure(figsize=(12, 4))
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, 12), ylim=(0, 4))
    canvas.set_axis_off()

    _picture(figure, image, 0.25, 1.3, 1.5, "image\n224 x 224")
    _box(canvas, 2.3, 1.3, 1.5, 1.5, "SAM's\nViT encoder\n(frozen)", BLUE)
    _box(canvas, 2.3, 0.45, 1.5, 0.55, "LoRA on q and v", ORANGE)
    tokens = np.asarray(embedded.tokens, dtype=np.float32)[0]  # (C, 14, 14)
    _picture(figure, _as_colours(tokens), 4.4, 2.3, 1.2, "tokens, C x 14 x 14", above=True)
    _box(canvas, 4.4, 0.65, 1.2, 0.9, "mask\ndecoder", ORANGE)
    _picture(figure, image, 6.2, 0.5, 1.2, "mask", mask=embedded.masks[0])
    _picture(figure, embedded.crops[0], 7.6, 0.5, 1.2, "crop, 128 x 128")
    _box(canvas, 6.55, 2.3, 1.9, 1.2, "cross-domain\nautoencoder", ORANGE)
    _bars(figure, features, 9.2, 2.3, 1.0, 1.2)
    _box(canvas, 10.75, 2.3, 1.0, 1.2, "any\nclassifier", GREY)

    for start, end in [
        ((1.8, 2.05), (2.25, 2.05)),  # image, encoder
        ((3.05, 1.03), (3.05, 1.27)),  # LoRA, encoder
        ((3.85, 2.4), (4.35, 2.75)),  # encoder, tokens
        ((5.0, 2.25), (5.0, 1.6)),  # tokens, decoder
        ((5.65, 1.1), (6.15, 1.1)),  # decoder, mask
        ((5.65, 2.9), (6.5, 2.9)),  # tokens, autoencoder
        ((7.45, 1.1), (7.55, 1.1)),  # mask, crop
        ((8.0, 1.75), (7.8, 2.25)),  # crop, autoencoder
        ((6.8, 1.75), (6.95, 2.25)),  # mask, autoencoder
        ((8.5, 2.9), (9.1, 2.9)),  # autoencoder, features
        ((10.25, 2.9), (10.7, 2.9)),  # features, classifier
    ]:
        canvas.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="black", linewidth=1))
    canvas.text(10.4, 1.5, "laboratories are brought\ntogether without labels", ha="center", va="center", fontsize=10)
    canvas.text(10.4, 0.75, "orange: trained   blue: frozen", ha="center", va="center", fontsize=9, color=GREY)
    return figure


def _as_colours(tokens: np.ndarray) -> np.ndarray:
    """(C, h, w) tokens as (h, w, 3) colours: their first three principal components."""
    channels, height, width = tokens.shape
    shades = PCA(3, svd_solver="full").fit_transform(tokens.reshape(channels, -1).T)
    low, high = np.percentile(shades, [2, 98], axis=0)
    return np.clip((shades - low) / (high - low), 0, 1).reshape(height, width, 3)


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    ax = figure.add_axes((x / 12, y / 4, width / 12, height / 4))
    ax.set(xticks=[], yticks=[])
    return ax


def _picture(
    figure: Figure, pixels: np.ndarray, x: float, y: float, side: float, caption: str, *,
    mask: np.ndarray | None = None, above: bool = False,
) -> None:  # fmt: skip
    ax = _axes(figure, x, y, side, side)
    if mask is None:
        ax.imshow(pixels)
    else:
        height, width = mask.shape
        ax.imshow(pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        ax.contour(mask.astype(float), [0.5], colors="black", linewidths=1.5)
    if above:
        ax.set_title(caption, fontsize=10, pad=4)
    else:
        ax.set_xlabel(caption, fontsize=10, labelpad=4)


def _bars(figure: Figure, features: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    ax = _axes(figure, x, y, width, height)
    ax.barh(np.arange(len(features)), features, color=BLUE, height=1)
    ax.invert_yaxis()
    ax.set_title(f"{len(features)} features", fontsize=10, pad=4)


def _box(canvas: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    canvas.add_patch(
        FancyBboxPatch(
            (x + 0.06, y + 0.06), width - 0.12, height - 0.12, boxstyle="round,pad=0.06", facecolor=colour, alpha=0.16,
            edgecolor="none",
        )
    )  # fmt: skip
    canvas.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=11)


if __name__ == "__main__":
    main()
