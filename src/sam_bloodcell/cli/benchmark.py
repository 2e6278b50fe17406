"""`sam-bloodcell benchmark`."""

import json
import shutil
import textwrap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import (
    Adapter,
    Architecture,
    Backbones,
    BatchSize,
    CacheDir,
    Cells,
    Classes,
    Device,
    Epochs,
    Folds,
    Jobs,
    OnError,
    Out,
    Pooling,
    Preset,
    Quiet,
    Root,
    Seed,
    split_names,
    tell_cells,
)

if TYPE_CHECKING:
    import pandas as pd

    from ..evaluation import BenchmarkResult

# Files that are written next to the report, and their content.
TABLES = {
    "benchmark_predictions.csv": "every answer of the recommended classifier",
    "recall_by_class.csv": "recall of each class by classifier and pair of laboratories",
    "scores.csv": "scores by classifier, pair of laboratories and fold",
    "intervals.csv": "mean scores across laboratories with 95% intervals",
    "encoders.csv": "scores of the encoders, and their differences to the first",
    "label_curve.csv": "scores in a new laboratory by number of its labelled cells",
    "provenance.json": "settings, versions and digests",
}
_MOST_ROWS = 6  # of a table on the terminal


def benchmark(
    cells: Cells,
    out: Out = Path("out"),
    classes: Classes = None,
    backbone: Backbones = ["vit_tiny"],  # noqa: B006
    adapter: Adapter = None,
    pooling: Pooling = None,
    architecture: Architecture = "auto",
    preset: Preset = None,
    epochs: Epochs = None,
    cv: Folds = 5,
    seed: Seed = 0,
    root: Root = None,
    on_error: OnError = "raise",
    cache_dir: CacheDir = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    n_jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Train in each laboratory, test in every laboratory, and write tables and a report with advice.

    Example: sam-bloodcell benchmark cells.csv --classes lymphocyte,monocyte --out out
    """
    from sklearn.base import clone

    from ..alignment.autoencoder import CrossDomainAutoencoder
    from ..alignment.settings import parts_to_keep
    from ..datasets import drop_unreadable, load_cells
    from ..embedding.choice import embedder_params, make_embedder
    from ..embedding.saving import BLANK
    from ..evaluation import compare_encoders, run_benchmark
    from ..evaluation.encoders import settings_of_encoders
    from ..files import check_outside
    from ..report.page import write_report

    verbose = 0 if quiet else 1
    data = load_cells(cells, classes=split_names(classes), root=root)
    check_outside(out, cells)
    prepare_folder(out, *TABLES, "model/pipeline.skops")
    if on_error == "skip":
        data = drop_unreadable(data)
    tell_cells(data)
    for label, count in data.dropped.items():
        typer.echo(f"left out: {count} cells of class {label}")
    options: dict[str, Any] = {
        "cache_dir": cache_dir, "device": device, "batch_size": batch_size or "auto", "n_jobs": n_jobs,
        "verbose": verbose,
    }  # fmt: skip
    check_encoders(backbone, adapter, data.domain)
    keep = parts_to_keep(architecture, preset)
    embedders = {name: make_embedder(name, adapter, pooling=pooling, keep=keep, **options) for name in backbone}
    autoencoder = CrossDomainAutoencoder(
        architecture=architecture, preset=preset, epochs=epochs or "auto", device=device, random_state=seed,
        verbose=verbose,
    )  # fmt: skip
    check_epochs(epochs, autoencoder)
    for each in embedders.values() if len(embedders) > 1 else ():
        each.fit(BLANK)  # raises now if weights are missing, before hours of work
    run: dict[str, Any] = {"cv": cv, "random_state": seed, "n_jobs": n_jobs, "verbose": verbose}
    results = {name: run_benchmark(data, each, clone(autoencoder), **run) for name, each in embedders.items()}
    result = results[backbone[0]]
    if len(results) > 1:
        encoders = compare_encoders(results, random_state=seed)
        result = replace(result, encoders=encoders, settings=settings_of_encoders(results))
    write_tables(result, out)
    write_report(result, out / "report.html", figures=out / "figures")
    print_headlines(result)
    print_encoders(result)
    print_findings(result)
    params = embedder_params(backbone[0], adapter, pooling=pooling)
    write_model(result, data, autoencoder, out / "model", random_state=seed, **params, **options)
    print_files(out)


def check_encoders(names: list[str], adapter: str | None, domain: Any) -> None:
    """Raise if several encoders cannot be compared on these cells."""
    if len(set(names)) < len(names):
        got = " ".join(f"--backbone {name}" for name in names)
        raise ValueError(f"Got {got} but expected different encoders. Fix: name each one once.")
    if len(names) > 1 and adapter is not None:
        raise ValueError("Got --adapter and several --backbone. Fix: leave --adapter out, or compare one at a time.")
    if len(names) > 1 and len(set(domain)) < 2:
        got = "Got several --backbone and one laboratory, but encoders are compared between laboratories."
        raise ValueError(f"{got} Fix: add the cells of another laboratory.")


def check_epochs(epochs: int | None, autoencoder: Any) -> None:
    """Raise if the parameters of the autoencoder do not fit each other, or epochs have no effect on it."""
    from ..alignment.settings import resolve_settings

    autoencoder._validate_params()
    settings = resolve_settings(autoencoder.get_params())  # raises if the architecture does not fit the preset
    if epochs and settings.architecture == "linear":
        got = f"Got --epochs {epochs} but the linear autoencoder is solved at once, without epochs."
        raise ValueError(f"{got} Fix: leave --epochs out, or choose --architecture vector.")


def prepare_folder(out: Path, *names: str) -> None:
    """Make the output folder, and raise now, before hours of work, if these files or the report cannot be written."""
    from ..files import check_writable, make_folder
    from ..report.page import prepare_report

    prepare_report(out / "report.html", out / "figures")
    for name in names:
        make_folder((out / name).parent)
        check_writable(out / name)


def write_tables(result: "BenchmarkResult", out: Path) -> None:
    """Write a benchmark's tables; this comes before the pictures, which may fail."""
    from ..evaluation import per_class_recall
    from ..evaluation.verdict import recommended_predictions
    from ..files import remove, write_text
    from ..report.page import printable

    tables = {
        "scores.csv": result.scores,
        "intervals.csv": result.intervals,
        "recall_by_class.csv": per_class_recall(result.predictions),
        "benchmark_predictions.csv": recommended_predictions(result),
        "encoders.csv": result.encoders if len(result.encoders) else None,
        "label_curve.csv": result.label_curve if len(result.label_curve) else None,
    }
    for name, table in tables.items():
        if table is not None:
            write_text(out / name, printable(table.to_csv(index=False)))
        else:
            remove(out / name)  # left by an earlier run
    write_text(out / "provenance.json", json.dumps(result.settings, indent=2))


def write_model(result: "BenchmarkResult", cells: Any, autoencoder: Any, folder: Path, **options: Any) -> None:
    """Fit the recommended classifier on all cells and save it; if there is none, remove that of an earlier run."""
    from ..classification.recommended import fit_recommended
    from ..files import remove

    model = fit_recommended(result, cells, autoencoder, **options)
    if model is not None:
        classes = ", ".join(map(str, model.classes_))
        model.save_pretrained(folder, data=f"{len(model.training_paths_)} cells of the classes {classes}")
        return
    for name in ("pipeline.skops", "README.md"):
        remove(folder / name)
    with suppress(OSError):  # not empty: it holds something else
        folder.rmdir()


def print_headlines(result: "BenchmarkResult") -> None:
    """Print the best mean scores and chance, the lowest recalls of classes, and the distance between laboratories."""
    pairs = result.scores[["train_domain", "test_domain"]].nunique()
    where = "all pairs of different laboratories" if pairs.max() > 1 else "the folds of the one laboratory"
    typer.echo(f"\nMean scores over {where}; low and high are the 95% interval of the balanced accuracy.")
    typer.echo("Chance (balanced accuracy) and majority (accuracy) are the scores of always answering one class:")
    best = result.headlines.sort_values("balanced_accuracy", ascending=False, kind="stable")
    _print_rows(best, "intervals.csv" if result.intervals is not None else "scores.csv")
    typer.echo(f"\nRecall of each class by the best classifier, as a mean over {where}:")
    recall = result.recall[result.recall["features"].isin(best["features"].head(1))]
    _print_rows(recall.sort_values("recall", kind="stable"), "recall_by_class.csv")
    if len(result.shift):
        typer.echo("\nDistance between laboratories (if they do not differ, mmd is near 0 and accuracy near chance):")
        typer.echo(result.shift.round(3).to_string())


def print_encoders(result: "BenchmarkResult") -> None:
    """Print the comparison of several encoders, if there is one."""
    if len(result.encoders):
        typer.echo("\nEncoders, with the difference of each to the first, its 95% interval and its p-value (Holm):")
        typer.echo(result.encoders.round(3).to_string(index=False))


def print_findings(result: "BenchmarkResult") -> None:
    """Print in words how good the recommended classifier is, and what to do next."""
    from ..evaluation.findings import advice
    from ..evaluation.verdict import verdict_lines

    told = [("\nVerdict", verdict_lines(result)), ("\nWhat to do", [one.text for one in advice(result)])]
    width = min(shutil.get_terminal_size().columns, 100)
    for title, texts in told:
        if texts:
            typer.echo(title)
        for text in texts:
            typer.echo(textwrap.fill(text, width, initial_indent="- ", subsequent_indent="  ", break_long_words=False))


def print_files(out: Path) -> None:
    """Print the files that were written, and their content."""
    files = {
        "report.html": "all results with pictures, to open in a browser",
        "figures": "the report's pictures",
        "model": "the recommended classifier, trained on all cells, for 'sam-bloodcell predict'",
        **TABLES,
    }
    written = {str(out / name): what for name, what in files.items() if (out / name).exists()}
    typer.echo("\nFiles")
    for path, what in written.items():
        typer.echo(f"{path:<{max(map(len, written))}}  {what}")


def _print_rows(table: "pd.DataFrame", file: str) -> None:
    """Print the first rows of a table, and the file that has all of them."""
    typer.echo(table.head(_MOST_ROWS).round(3).to_string(index=False))
    if len(table) > _MOST_ROWS:
        typer.echo(f"({len(table) - _MOST_ROWS} more in {file})")
