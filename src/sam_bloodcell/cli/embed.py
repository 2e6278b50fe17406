"""`sam-bloodcell embed`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Adapter,
    Backbone,
    BatchSize,
    Device,
    Images,
    Jobs,
    OnErrors,
    Overwrite,
    OwnImageSize,
    Pooling,
    Quiet,
    Root,
    tell_left_out,
)


def embed(
    images: Images,
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv, .h5ad or .npz.")] = Path("cells.parquet"),
    backbone: Backbone = "vit_tiny",
    adapter: Adapter = None,
    image_size: OwnImageSize = None,
    pooling: Pooling = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    n_jobs: Jobs = None,
    on_error: Annotated[
        OnErrors, typer.Option(help="Unreadable images: stop with an error, or skip them and list them in a CSV.")
    ] = "raise",
    overwrite: Overwrite = False,
    root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Embed any number of images into one file; the same command resumes if interrupted.

    Example: sam-bloodcell embed slides/ --out cells.parquet --on-error skip
    """
    from ..bulk import check_not_a_source, describe_source, embed_to_file, list_sources
    from ..embedding.choice import make_embedder

    check_not_a_source(out, images)
    table, listings = list_sources(images, root=root)
    for listing in listings:
        tell_left_out(describe_source(listing), listing.account())
    embedder = make_embedder(
        backbone, adapter, image_size=image_size, pooling=pooling, device=device, batch_size=batch_size or "auto",
        n_jobs=n_jobs, verbose=0 if quiet else 1,
    )  # fmt: skip
    typer.echo(embed_to_file(embedder.fit(table["path"]), table, out, on_error=on_error, overwrite=overwrite))
