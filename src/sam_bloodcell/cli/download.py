"""`sam-bloodcell download`."""

from typing import Annotated

import typer


def download(
    backbone: Annotated[str, typer.Argument(help="vit_b (the default), vit_l, vit_h or a Hub repo id.")] = "vit_b",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch (default: the pinned commit).")] = None,
) -> None:
    """Download a backbone into the Hugging Face cache, for later offline use.

    Example: sam-bloodcell download vit_b
    """
    from ..weights.backbones import Backbone, locate_backbone

    typer.echo(locate_backbone(Backbone(backbone, revision)))
