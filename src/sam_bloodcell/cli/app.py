"""The command line; it parses, calls and prints, and has no logic of its own."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _Commands(TyperGroup):
    """Commands whose errors are one line, not a traceback; what is no user's error keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head` has read enough
            raise
        except (ValueError, TypeError, OSError, ImportError) as exc:
            typer.secho(f"Error: {exc}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from exc


app = typer.Typer(
    cls=_Commands,
    help="Classify single blood cell images across laboratories. For research only, not for diagnosis.",
    epilog="Exit codes: 0 done; 1 an error, told in one line that starts with 'Error:'; 2 no such command or option; "
    "130 stopped by Ctrl-C.",
    rich_markup_mode="markdown" if sys.stdout.isatty() else None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for scores.csv and report.html; made if need be.")]
Backbone = Annotated[str, typer.Option(help="vit_tiny (packaged), vit_b, vit_l, vit_h, a Hub repo id or a file.")]
Adapter = Annotated[str | None, typer.Option(help="Adapter folder, Hub repo id, or published .pth.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of the autoencoder; default by its architecture.")]
Architecture = Annotated[str, typer.Option(help="Of the autoencoder: auto, vector, conv or masked.")]
Preset = Annotated[str | None, typer.Option(help="A paper's settings of the autoencoder: bc-sam or dorl.")]
Folds = Annotated[int, typer.Option("--cv", min=2, help="Folds in the training laboratory.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Root = Annotated[Path | None, typer.Option(help="Folder that a CSV's paths may not leave; default the CSV's own.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or a torch device name.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@app.command()
def demo(
    out: Out = Path("demo"),
    cells_per_class: Annotated[int, typer.Option(min=5, help="Cells per class and laboratory.")] = 24,
    architecture: Architecture = "auto",
    preset: Preset = None,
    epochs: Epochs = None,
    cv: Folds = 5,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Draw two synthetic laboratories and run the whole line on them, offline.

    Example: sam-bloodcell demo --out demo
    """
    from ..datasets import make_blood_cells, save_cells

    table = save_cells(make_blood_cells(cells_per_class, random_state=seed), out / "cells")
    benchmark(table, out=out, architecture=architecture, preset=preset, epochs=epochs, cv=cv, seed=seed, quiet=quiet)


@app.command()
def benchmark(
    cells: Annotated[Path, typer.Argument(help="CSV (path, domain, label, mask) or folder of domain/label/image.")],
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
    cache_dir: Annotated[
        Path | None, typer.Option(help="Keep embeddings here; a killed run goes on from them.")
    ] = None,
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
    _known(on_error, "raise", "skip")
    data = load_cells(cells, classes=classes.split(",") if classes else None, root=root)
    if on_error == "skip":
        data = drop_unreadable(data)
    for label, count in data.dropped.items():
        typer.echo(f"left out: {count} cells of class {label}")
    result = run_benchmark(
        data,
        SAMLoRAEmbedder(backbone, adapter, cache_dir=cache_dir, random_state=seed, verbose=verbose),
        CrossDomainAutoencoder(
            architecture=architecture, preset=preset, epochs=epochs or "auto", random_state=seed, verbose=verbose
        ),
        cv=cv,
        random_state=seed,
        verbose=verbose,
    )
    make_folder(out)
    write_text(out / "scores.csv", result.scores.to_csv(index=False))
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


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="bc-sam or dorl.")],
    matek: Annotated[Path, typer.Option(help="Folder of Matek-19 (AML-Cytomorphology_LMU).")],
    acevedo: Annotated[Path, typer.Option(help="Folder of Acevedo-20 (PBC_dataset_normal_DIB).")],
    out: Out = Path("out"),
    backbone: Backbone = "vit_b",
    adapter: Adapter = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Cells of a class and laboratory, for a trial.")] = None,
    epochs: Epochs = None,
    cv: Folds = 5,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Run a paper's table from folders of its two datasets, and print our numbers beside the published ones.

    Example: sam-bloodcell reproduce bc-sam --matek AML --acevedo PBC --adapter published.pth
    """
    from ..files import make_folder, write_text
    from ..report.page import write_report
    from ..reproduce import reproduce

    table, result = reproduce(
        paper, matek, acevedo, backbone=backbone, adapter=adapter, limit=limit, epochs=epochs, cv=cv,
        random_state=seed, verbose=0 if quiet else 1,
    )  # fmt: skip
    make_folder(out)
    write_text(out / f"{paper}.csv", table.round(2).to_csv(index=False))
    report = write_report(result, out / "report.html", title=f"{paper}, reproduced", figures=out / "figures")
    typer.echo("Accuracy in percent, mean and standard deviation over folds, beside the published one:")
    typer.echo(table.round(2).to_string(index=False))
    means = table.groupby("classifier", sort=False)[["ours", "published"]].mean().round(2)
    typer.echo(f"\nAverages over the four:\n{means.to_string()}\n\n{out / f'{paper}.csv'}\n{report}")


@app.command()
def embed(
    images: Annotated[list[Path], typer.Argument(help="Image files, folders, or CSV tables with a column path.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .npz, .zarr or .h5ad.")] = Path("cells.parquet"),
    backbone: Backbone = "vit_tiny",
    adapter: Adapter = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels at which the encoder sees an image.")] = 224,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in a forward pass; default by memory.")] = None,
    n_jobs: Annotated[int | None, typer.Option(help="Processes; default one that uses all cores.")] = None,
    on_error: Annotated[str, typer.Option(help="Unreadable images: raise, or skip and list them in a CSV.")] = "raise",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
    root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Embed any number of images into one file; after a kill, the same command goes on where it was.

    Example: sam-bloodcell embed slides/ --out cells.parquet --on-error skip
    """
    from ..bulk import embed_to_file, find_images
    from ..embedding.embedder import SAMLoRAEmbedder

    table = find_images(images, root=root)
    embedder = SAMLoRAEmbedder(
        backbone, adapter, image_size=image_size, device=device, batch_size=batch_size or "auto", n_jobs=n_jobs,
        verbose=0 if quiet else 1,
    )  # fmt: skip
    written = embed_to_file(embedder.fit(table["path"]), table, out, on_error=on_error, overwrite=overwrite)
    typer.echo(written)


@app.command()
def finetune(
    cells: Annotated[Path, typer.Argument(help="CSV (path, domain, label, mask) or folder of domain/label/image.")],
    out: Annotated[Path, typer.Option(help="Adapter folder to write; made if need be.")] = Path("adapter"),
    masks: Annotated[str, typer.Option(help="given: the cells' own; auto: made from the stain.")] = "given",
    backbone: Backbone = "vit_tiny",
    adapter: Adapter = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA factors.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="At most; training stops when it gets no better.")] = 150,
    image_size: Annotated[int, typer.Option(help="Side in pixels at which the encoder sees an image.")] = 224,
    device: Device = "auto",
    seed: Seed = 0,
    root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Adapt the encoder to your cells by LoRA, from their masks; after a kill, the same command goes on.

    Example: sam-bloodcell finetune cells.csv --out adapter
    """
    from ..datasets import keep_masked, load_cells
    from ..embedding.embedder import SAMLoRAEmbedder
    from ..files import make_folder, remove, write_text

    _known(masks, "given", "auto")
    data = load_cells(cells, root=root)
    if masks == "given":
        data = keep_masked(data)
    checkpoint = make_folder(out) / "unfinished.pt"
    embedder = SAMLoRAEmbedder(
        backbone, adapter, lora_rank=lora_rank, epochs=epochs, image_size=image_size, device=device,
        checkpoint=checkpoint, random_state=seed, verbose=0 if quiet else 1,
    ).fit(data.paths, masks=data.masks if masks == "given" else "auto")  # fmt: skip
    best = float(embedder.history_["dice"].max())
    embedder.save_pretrained(out, metrics={"Dice on the cells set aside": round(best, 4)})
    write_text(out / "history.csv", embedder.history_.to_csv(index=False))
    remove(checkpoint)
    typer.echo(f"Dice {best:.3f} on the cells set aside; the weights of epoch {embedder.best_epoch_} are kept.\n{out}")


cache = typer.Typer(help="Look after a folder that was given as cache_dir.", no_args_is_help=True)
app.add_typer(cache, name="cache")
CacheDir = Annotated[Path, typer.Argument(help="The folder that was given as cache_dir.", exists=True, file_okay=False)]


@cache.command()
def info(folder: CacheDir) -> None:
    """Show what is cached: cells, bytes and last use, by weights and settings.

    Example: sam-bloodcell cache info cache
    """
    from ..embedding.cache import DiskStore

    table = DiskStore(folder).info()
    typer.echo(table.to_string(index=False) if len(table) else "The cache is empty.")


@cache.command()
def prune(
    folder: CacheDir,
    to: Annotated[str, typer.Option(help="What may stay: bytes, or as 20GB; 0 empties it.")],
) -> None:
    """Delete the embeddings used longest ago.

    Example: sam-bloodcell cache prune cache --to 20GB
    """
    from ..embedding.cache import DiskStore

    freed = DiskStore(folder).prune(to)
    typer.echo(f"{freed / 1e6:.1f} MB freed.")


@app.command()
def doctor() -> None:
    """Tell what works on this machine, and what to do about the rest.

    Example: sam-bloodcell doctor
    """
    from .doctor import examine

    for finding in examine():
        typer.echo(f"{finding.what:22} {finding.found}")
        if finding.fix:
            typer.secho(f"{'':22} -> {finding.fix}", fg=typer.colors.YELLOW)


@app.command()
def download(
    backbone: Annotated[str, typer.Argument(help="vit_b, vit_l, vit_h or a Hub repo id.")] = "vit_b",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch; default the pinned one.")] = None,
) -> None:
    """Fetch a backbone from the Hugging Face Hub into its cache, for later offline use.

    Example: sam-bloodcell download vit_b
    """
    from ..weights import hub

    typer.echo(hub.locate_backbone(hub.Backbone(backbone, revision)))


@app.command()
def convert(
    published: Annotated[Path, typer.Argument(help="The .pth that the papers' published code saved.")],
    folder: Annotated[Path, typer.Argument(help="Adapter folder to write; made if need be.")],
    backbone: Backbone = "vit_b",
    image_size: Annotated[int, typer.Option(help="Side in pixels that it was trained at.")] = 224,
    mean: Annotated[str | None, typer.Option(help="R,G,B of its training pixels; default the published run's.")] = None,
    std: Annotated[str | None, typer.Option(help="R,G,B of its training pixels; default the published run's.")] = None,
) -> None:
    """Turn an adapter of the papers' published code into an adapter folder.

    Example: sam-bloodcell convert published.pth adapter --backbone vit_b
    """
    from ..weights import hub
    from ..weights.published import PUBLISHED_PIXEL_STATS, read_published_adapter

    default_mean, default_std = PUBLISHED_PIXEL_STATS
    stats = (_rgb(mean) if mean else default_mean, _rgb(std) if std else default_std)
    adapter = read_published_adapter(published, backbone=backbone, image_size=image_size, pixel_stats=stats)
    typer.echo(hub.write_adapter(adapter, folder, hub.Backbone(backbone)))


@app.callback()
def _setup() -> None:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        typer.secho(f"Warning: {message}", err=True, fg=typer.colors.YELLOW)

    warnings.showwarning = show


def _known(value: str, *expected: str) -> None:
    if value not in expected:
        raise ValueError(f"Got {value!r} but expected one of {', '.join(expected)}.")


def _rgb(text: str) -> tuple[float, ...]:
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"Got {text!r} but expected three numbers. Fix: write them as 215.03,187.76,200.47.") from None
    return red, green, blue
