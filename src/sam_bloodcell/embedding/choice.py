"""Choice of the embedder for a backbone: `SAMLoRAEmbedder` or `ViTEmbedder`."""

import os
from typing import Any

from ..weights.vits import is_vit
from .base import CellEmbedder
from .embedder import SAMLoRAEmbedder
from .vit_embedder import ViTEmbedder


def make_embedder(
    backbone: str | os.PathLike, adapter: str | os.PathLike | None = None, *, image_size: int | None = None,
    pooling: str | None = None, **params: Any,
) -> CellEmbedder:  # fmt: skip
    """Return an unfitted `SAMLoRAEmbedder`, or a `ViTEmbedder` if the backbone cannot find cells itself.

    Parameters
    ----------
    backbone : str or path
        Backbone of the embedder. A file on the Hub is downloaded, if it is missing, to find out what it contains.
    adapter : str or path, optional
        For a plain ViT, a folder or repo with the adapter that finds the cells.
    image_size : int, optional
        Side in pixels to which the encoder resizes an image. By default, the embedder's default.
    pooling : str, optional
        Features of a cell. By default, the embedder's default.
    **params
        Parameters that both embedders have.
    """
    own = {"image_size": image_size, "pooling": pooling}
    params |= {name: value for name, value in own.items() if value is not None}
    if not is_vit(os.fspath(backbone), with_adapter=adapter is not None):
        return SAMLoRAEmbedder(backbone, adapter, **params)
    if adapter is None:
        return ViTEmbedder(backbone, **params)
    segmenter = SAMLoRAEmbedder.from_pretrained(adapter, device=params.get("device", "auto"))
    return ViTEmbedder(backbone, segmenter, **params)


def embedder_params(
    backbone: str | os.PathLike, adapter: str | os.PathLike | None = None, *, pooling: str | None = None
) -> dict[str, Any]:
    """Return the parameters of a `CellClassifier` that give it the embedder of `make_embedder`."""
    embedder = make_embedder(backbone, adapter, pooling=pooling)
    if isinstance(embedder, SAMLoRAEmbedder) and pooling is None:
        return {"backbone": backbone, "adapter": adapter}
    return {"embedder": embedder}
