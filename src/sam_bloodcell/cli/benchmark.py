"""`sam-bloodcell benchmark`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Adapter,
    Architecture,
    Backbone,
    Cells,
    Epochs,
    Folds,
    Out,
    Preset,
    Quiet,
    Root,
    Seed,
    check_choice,
    tell_cells,
)


def benchmark(
    cells: Cells,
    out: Out = Path("out"),
    classes: Annotated[str | None, typer.Option(help="Labels to keep, separated by commas; default all.")] = None,
    backbone: Backbone = "vit_tiny",
    adapter: Adapter = None,
    architecture: Architecture = "auto",
    preset: Preset = None,
    epochs: Epochs = None,
    cv: Folds = 5,
    seed: Seed = 0,
    root: Root = None,
    on_error: Annotated[str, typer.Option(help="Unreadable images: raise, or skip with a warning.")] = "raise",
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for embeddings; a killed run reuses them.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train in each laboratory, test in every one, and write the table and a report.

    Example: sam-bloodcell benchmark cells.csv --classes lymphocyte,monocyte --out out
    """
    from ..alignment.autoencoder import CrossDomainAutoencoder
    from ..datasets import drop_unreadable, load_cells
    from ..embedding.embedder import SAMLoRAEmbedder
    from ..evaluation import cross_domain_mean, per_class_recall, run_benchmark
    from ..files import make_folder, write_text
    from ..report.page import write_report

    verbose = 0 if quiet else 1
    check_choice(on_error, "raise", "skip")
    data = load_cells(cells, classes=classes.split(",") if classes else None, root=root)
    if on_error == "skip":
        data = drop_unreadable(data)
    tell_cells(data)
    for label, count in data.dropped.items():
        typer.echo(f"left out: {count} cells of class {label}")
    keep = parts_to_keep(architecture, preset)
    embedder = SAMLoRAEmbedder(backbone, adapter, keep=keep, cache_dir=cache_dir, verbose=verbose)
    autoencoder = CrossDomainAutoencoder(
        architecture=architecture, preset=preset, epochs=epochs or "auto", random_state=seed, verbose=verbose
    )
    result = run_benchmark(data, embedder, autoencoder, cv=cv, random_state=seed, verbose=verbose)
    write_text(make_folder(out) / "scores.csv", result.scores.to_csv(index=False))
    write_text(out / "provenance.json", json.dumps(result.settings, indent=2))
    write_text(out / "recall_by_class.csv", per_class_recall(result.predictions).to_csv(index=False))
    if result.intervals is not None:
        write_text(out / "intervals.csv", result.intervals.to_csv(index=False))
    report = write_report(result, out / "report.html", figures=out / "figures")
    typer.echo("\nMean balanced accuracy over all pairs of different laboratories:")
    typer.echo(cross_domain_mean(result.scores).unstack("features").round(3).to_string())
    typer.echo("\nHow far the laboratories lie apart (0 and chance: not at all):")
    typer.echo(result.shift.round(3).to_string())
    typer.echo(f"\n{out / 'scores.csv'}\n{report}")


def parts_to_keep(architecture: str, preset: str | None) -> tuple[str, ...]:
    """Return what `SAMLoRAEmbedder` has to keep of every cell for an autoencoder, besides its pooled embedding."""
    reads_tokens = architecture in ("conv", "masked") or (architecture == "auto" and preset is not None)
    return ("tokens", "crops") if reads_tokens else ()
