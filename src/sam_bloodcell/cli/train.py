"""`sam-bloodcell train`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Adapter,
    Backbone,
    BatchSize,
    CacheDir,
    Cells,
    Classes,
    Device,
    Jobs,
    OnError,
    Overwrite,
    Pooling,
    Quiet,
    Root,
    Seed,
    split_names,
    tell_cells,
)


def train(
    cells: Cells,
    out: Annotated[Path, typer.Option(help="Folder for the model; created if it is missing.")] = Path("model"),
    classes: Classes = None,
    overwrite: Overwrite = False,
    backbone: Backbone = "vit_tiny",
    adapter: Adapter = None,
    pooling: Pooling = None,
    stain_views: Annotated[
        int, typer.Option(min=0, help="Views of each cell in other stains, for laboratories without images.")
    ] = 0,
    seed: Seed = 0,
    root: Root = None,
    on_error: OnError = "raise",
    cache_dir: CacheDir = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    n_jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on all cells, and save it for `sam-bloodcell predict`.

    `sam-bloodcell benchmark` measures how good it is in another laboratory.

    Example: sam-bloodcell train cells --out model
    """
    from ..classification import CellClassifier
    from ..classification.outputs import check_model_folder
    from ..datasets import drop_unreadable, load_cells
    from ..embedding.choice import embedder_params

    data = load_cells(cells, classes=split_names(classes), root=root)
    check_model_folder(out, cells, overwrite=overwrite)
    if on_error == "skip":
        data = drop_unreadable(data)
    tell_cells(data)
    classifier = CellClassifier(
        **embedder_params(backbone, adapter, pooling=pooling), n_stain_views=stain_views, cache_dir=cache_dir,
        device=device, batch_size=batch_size or "auto", n_jobs=n_jobs, random_state=seed, verbose=0 if quiet else 1,
    )  # fmt: skip
    classifier.fit(data.frame, data.labels)
    typer.echo(classifier.save_pretrained(out, data=repr(data)))
    typer.echo(f"Next: sam-bloodcell predict {out} FOLDER --domain NAME", err=True)
