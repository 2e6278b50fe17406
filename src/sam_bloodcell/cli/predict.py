"""`sam-bloodcell predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    BatchSize,
    CacheDir,
    Device,
    Images,
    Jobs,
    Model,
    OnError,
    Overwrite,
    Quiet,
    Root,
    Trusted,
    tell_left_out,
)

if TYPE_CHECKING:
    import pandas as pd


def predict(
    model: Model,
    images: Images,
    domain: Annotated[
        str | None,
        typer.Option(help="Name of the laboratory (default: from the folders, or from a CSV's column domain)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write: .csv or .parquet.")] = Path("predictions.csv"),
    overwrite: Overwrite = False,
    on_error: OnError = "raise",
    trusted: Trusted = None,
    root: Root = None,
    cache_dir: CacheDir = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    n_jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Classify images with a model that 'train' or 'benchmark' saved, and write a row per image.

    Pass all cells of a laboratory together, because its stain is learned from them. If the images are in one folder
    per class, or a CSV has a column label, the mistakes are listed and drawn.

    Example: sam-bloodcell predict model lyon --domain lyon --out predictions.csv
    """
    from ..bulk import check_not_a_source
    from ..classification import CellClassifier
    from ..classification.answers import as_benchmark, describe_predictions
    from ..classification.outputs import check_names, check_predictions_file, write_predictions
    from ..classification.sources import keep_readable, list_cells

    check_not_a_source(out, images)
    out, picture = check_predictions_file(out, images, overwrite=overwrite)
    classifier = CellClassifier.from_pretrained(model, trusted=trusted or [])
    classifier.set_params(
        cache_dir=cache_dir, device=device, batch_size=batch_size or "auto", n_jobs=n_jobs, verbose=0 if quiet else 1
    )
    cells, listings = list_cells(images, domain=domain, classes=classifier.classes_.tolist(), root=root)
    for listing in listings:
        tell_left_out(f"{listing.root}: {len(listing.images)} images", listing.account())
    if on_error == "skip":
        cells = keep_readable(cells)
    check_names(cells)
    table = classifier.predict_table(cells)
    write_predictions(table, out)
    for sentence in describe_predictions(table):
        typer.echo(sentence)
    typer.echo(out)
    draw_mistakes(as_benchmark(table), table["path"].tolist(), picture)


def draw_mistakes(mistakes: "pd.DataFrame", images: list[str], path: Path) -> None:
    """Draw the mistakes into a file and print its path; if there are none, remove the file of an earlier run."""
    from ..files import remove, replacing
    from ..plotting import plot_mistakes

    figure = plot_mistakes(mistakes, images) if len(mistakes) else None
    if figure is None:
        remove(path)
    else:
        with replacing(path) as draft:
            figure.savefig(draft, dpi=150)
        typer.echo(path)
