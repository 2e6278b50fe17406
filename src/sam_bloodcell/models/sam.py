"""Segment Anything for one cell: image -> tokens -> mask logits, at any image size.

The modules and their parameter names are segment-anything's own, so its checkpoints load by name. Only the forward pass
is ours: the tokens are taken before the neck, and the mask decoder runs on batches of images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._segment_anything import modeling

PATCH = 16
WINDOW = 14
PROMPT_DIM = 256

# Mask tokens: plain SAM predicts one mask and three alternatives; the papers keep two, in this order.
SAM_MASK_TOKENS = 4
CELL_MASK_TOKENS = 2
BACKGROUND, CELL = 0, 1
MASK_TOKENS = "mask_decoder.mask_tokens.weight"
# Parts of the decoder whose shape depends on the number of mask tokens.
_OF_MASK_TOKENS = tuple(
    f"mask_decoder.{part}" for part in ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")
)

# Contents of Cellpose-SAM's files besides the encoder: the layers from the neck to the flow fields, and cell
# diameters.
_CELLPOSE_READOUT = ("out.weight", "out.bias", "W2")
_UNUSED = ("pixel_mean", "pixel_std", *_CELLPOSE_READOUT, "diam_mean", "diam_labels")
# The percentiles that Cellpose maps to 0 and 1.
_PERCENTILES = (0.01, 0.99)

# Means and standard deviations of the channels R, G, B, in 0-255 units.
PixelStats = tuple[tuple[float, ...], tuple[float, ...]]
# Those of plain SAM.
SAM_PIXEL_STATS: PixelStats = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def normalise(pixels: Tensor, stats: PixelStats) -> Tensor:
    """Turn uint8 pixels BxSxSx3 into float32 Bx3xSxS: subtract the channel means, divide by the standard deviations."""
    mean, std = (torch.tensor(values, device=pixels.device, dtype=torch.float32) for values in stats)
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def stretch(pixels: Tensor) -> Tensor:
    """Map the 1st and 99th percentile of each image's channels to 0 and 1, as Cellpose does with its input.

    The result does not depend on the statistics with which pixels Bx3xHxW were normalised before. A channel without
    contrast becomes 0.
    """
    channels = pixels.float().flatten(2)
    low, high = torch.quantile(channels, torch.tensor(_PERCENTILES, device=pixels.device), dim=2)[..., None]
    spread = high - low
    stretched = torch.where(spread > 1e-4, (channels - low) / spread.clamp(min=1e-4), 0)
    return stretched.view_as(pixels).to(pixels.dtype)


@dataclass(frozen=True)
class EncoderSize:
    """Shape of a SAM image encoder, and whether its pixels are scaled by their percentiles (`stretch`)."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    patch: int = PATCH
    stretched: bool = False


SIZES = {
    "vit_tiny": EncoderSize(192, 12, 3, (2, 5, 8, 11)),
    "vit_b": EncoderSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": EncoderSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": EncoderSize(1280, 32, 16, (7, 15, 23, 31)),
}


class SAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder of Segment Anything (Kirillov et al., ICCV 2023).

    The side of the input is `image_size` pixels, a multiple of the patch. Plain SAM has 4 mask tokens, and the papers'
    decoder has 2 (background, cell).
    """

    def __init__(self, size: EncoderSize, image_size: int = 224, mask_tokens: int = CELL_MASK_TOKENS) -> None:
        super().__init__()
        patch = size.patch
        if image_size < patch or image_size % patch:
            raise ValueError(
                f"Got image_size={image_size} but expected a positive multiple of {patch}. "
                f"Fix: use {max(patch, round(image_size / patch) * patch)}."
            )
        parts = modeling()
        grid = image_size // patch
        self.size = size
        self.image_size = image_size
        self.image_encoder = parts.ImageEncoderViT(
            img_size=image_size,
            patch_size=patch,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            window_size=WINDOW,
            global_attn_indexes=size.global_blocks,
            out_chans=PROMPT_DIM,
        )
        self.prompt_encoder = parts.PromptEncoder(
            embed_dim=PROMPT_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = parts.MaskDecoder(
            num_multimask_outputs=mask_tokens - 1,
            transformer=parts.TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=2048, num_heads=8),
            transformer_dim=PROMPT_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=PROMPT_DIM,
        )

    def tokens(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels Bx3xHxW to the pre-neck token map BxCxhxw, h = H / patch."""
        return self.early_and_last_tokens(pixels)[1]

    def early_and_last_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised pixels Bx3xHxW to token maps BxCxhxw after a third of the blocks and after all of them."""
        encoder = self.image_encoder
        if self.size.stretched:
            pixels = stretch(pixels)
        x = encoder.patch_embed(pixels) + encoder.pos_embed  # BxhxwxC
        third = max(1, round(self.size.depth / 3))
        for block in encoder.blocks[:third]:
            x = block(x)
        early = x
        for block in encoder.blocks[third:]:
            x = block(x)
        return early.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)

    def mask_logits(self, tokens: Tensor, center_prompt: bool = False) -> tuple[Tensor, Tensor]:
        """Decode tokens BxCxhxw to mask logits BxMx4hx4w and predicted IoU BxM, M = mask tokens.

        This is segment-anything's ``MaskDecoder.predict_masks`` for a batch of *images* with one prompt each. The
        original repeats one image over a batch of prompts.
        """
        decoder = self.mask_decoder
        features = self.image_encoder.neck(tokens.float())  # Bx256xhxw
        batch, channels, height, width = features.shape
        sparse, dense = self._prompts(batch, center_prompt)
        queries = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        queries = torch.cat([queries.expand(batch, -1, -1), sparse], dim=1)
        position = self.prompt_encoder.get_dense_pe().expand(batch, -1, -1, -1)

        out, image = decoder.transformer(features + dense, position, queries)
        image = decoder.output_upscaling(image.transpose(1, 2).reshape(batch, channels, height, width))
        mlps = decoder.output_hypernetworks_mlps
        weights = torch.stack([mlp(out[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)  # BxMx32
        logits = torch.einsum("bmc,bchw->bmhw", weights, image)
        return logits, decoder.iou_prediction_head(out[:, 0])

    def forward(self, pixels: Tensor) -> Tensor:
        """Predict mask logits BxMx4hx4w of normalised pixels Bx3xHxW without a prompt."""
        return self.mask_logits(self.tokens(pixels))[0]

    def set_encoder_dtype(self, dtype: torch.dtype) -> "SAM":
        """Run the blocks in `dtype`; neck and decoder stay in float32: they are cheap and determine the edges."""
        self.image_encoder.to(dtype)
        self.image_encoder.neck.float()
        return self

    def _prompts(self, batch: int, center: bool) -> tuple[Tensor, Tensor]:
        """Return sparse BxPx256 and dense Bx256xhxw embeddings of no prompt, or of a point in the middle."""
        points = None
        if center:
            device = self.prompt_encoder.no_mask_embed.weight.device
            middle = torch.full((batch, 1, 2), self.image_size / 2, device=device)
            points = (middle, torch.ones(batch, 1, device=device))
        sparse, dense = self.prompt_encoder(points=points, boxes=None, masks=None)
        return sparse.expand(batch, -1, -1), dense.expand(batch, -1, -1, -1)


def is_cellpose(state: Mapping[str, Tensor]) -> bool:
    """Return whether tensors are those of Cellpose-SAM, which has no prompt encoder and no mask decoder.

    They are recognised by the readout, which Cellpose's networks with a DINOv3 encoder also have.
    """
    return all(key in state for key in ("image_encoder.pos_embed", *_CELLPOSE_READOUT))


def size_of(state: Mapping[str, Tensor]) -> EncoderSize:
    """Recognise the encoder size from a checkpoint's shapes.

    Cellpose-SAM attends globally in every block, which its shapes do not show: its tables of relative positions are as
    short as those of SAM's windows, and are interpolated to the whole map.
    """
    try:
        width = state["image_encoder.pos_embed"].shape[-1]
    except KeyError:
        raise ValueError(
            "This checkpoint has no key 'image_encoder.pos_embed', so it is not a SAM checkpoint. "
            f"Its first keys are {sorted(state)[:3]}. Fix: pass a checkpoint of Segment Anything, or a plain Vision "
            "Transformer to ViTEmbedder."
        ) from None
    depth = len({key.split(".")[2] for key in state if key.startswith("image_encoder.blocks.")})
    for size in SIZES.values():
        if (size.width, size.depth) == (width, depth):
            patches = state.get("image_encoder.patch_embed.proj.weight")
            size = size if patches is None else replace(size, patch=patches.shape[-1])
            return replace(size, global_blocks=tuple(range(depth)), stretched=True) if is_cellpose(state) else size
    known = ", ".join(f"{name} ({s.width} wide, {s.depth} blocks)" for name, s in SIZES.items())
    raise ValueError(f"Got an encoder {width} wide with {depth} blocks but expected one of {known}.")


def own_size(state: Mapping[str, Tensor]) -> int:
    """Return the side in pixels of the images for which a checkpoint's table of positions was made."""
    return len(state["image_encoder.pos_embed"][0]) * size_of(state).patch


def load_weights(sam: SAM, state: Mapping[str, Tensor]) -> list[str]:
    """Load a checkpoint with segment-anything's names, and return the names of the parameters that it did not set.

    Position tables are resized to the grid of the network. They are matched by shape, so that all sizes of SAM work.
    Parts of the decoder whose shape depends on the number of mask tokens are not loaded if the numbers differ. If keys
    do not fit, the error lists all of them.
    """
    target = sam.state_dict()
    decoder_tokens, tokens = len(target[MASK_TOKENS]), len(state.get(MASK_TOKENS, ()))
    may_differ = _OF_MASK_TOKENS if tokens not in (0, decoder_tokens) else ()
    resized = {key: _resize_positions(key, value, target[key].shape) for key, value in state.items() if key in target}
    loaded = {key: value for key, value in resized.items() if value.shape == target[key].shape}
    whole = {key: value.shape for key, value in target.items()}
    unknown = {key: value for key, value in state.items() if key not in (*target, *_UNUSED)}
    wrong = [
        line
        for line in differences(resized | unknown, whole)
        # A file with more mask tokens than the network has all of its parameters, though in other shapes.
        if not line.startswith(may_differ) or (line.endswith(": missing") and tokens > decoder_tokens)
    ]
    if wrong:
        raise ValueError("The checkpoint does not fit this SAM:\n  " + "\n  ".join(wrong))
    sam.load_state_dict(loaded, strict=False)
    return [key for key in target if key not in loaded]


def differences(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Describe the differences of a table of tensors from its expected names and shapes, one per line."""
    return [
        *(f"{key}: missing" for key in shapes if key not in state),
        *(f"{key}: unknown" for key in state if key not in shapes),
        *(
            f"{key}: {tuple(value.shape)} instead of {tuple(shapes[key])}"
            for key, value in state.items()
            if key in shapes and tuple(value.shape) != tuple(shapes[key])
        ),
    ]


def _resize_positions(key: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate an absolute (1xhxwxC) or relative ((2h-1)xC) position table to `shape`, linearly."""
    if value.shape == shape or value.ndim != len(shape):
        return value
    if key.endswith(".pos_embed") and value.shape[-1] == shape[-1]:
        grid = value.float().permute(0, 3, 1, 2)
        return F.interpolate(grid, shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
    if key.endswith((".rel_pos_h", ".rel_pos_w")) and value.shape[-1] == shape[-1]:
        return F.interpolate(value.float().T[None], shape[0], mode="linear")[0].T
    return value
