"""`sam-bloodcell cache info` and `sam-bloodcell cache prune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..embedding.store import EmbeddingStore

Folder = Annotated[Path, typer.Argument(help="The folder that was given as --cache-dir.", exists=True, file_okay=False)]

cache = typer.Typer(help="Inspect or shrink a folder that was given as --cache-dir.", no_args_is_help=True)


@cache.command()
def info(folder: Folder) -> None:
    """Show what is cached: cells, bytes and last use, by weights and settings.

    Example: sam-bloodcell cache info cache
    """
    table = _open(folder).info()
    typer.echo(table.to_string(index=False) if len(table) else "The cache is empty.")


@cache.command()
def prune(
    folder: Folder, to: Annotated[str, typer.Option(help="Size to keep, in bytes or as 20GB; 0 empties the cache.")]
) -> None:
    """Delete the least recently used embeddings.

    Example: sam-bloodcell cache prune cache --to 20GB
    """
    freed = _open(folder).prune(to)
    typer.echo(f"{freed / 1e6:.1f} MB freed.")


def _open(folder: Path) -> "EmbeddingStore":
    """Open the cache in a folder, or raise if the folder does not contain one."""
    from ..embedding.store import EmbeddingStore

    if not EmbeddingStore.is_in(folder):
        raise ValueError(f"'{folder}' does not contain a cache. Fix: name the folder that was given as --cache-dir.")
    return EmbeddingStore(folder)
