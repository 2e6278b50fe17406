"""Segment Anything's image encoder with the interface of a plain ViT; it has only patch tokens."""

from torch import Tensor, nn

from .inference import accelerate
from .sam import SAM, SAM_PIXEL_STATS
from .vit import ViT, ViTLayout, ViTTokens


class SAMTokens(nn.Module):
    """A SAM's encoder without its neck, for images of the SAM's own size; the attention of `sam` is replaced."""

    def __init__(self, sam: SAM) -> None:
        super().__init__()
        size = sam.size
        self.sam = accelerate(sam)
        self.layout = ViTLayout(
            width=size.width,
            depth=size.depth,
            heads=size.heads,
            hidden=4 * size.width,
            patch=size.patch,
            grid=sam.image_size // size.patch,
            image_size=sam.image_size,
            pixel_stats=SAM_PIXEL_STATS,
            has_cls=False,
            any_size=False,
        )

    def forward(self, pixels: Tensor) -> ViTTokens:
        """Encode normalised pixels Bx3xSxS; `cls` has no channels (Bx0) and there are no registers."""
        patches = self.sam.tokens(pixels)
        return ViTTokens(patches.new_empty(len(patches), 0), patches.new_empty(len(patches), 0, 0), patches)


AnyViT = ViT | SAMTokens
