"""Features from a plain ViT or from a user's function; SAM then only finds the cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.isolation import own_settings
from ..models.sam import PixelStats
from ..models.sam_tokens import AnyViT
from ..segmentation.cell import GREY, cell_crop, pool_tokens
from .network import ViTSpec, halved_if_too_large, load_vit_network, run_vit


@dataclass(frozen=True)
class ViTFeatures:
    """Tokens of a plain ViT: their mean over the cell ("mask"), the CLS token ("cls"), or both, the CLS token first."""

    network: ViTSpec
    view_size: int
    pixel_stats: PixelStats
    pooling: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Return the part of the recipe's digest; it leaves out the device, as the digest does."""
        n = self.network
        return ("vit", n.backbone.digest, n.dtype, self.view_size, self.pixel_stats, self.pooling)

    @property
    def token_share(self) -> int:
        """Return the length of an embedding, as a multiple of the length of a token."""
        return 2 if self.pooling == "both" else 1

    def describe(self) -> dict[str, Any]:
        """Return the settings that `EmbeddingStore.info` shows."""
        name, dtype = self.network.backbone.name, self.network.dtype
        return {"backbone": name, "image_size": self.view_size, "dtype": dtype, "pooling": self.pooling}

    @own_settings()
    def load(self) -> AnyViT:
        """Return the network, which is loaded unless it is in memory."""
        return load_vit_network(self.network)

    def activation_bytes(self) -> int:
        """Return the bytes of the widest activation of one image, which is inside an MLP."""
        vit = self.load()
        layout = vit.layout
        widest = layout.hidden * (2 if layout.swiglu else 1)
        return (self.view_size // layout.patch) ** 2 * widest * next(vit.parameters()).element_size()

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Return the length of an embedding, and the shape of a token map (C, h, w)."""
        layout = self.load().layout
        grid = self.view_size // layout.patch
        return self.token_share * layout.width, (layout.width, grid, grid)

    def embed(self, views: NDArray, pixels: NDArray, masks: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
        """Return the embeddings (B, D) and the token maps (B, C, h, w) of square images (B, V, V, 3)."""
        vit = self.load()
        cls, tokens = halved_if_too_large(lambda part: run_vit(vit, self.pixel_stats, part), views)
        if self.pooling == "cls":
            return cls, tokens
        pooled = pool_tokens(tokens, masks)
        return (pooled if self.pooling == "mask" else np.concatenate([cls, pooled], axis=1)), tokens


@dataclass(frozen=True)
class FunctionFeatures:
    """Vectors that a user's function returns for the cells.

    In the digest of a recipe, `name` stands for the function. If `background` is true, the function gets square images,
    and otherwise the cells on grey. `width` is the length of its vectors.
    """

    function: Callable[[NDArray[np.uint8]], Any] = field(compare=False)
    name: str
    size: int
    background: bool
    width: int | None = None

    token_share = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """Return the part of the recipe's digest: the name and the settings, because a function has no digest."""
        return ("function", self.name, self.size, self.background, self.width)

    @property
    def view_size(self) -> int | None:
        """Return the side in pixels of the square images, or None if the function gets crops of the cells."""
        return self.size if self.background else None

    def describe(self) -> dict[str, Any]:
        """Return the settings that `EmbeddingStore.info` shows."""
        return {"backbone": self.name, "image_size": self.size, "background": self.background}

    def activation_bytes(self) -> int:
        """Return 0, because the activations of a function are unknown; the segmenter decides the batch size."""
        return 0

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Return the length of a vector, and the shape of a token map, which is empty."""
        return self.width or self._call(np.full((2, self.size, self.size, 3), GREY, np.uint8)).shape[1], (0, 0, 0)

    def embed(self, views: NDArray, pixels: NDArray, masks: Sequence[NDArray]) -> tuple[NDArray, None]:
        """Return the vectors (B, D) of the function for the cells."""
        if self.background:
            return self._call(views.copy()), None  # the function may write into it
        crops = [cell_crop(image, mask, self.size) for image, mask in zip(pixels, masks, strict=True)]
        return self._call(np.stack(crops)), None

    def _call(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self.function(crops)
        try:
            vectors = np.asarray(found, np.float32)
        except (TypeError, ValueError, RuntimeError) as exc:
            raise ValueError(
                f"Got {type(found).__name__} from the function {self.name!r}, which is not an array of numbers: {exc}. "
                "Fix: return one vector for each crop, from torch with .detach().float().cpu().numpy()."
            ) from exc
        if vectors.ndim != 2 or len(vectors) != len(crops) or vectors.shape[1] != (self.width or vectors.shape[1]):
            raise ValueError(
                f"Got an array of shape {vectors.shape} from the function {self.name!r} but expected "
                f"({len(crops)}, {self.width or 'd'}). Fix: return one vector for each crop, always of the same length."
            )
        if not vectors.size or not np.isfinite(vectors).all():
            raise ValueError(
                f"Got vectors of shape {vectors.shape} from the function {self.name!r} but expected finite numbers. "
                "Fix: return finite numbers of float32, at least one for each crop."
            )
        return vectors
