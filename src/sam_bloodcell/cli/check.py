"""`sam-bloodcell check`."""

import shutil
import textwrap
from typing import TYPE_CHECKING

import typer

from .options import Cells, Folds, Quiet, Root

if TYPE_CHECKING:
    import pandas as pd

    from ..datasets import CellsExamination

_SHOWN, _SHOWN_COPIES = 10, 3  # files of a kind, and copies of one image, that are named


def check(ctx: typer.Context, cells: Cells, cv: Folds = 5, root: Root = None, quiet: Quiet = False) -> None:
    """Examine cells before a benchmark, in seconds.

    It shows counts by laboratory and class, unreadable files, copies, sizes, colours, patients, and classes with too
    few cells. It embeds nothing. Exit code 0 means that a benchmark can run. Exit code 1 means that it cannot, and the
    problems are listed.

    Example: sam-bloodcell check cells
    """
    from ..datasets import examine_cells
    from .wording import in_options, option_names

    found = examine_cells(cells, cv=cv, root=root, verbose=0 if quiet else 1)
    print_tables(found)
    options = option_names(ctx.command.params) | {"on_error": "--on-error"}  # of the benchmark
    for title, stops in (("Problems", True), ("Good to know", False)):
        texts = [in_options(finding.text, options) for finding in found.findings if finding.stops == stops]
        if texts:
            typer.echo(f"\n{title}:")
            typer.echo("\n".join(map(_as_item, texts)))
    n = len(found.problems)
    if n:
        typer.echo(f"\nNot ready: {n} problem{'s have' if n > 1 else ' has'} to be solved first.")
        raise typer.Exit(1)
    typer.echo("\nReady for benchmark and train.")


def print_tables(found: "CellsExamination") -> None:
    """Print the counts by laboratory, the files that cannot be read, and the copies."""
    if len(found.counts):
        counts = found.counts.assign(all=found.counts.sum(axis=1))
        typer.echo("Cells by laboratory and class:")
        _print(counts.T if counts.shape[1] > len(counts) else counts)
    typer.echo("\nImages by laboratory (sizes in pixels, mean colours from 0 to 255):")
    _print(_shortened(found.images))
    if found.patients is not None:
        typer.echo("\nPatients by laboratory (shared: also in another one):")
        _print(found.patients)
    if len(found.unreadable):
        typer.echo(f"\nImages that cannot be read: {len(found.unreadable)}")
        _print_some(found.unreadable["reason"].tolist())
    if len(found.copies):
        sets = found.copies.groupby("copy")["path"].agg(_as_equation)
        typer.echo(f"\nImages with the same pixels: {len(found.copies)} in {len(sets)} set{'s' * (len(sets) > 1)}")
        _print_some(sets.tolist())


def _shortened(images: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table of images with each range of sizes and each colour in one column."""
    short = images[["readable"]].copy()
    for side in ("width", "height"):
        low, high = images[f"{side}_min"].astype(str), images[f"{side}_max"].astype(str)
        short[side] = low.where(low == high, low + "-" + high)
    colours = images[["red", "green", "blue"]].round().astype("Int64").astype(str)
    names = {"grey": "grey", "alpha": "alpha", "deep": ">8 bits"}
    return short.join(images[list(names)].rename(columns=names)).assign(colour=colours.agg("/".join, axis=1))


def _as_equation(paths: "pd.Series") -> str:
    """Write the paths of one set of copies; of a large set, write the first ones and the number of the others."""
    more = f" and {len(paths) - _SHOWN_COPIES} more" if len(paths) > _SHOWN_COPIES else ""
    return " = ".join(paths[:_SHOWN_COPIES]) + more


def _as_item(text: str) -> str:
    lines = textwrap.TextWrapper(min(_width(), 100), initial_indent="- ", subsequent_indent="  ")
    lines.break_long_words = lines.break_on_hyphens = False  # do not break paths
    return lines.fill(text)


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _print(table: "pd.DataFrame") -> None:
    typer.echo(table.to_string(line_width=_width()))


def _print_some(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        typer.echo(f"  {line}")
    if len(lines) > _SHOWN:
        typer.echo(f"  and {len(lines) - _SHOWN} more")
