"""Our ViT against transformers': same random weights, same tokens."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn

from sam_bloodcell.models.vit import IMAGENET_PIXEL_STATS, ViT, ViTLayout
from sam_bloodcell.weights.backbones import Backbone
from sam_bloodcell.weights.vits import load_vit

CLOSE = {"rtol": 0, "atol": 1e-4}
SMALL = ViTLayout(width=64, depth=1, heads=1, hidden=128, patch=14, grid=4)


def fill(model, seed=0):
    """Seeded values everywhere, in place: libraries start positions, biases and registers at or near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight") or "norm1.weight" in name or "norm2.weight" in name:
                parameter.copy_(1 + 0.1 * noise)
            elif "lambda1" in name or "token" in name or "position" in name:
                parameter.copy_(noise / 2)
            else:
                parameter.copy_(noise / (parameter[0].numel() if parameter.ndim > 1 else 100) ** 0.5)
    return model.eval()


def sized(width, depth, px, **more):
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "image_size": px,
    } | more


def dinov2(*size, **more):
    return transformers.Dinov2Model(transformers.Dinov2Config(**sized(*size, patch_size=14, **more)))


def with_registers(*size, **more):
    config = transformers.Dinov2WithRegistersConfig(**sized(*size, patch_size=14, **more))
    return transformers.Dinov2WithRegistersModel(config)


def vit(width, *size):
    return transformers.ViTModel(transformers.ViTConfig(**sized(width, *size, intermediate_size=4 * width)))


def dinov3(width, *size, **more):
    more |= {"intermediate_size": 3 * width, "num_register_tokens": 4}
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sized(width, *size, **more)))


MODELS = {
    "DINOv2, 64 wide, 1 block": lambda: dinov2(64, 1, 518),
    "DINOv2, 64 wide, 5 blocks": lambda: dinov2(64, 5, 518),
    "DINOv2-S with 3 blocks": lambda: dinov2(384, 3, 518),
    "DinoBloom-S with 2 blocks": lambda: dinov2(384, 2, 224),
    "DINOv2 with SwiGLU": lambda: dinov2(128, 2, 518, use_swiglu_ffn=True),
    "DINOv2 with registers": lambda: with_registers(128, 3, 518, num_register_tokens=4),
    "DINOv2 with registers and SwiGLU": lambda: with_registers(64, 2, 518, num_register_tokens=3, use_swiglu_ffn=True),
    "DINOv3": lambda: dinov3(128, 3, 224),
    "DINOv3 with SwiGLU": lambda: dinov3(64, 2, 224, use_gated_mlp=True, hidden_act="silu"),
    "plain ViT": lambda: vit(128, 3, 224),
    "ViT-S with 2 blocks": lambda: vit(384, 2, 384),
}
# In patches: 224 px and 98 px at 14 a patch, and two that are not square.
SIZES = [(16, 16), (7, 7), (5, 9), (20, 12)]


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """Return (transformers' model, ours from the files that it saved)."""
    model = fill(MODELS[request.param]())
    folder = tmp_path_factory.mktemp("vit")
    model.save_pretrained(folder)
    return model, load_vit(Backbone(str(folder)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_the_tokens_are_those_of_transformers(pair, size):
    model, ours = pair
    pixels = torch.randn(2, 3, *(side * ours.layout.patch for side in size), generator=torch.Generator().manual_seed(1))
    resize = {"interpolate_pos_encoding": True} if isinstance(model, transformers.ViTModel) else {}
    theirs = model(pixels, **resize).last_hidden_state
    cls, registers, patches = ours(pixels)
    assert patches.shape == (2, ours.layout.width, *size)
    torch.testing.assert_close(torch.cat([cls[:, None], registers, patches.flatten(2).mT], dim=1), theirs, **CLOSE)
    assert theirs.std() > 0.5


@torch.no_grad()
def test_positions_change_the_tokens(pair):
    _, ours = pair
    side = 3 * ours.layout.patch
    patches = ours(torch.ones(1, 3, side, side)).patches.flatten(2)
    assert patches.std(2).max() > 1e-2


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 9 / 12), (0.6, 9 / 12.6)])
def test_positions_are_resized_as_the_layout_says(offset, scale):
    """Bicubic interpolation keeps a ramp nearly straight, so that each value tells the place that it came from."""
    vit = ViT(replace(SMALL, grid=9, offset=offset))
    ramp = torch.arange(9.0).repeat_interleave(9)
    vit.pos_embed = nn.Parameter(torch.cat([torch.tensor([50.0]), ramp])[None, :, None].repeat(1, 1, 64))
    positions = vit._positions(12, 18)[0, :, 0].detach()
    assert positions[0] == 50
    rows = positions[1:].view(12, 18)
    torch.testing.assert_close(rows[3:9, 0], (torch.arange(3.0, 9) + 0.5) * scale - 0.5, rtol=0, atol=0.06)
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 18))


@torch.no_grad()
def test_each_patch_stays_in_its_place():
    vit = fill(ViT(SMALL))
    pixels = torch.randn(1, 3, 42, 70)
    changed = pixels.clone()
    changed[:, :, 14:28, 56:70] += 3
    moved = (vit(changed).patches - vit(pixels).patches).abs().sum(1)[0]
    assert moved.shape == (3, 5)
    assert divmod(int(moved.argmax()), 5) == (1, 4)


@pytest.mark.parametrize(("size", "fix"), [((100, 98), "98 x 98"), ((28, 5), "28 x 14"), ((0, 28), "14 x 28")])
def test_image_sides_must_be_multiples_of_the_patch(size, fix):
    with pytest.raises(
        ValueError, match=rf"Got an image of {size[0]} x {size[1]} pixels.*multiples of 14.*use {fix}\."
    ):
        ViT(SMALL)(torch.zeros(1, 3, *size))


@torch.no_grad()
def test_half_precision_keeps_to_float32():
    vit = fill(ViT(replace(SMALL, registers=2)))
    pixels = torch.randn(2, 3, 70, 70)
    exact = vit(pixels)
    half = vit.to(torch.bfloat16)(pixels.bfloat16())
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.cosine_similarity(a.float().flatten(), b.flatten(), dim=0) > 0.999


def test_pixels_are_imagenets_unless_told():
    assert [round(mean / 255, 3) for mean in IMAGENET_PIXEL_STATS[0]] == [0.485, 0.456, 0.406]
    assert [round(std / 255, 3) for std in IMAGENET_PIXEL_STATS[1]] == [0.229, 0.224, 0.225]
    assert SMALL.pixel_stats == IMAGENET_PIXEL_STATS
