"""`sam-bloodcell convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import PapersBackbone


def convert(
    published: Annotated[Path, typer.Argument(help="The .pth that the papers' published code saved.")],
    folder: Annotated[Path, typer.Argument(help="Adapter folder to write; created if it is missing.")],
    backbone: PapersBackbone = "vit_b",
    image_size: Annotated[
        int, typer.Option(help="Side in pixels of the images on which the adapter was trained.")
    ] = 224,
    mean: Annotated[
        str | None, typer.Option(help="Mean of the training images as R,G,B from 0 to 255 (default: as published).")
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation of the training images as R,G,B in 0-255 units (default: as published)."),
    ] = None,
) -> None:
    """Convert an adapter of the papers' published code into an adapter folder.

    Example: sam-bloodcell convert published.pth adapter --backbone vit_b
    """
    from ..weights import adapters, backbones
    from ..weights.published import PUBLISHED_PIXEL_STATS, read_published_adapter

    default_mean, default_std = PUBLISHED_PIXEL_STATS
    stats = (_rgb(mean) if mean else default_mean, _rgb(std) if std else default_std)
    adapter = read_published_adapter(published, backbone=backbone, image_size=image_size, pixel_stats=stats)
    typer.echo(adapters.write_adapter(adapter, folder, backbones.Backbone(backbone)))


def _rgb(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"Got {text!r} but expected three numbers. Fix: write them as 215.03,187.76,200.47.") from None
    return red, green, blue
