"""Arguments and options that several commands share."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Cells = Annotated[Path, typer.Argument(help="CSV (path, domain, label, mask) or folder of domain/label/image.")]
Out = Annotated[Path, typer.Option(help="Folder for scores.csv and report.html; made if need be.")]
Backbone = Annotated[str, typer.Option(help="vit_tiny (packaged), vit_b, vit_l, vit_h, a Hub repo id or a file.")]
Adapter = Annotated[str | None, typer.Option(help="Adapter folder, Hub repo id, or published .pth.")]
ImageSize = Annotated[int, typer.Option(help="Side in pixels at which the encoder sees an image.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of the autoencoder; default by its architecture.")]
Architecture = Annotated[str, typer.Option(help="Of the autoencoder: auto, vector, conv or masked.")]
Preset = Annotated[str | None, typer.Option(help="A paper's settings of the autoencoder: bc-sam or dorl.")]
Folds = Annotated[int, typer.Option("--cv", min=2, help="Folds in the training laboratory.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Root = Annotated[Path | None, typer.Option(help="Folder that a CSV's paths may not leave; default the CSV's own.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or a torch device name.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images in a forward pass; default by memory.")]
Jobs = Annotated[int | None, typer.Option("--n-jobs", help="Processes; default one that uses all cores.")]
CacheDir = Annotated[Path | None, typer.Option(help="Folder for embeddings; a killed run reuses them.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


def check_choice(value: str, *choices: str) -> None:
    """Raise a ValueError if a value is none of the choices."""
    if value not in choices:
        raise ValueError(f"Got {value!r} but expected one of {', '.join(choices)}.")


def tell_cells(cells: Any) -> None:
    """Print what `load_cells` took, by laboratory and class, and what it left out; on the standard error."""
    counts = Counter(zip(cells.domain.tolist(), cells.target.tolist(), strict=True))
    for domain in sorted(set(cells.domain.tolist())):
        numbers = {name: counts[domain, code] for code, name in enumerate(cells.target_names)}
        named = ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
        typer.echo(f"{domain}: {sum(numbers.values())} cells ({named})", err=True)
    if cells.left_out:
        tell_left_out("of the folder", cells.left_out)


def tell_left_out(taken: str, account: Mapping[tuple[str, str], int]) -> None:
    """Print what was taken and what was left out, by kind and folder; on the standard error."""
    from ..images.listing import describe

    typer.echo(f"{taken}; not taken: {describe(account) or 'nothing'}", err=True)
