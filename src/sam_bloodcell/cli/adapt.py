"""`sam-bloodcell adapt`."""

import shlex
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

    from ..classification import CellClassifier


def adapt(
    model: Model,
    cells: Images,
    domain: Annotated[str, typer.Option(help="Name of the new laboratory, from which all these cells come.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the adapted model (default: adapted), or CSV for --suggest (to_label.csv)."),
    ] = None,
    suggest: Annotated[
        int | None, typer.Option(min=1, help="Write a table of this many cells that are worth labelling, and exit.")
    ] = None,
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
    """Adapt a saved model to a new laboratory, from its cells and the labels of some of them.

    First, --suggest 32 writes a table of the cells whose labels would help most. Fill in its column label. Then pass
    the folder and the table together. Cells without a label also help, because the stain is learned from all cells.

    Example: sam-bloodcell adapt model lyon --domain lyon --suggest 32
    """
    from ..classification import CellClassifier
    from ..classification.new_laboratory import check_new_laboratory, list_new_cells
    from ..classification.outputs import check_model_folder, check_table_to_label
    from ..classification.sources import keep_readable

    out = out or Path("adapted" if suggest is None else "to_label.csv")
    if suggest is not None:
        check_table_to_label(out, cells, overwrite=overwrite)
    else:
        check_model_folder(out, *cells, overwrite=overwrite)
    classifier = CellClassifier.from_pretrained(model, trusted=trusted or [])
    classifier.set_params(
        cache_dir=cache_dir, device=device, batch_size=batch_size or "auto", n_jobs=n_jobs, verbose=0 if quiet else 1
    )
    check_new_laboratory(classifier, domain)
    table, listings = list_new_cells(cells, domain, classifier.classes_, root=root)
    for listing in listings:
        tell_left_out(f"{listing.root}: {len(listing.images)} images", listing.account())
    if on_error == "skip":
        table = keep_readable(table)
    if suggest is not None:
        write_suggestions(classifier, table, suggest, out)
        here = [*map(str, cells), str(out)]
        next_step = ["sam-bloodcell", "adapt", model, *dict.fromkeys(here), "--domain", domain]
        if on_error == "skip":
            next_step += ["--on-error", "skip"]
        tell_to_label(table, out, next_step, root)
    else:
        write_adapted(classifier, table, domain, out)
        typer.echo(
            f"Next: sam-bloodcell predict {shlex.quote(str(out))} FOLDER --domain {shlex.quote(domain)}", err=True
        )


def write_suggestions(classifier: "CellClassifier", cells: "pd.DataFrame", n: int, out: Path) -> None:
    """Write the table of the cells that are worth labelling."""
    from ..classification.new_laboratory import suggest_cells, table_to_label
    from ..classification.outputs import check_names, write_predictions

    check_names(cells)
    write_predictions(table_to_label(suggest_cells(classifier, cells, n), out), out)
    typer.echo(out)


def tell_to_label(cells: "pd.DataFrame", out: Path, command: list[str], root: Path | None) -> None:
    """Print what to do with the table, to standard error."""
    from ..classification.new_laboratory import root_of

    root = root or root_of(cells["path"], out)
    if root is not None:
        command += ["--root", str(root)]
    typer.echo(f"Next: fill in the column label, then: {shlex.join(command)}", err=True)


def write_adapted(classifier: "CellClassifier", cells: "pd.DataFrame", domain: str, out: Path) -> None:
    """Adapt the model, save it, and print what has changed."""
    from ..classification.new_laboratory import describe_adaptation, labels_for_adapt, learned_laboratories

    y = labels_for_adapt(cells, classifier.classes_)
    before = getattr(classifier, "temperatures_", {}).get(domain, 1.0)  # models of earlier versions have none
    known = domain in learned_laboratories(classifier)
    classifier.adapt(cells[["path", "domain"]], domain, y)
    learned = not known and domain in learned_laboratories(classifier)
    for sentence in describe_adaptation(classifier, cells, domain, before, learned=learned):
        typer.echo(sentence)
    labelled = f"{len(classifier.training_paths_)} cells, those with labels of the laboratory {domain} among them"
    typer.echo(classifier.save_pretrained(out, data=labelled))
