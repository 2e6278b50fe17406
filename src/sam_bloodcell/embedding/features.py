"""What embeds the cells instead of SAM, which then only finds them: a plain ViT, or a user's function."""

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
    """Tokens of a plain ViT: the mean over the cell ("mask"), the CLS token ("cls"), or CLS, then mean ("both")."""

    network: ViTSpec
    view_size: int
    pixel_stats: PixelStats
    pooling: str

    @property
    def key(self) -> tuple[Any, ...]:
        """The device is left out, as in the digest of a recipe."""
        n = self.network
        return ("vit", n.backbone.digest, n.dtype, self.view_size, self.pixel_stats, self.pooling)

    @property
    def token_share(self) -> int:
        """How many times as long as a token an embedding is."""
        return 2 if self.pooling == "both" else 1

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
        name, dtype = self.network.backbone.name, self.network.dtype
        return {"backbone": name, "image_size": self.view_size, "dtype": dtype, "pooling": self.pooling}

    @own_settings()
    def load(self) -> AnyViT:
        """Return the network, which is loaded unless it is in memory."""
        return load_vit_network(self.network)

    def activation_bytes(self) -> int:
        """Bytes of the widest activation of one image: that within an MLP."""
        vit = self.load()
        layout = vit.layout
        widest = layout.hidden * (2 if layout.swiglu else 1)
        return (self.view_size // layout.patch) ** 2 * widest * next(vit.parameters()).element_size()

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Length of an embedding, and the shape of a token map (C, h, w)."""
        layout = self.load().layout
        grid = self.view_size // layout.patch
        return self.token_share * layout.width, (layout.width, grid, grid)

    def embed(self, views: NDArray, pixels: NDArray, masks: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
        """Embed square images (B, V, V, 3): (B, D), and their token maps (B, C, h, w)."""
        vit = self.load()
        cls, tokens = halved_if_too_large(lambda part: run_vit(vit, self.pixel_stats, part), views)
        if self.pooling == "cls":
            return cls, tokens
        pooled = pool_tokens(tokens, masks)
        return (pooled if self.pooling == "mask" else np.concatenate([cls, pooled], axis=1)), tokens


@dataclass(frozen=True)
class FunctionFeatures:
    """What a user's function makes of the cells; `name` stands for it in the digest of a recipe.

    With the `background`, it gets square images; without, the cells on grey. `width` is the length of its vectors.
    """

    function: Callable[[NDArray[np.uint8]], Any] = field(compare=False)
    name: str
    size: int
    background: bool
    width: int | None = None

    token_share = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """The function has no digest; its name and the length of its vectors stand for it."""
        return ("function", self.name, self.size, self.background, self.width)

    @property
    def view_size(self) -> int | None:
        """Side in pixels of the square images; None where they are only cut from."""
        return self.size if self.background else None

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
        return {"backbone": self.name, "image_size": self.size, "background": self.background}

    def activation_bytes(self) -> int:
        """Nothing is known of the function; the segmenter decides."""
        return 0

    def shapes(self) -> tuple[int, tuple[int, int, int]]:
        """Length of a vector, and the shape of a token map, which is empty."""
        return self.width or self._call(np.full((2, self.size, self.size, 3), GREY, np.uint8)).shape[1], (0, 0, 0)

    def embed(self, views: NDArray, pixels: NDArray, masks: Sequence[NDArray]) -> tuple[NDArray, None]:
        """Call the function on the cells: (B, D)."""
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
