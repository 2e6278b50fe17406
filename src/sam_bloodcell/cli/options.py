"""Arguments and options that several commands share."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

# The choices of an option are types, so that the help lists them and any other value is a usage error.
Architectures = Literal["auto", "linear", "vector", "conv", "masked"]
Presets = Literal["bc-sam", "dorl"]
OnErrors = Literal["raise", "skip"]
Poolings = Literal["mask", "mask+texture", "mask+measures", "cls", "both"]


def _not_zero(number: int | None) -> int | None:
    if number == 0:
        raise typer.BadParameter("Got 0 processes but expected 1 or more, or -1 for one per core. Fix: --n-jobs 1.")
    return number


Cells = Annotated[
    Path,
    typer.Argument(help="CSV (path, domain, label, and optionally mask and group) or folder of domain/label/image."),
]
Out = Annotated[Path, typer.Option(help="Folder for the report and the tables; created if it is missing.")]
Backbone = Annotated[
    str,
    typer.Option(
        help="vit_tiny (packaged, the default), vit_b, vit_l, vit_h, or a Hugging Face repo id or file of Segment "
        "Anything or of a plain ViT, such as MarrLab/DinoBloom/pytorch_model_s.bin."
    ),
]
SAMBackbone = Annotated[
    str,
    typer.Option(help="vit_tiny (packaged, the default), vit_b, vit_l, vit_h, a Hugging Face repo id or a file."),
]
Backbones = Annotated[
    list[str],
    typer.Option(
        "--backbone",
        help="vit_tiny (packaged, the default), or any backbone of train. Repeat the option to compare encoders.",
    ),
]
PapersBackbone = Annotated[
    str,
    typer.Option(help="vit_b (the papers', from the Hugging Face Hub, the default), vit_l, vit_h or vit_tiny."),
]
Adapter = Annotated[str | None, typer.Option(help="Adapter folder, Hugging Face repo id, or published .pth.")]
ImageSize = Annotated[int, typer.Option(help="Side in pixels to which the encoder resizes an image.")]
OwnImageSize = Annotated[
    int | None,
    typer.Option(help="Side in pixels to which the encoder resizes an image (default: 224, or that of the weights)."),
]
Pooling = Annotated[
    Poolings | None,
    typer.Option(
        help="Features of a cell (default: that of the encoder). Segment Anything: mask, mask+texture or "
        "mask+measures. Plain ViT: mask, cls or both."
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of epochs of the autoencoder, unless it is linear (default: that of the architecture or preset).",
    ),
]
Architecture = Annotated[Architectures, typer.Option(help="Architecture of the autoencoder.")]
Preset = Annotated[
    Presets | None, typer.Option(help="Paper whose network and settings the autoencoder uses (default: none).")
]
OnError = Annotated[OnErrors, typer.Option(help="Unreadable images: stop with an error, or skip them with a warning.")]
Folds = Annotated[int, typer.Option("--cv", min=2, help="Number of folds in the training laboratory.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.")]
Root = Annotated[Path | None, typer.Option(help="Folder that must contain all paths of a CSV (default: its own).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or a torch device name.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images per forward pass (default: by memory).")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--n-jobs",
        callback=_not_zero,
        help="Number of processes; -1 starts one per core (default: one process that uses all cores).",
    ),
]
CacheDir = Annotated[Path | None, typer.Option(help="Folder that caches embeddings for later runs.")]
Classes = Annotated[str | None, typer.Option(help="Labels to keep, separated by commas (default: all).")]
Images = Annotated[list[Path], typer.Argument(help="Image files, folders, or CSV tables with a column path.")]
Model = Annotated[str, typer.Argument(help="Folder that train or benchmark wrote, or a Hugging Face repo id.")]
Trusted = Annotated[
    list[str] | None, typer.Option(help="A type that the model's file may contain, besides the usual ones. Repeatable.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Hide progress bars.")]


def split_names(text: str | None) -> list[str] | None:
    """Return the names in a comma-separated list, without the spaces around them; None if there is no list."""
    return [name for part in text.split(",") if (name := part.strip())] if text else None


def tell_cells(cells: Any) -> None:
    """Print the cells of `load_cells` by laboratory and class, and what it left out, to standard error."""
    counts = Counter(zip(cells.domain.tolist(), cells.target.tolist(), strict=True))
    for domain in sorted(set(cells.domain.tolist())):
        numbers = {name: counts[domain, code] for code, name in enumerate(cells.target_names)}
        named = ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
        typer.echo(f"{domain}: {sum(numbers.values())} cells ({named})", err=True)
    if cells.left_out:
        tell_left_out("of the folder", cells.left_out)


def tell_left_out(taken: str, account: Mapping[tuple[str, str], int]) -> None:
    """Print what was read and what was left out, by kind and folder, to standard error."""
    from ..images.listing import describe

    typer.echo(f"{taken}; not read: {describe(account) or 'nothing'}", err=True)
