"""Our SAM against `transformers.SamModel` and segment-anything itself: same random weights, same numbers.

The weights always start in transformers' layout, made for 1024 px, and go through our loader; at 224 px it has to
resize the position tables. Full depth is affordable for vit_b at 224 px; elsewhere width, heads, windows and tables
are the real ones and the depth is what a test can wait for, with one global block.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.models.sam import SAM, SIZES, EncoderSize, load_weights
from sam_bloodcell.weights.backbones import Backbone, load_backbone

TINY = EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,))
CLOSE = {"rtol": 0, "atol": 1e-4}


def shortened(name, depth):
    """Return a named size cut to `depth` blocks, of which the last is global."""
    size = SIZES[name]
    return EncoderSize(size.width, depth, size.heads, (depth - 1,))


CASES = {
    "tiny at 64 px": (TINY, 64, 3),
    "vit_b at 224 px": (SIZES["vit_b"], 224, 2),
    "vit_l with 2 blocks at 224 px": (shortened("vit_l", 2), 224, 2),
    "vit_h with 2 blocks at 224 px": (shortened("vit_h", 2), 224, 2),
    "vit_b with 3 blocks at 1024 px": (shortened("vit_b", 3), 1024, 1),
    "vit_l with 2 blocks at 1024 px": (shortened("vit_l", 2), 1024, 1),
    "vit_h with 2 blocks at 1024 px": (shortened("vit_h", 2), 1024, 1),
}


@dataclass
class Case:
    """Three networks with the same weights, and what ours says of the same images."""

    images: torch.Tensor
    ours: SAM
    transformers: Any
    original: Any
    tokens: torch.Tensor
    features: torch.Tensor


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if size is TINY else pytest.mark.slow) for name, (size, *_) in CASES.items()],
)
def case(request, tmp_path_factory, build_sam):
    size, px, count = CASES[request.param]
    folder = tmp_path_factory.mktemp("transformers")
    source = transformers_model(size, 1024)
    source.save_pretrained(folder)
    state = load_backbone(Backbone(str(folder)))
    ours = SAM(size, px, mask_tokens=4).eval()
    assert load_weights(ours, state) == []
    images = torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        tokens = ours.tokens(images)
        features = ours.image_encoder.neck(tokens)
    theirs = source if px == 1024 else at_size(source, transformers_model(size, px), ours)
    original = original_model(build_sam, size, state, ours)
    return Case(images, ours, theirs, original, tokens, features)


def transformers_model(size, px):
    import transformers

    config = transformers.SamConfig(
        vision_config={
            "hidden_size": size.width,
            "num_hidden_layers": size.depth,
            "num_attention_heads": size.heads,
            "global_attn_indexes": list(size.global_blocks),
            "image_size": px,
            "mlp_dim": 4 * size.width,
        },
        prompt_encoder_config={"image_size": px},
        # segment-anything keeps PyTorch's 1e-5 in its decoder, and the published weights were trained with it;
        # transformers' own default of 1e-6 moves logits by 2e-4
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )
    return fill(transformers.SamModel(config)).eval()


def fill(model):
    """Seeded values of the trained model's order of magnitude everywhere, in place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
            elif name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w", "positional_embedding")):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model


def at_size(source, target, ours):
    """Give a transformers model of another image size the source's weights, and the position tables of ours."""
    state = source.state_dict()
    tables = ours.state_dict()
    for key in state:
        if key.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            state[key] = tables[key.replace("vision_encoder", "image_encoder").replace("layers", "blocks")]
    target.load_state_dict(state)
    return target


def original_model(build_sam, size, state, ours):
    """segment-anything's own build, which knows 1024 px; its attention resizes relative tables as it goes."""
    sam = build_sam._build_sam(size.width, size.depth, size.heads, size.global_blocks)
    sam.load_state_dict(state)
    grid = ours.image_size // 16
    table = sam.image_encoder.pos_embed.permute(0, 3, 1, 2)
    table = F.interpolate(table, (grid, grid), mode="bilinear").permute(0, 2, 3, 1)
    sam.image_encoder.pos_embed = nn.Parameter(table)
    sam.prompt_encoder.image_embedding_size = (grid, grid)
    sam.prompt_encoder.input_image_size = (ours.image_size, ours.image_size)
    return sam


def original_masks(sam, features, center, px):
    """segment-anything's masks and their quality for one image, with a point in the middle or no prompt."""
    points = (torch.full((1, 1, 2), px / 2), torch.ones(1, 1)) if center else None
    sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
    return sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)


def encode(encoder, neck, images):
    """What an encoder hands to its neck, and what the neck makes of it."""
    seen = []
    hook = neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = encoder(images)
    hook.remove()
    return seen[0], features


@torch.no_grad()
def test_tokens_before_and_after_the_neck_equal_transformers(case):
    encoder = case.transformers.vision_encoder
    tokens, output = encode(encoder, encoder.neck, case.images)
    torch.testing.assert_close(case.tokens, tokens.permute(0, 3, 1, 2), **CLOSE)
    torch.testing.assert_close(case.features, output.last_hidden_state, **CLOSE)


@torch.no_grad()
def test_tokens_before_and_after_the_neck_equal_segment_anything(case):
    encoder = case.original.image_encoder
    tokens, features = encode(encoder, encoder.neck, case.images)
    torch.testing.assert_close(case.tokens, tokens, **CLOSE)
    torch.testing.assert_close(case.features, features, **CLOSE)


@pytest.mark.parametrize("center", [False, True], ids=["no prompt", "point"])
@torch.no_grad()
def test_masks_of_a_batch_equal_transformers(case, center):
    logits, iou = case.ours.mask_logits(case.tokens, center_prompt=center)
    middle = torch.full((len(case.images), 1, 1, 2), case.images.shape[-1] / 2)
    points = middle if center else None
    for multimask, kept in ((True, slice(1, 4)), (False, slice(0, 1))):
        # without a prompt transformers expects an image alone: its dense embedding and tokens then have batch size 1
        rows = [slice(None)] if center else [slice(row, row + 1) for row in range(len(case.images))]
        for row in rows:
            theirs = case.transformers(
                image_embeddings=case.features[row], input_points=points, multimask_output=multimask
            )
            torch.testing.assert_close(logits[row, kept], theirs.pred_masks[:, 0], **CLOSE)
            torch.testing.assert_close(iou[row, kept], theirs.iou_scores[:, 0], **CLOSE)


@pytest.mark.parametrize("center", [False, True], ids=["no prompt", "point"])
@torch.no_grad()
def test_masks_of_a_batch_equal_segment_anything_image_by_image(case, center):
    logits, iou = case.ours.mask_logits(case.tokens, center_prompt=center)
    for row, features in enumerate(case.features):
        masks, quality = original_masks(case.original, features[None], center, case.images.shape[-1])
        torch.testing.assert_close(logits[row], masks[0], **CLOSE)
        torch.testing.assert_close(iou[row], quality[0], **CLOSE)


@pytest.mark.parametrize("center", [False, True], ids=["no prompt", "point"])
@torch.no_grad()
def test_two_mask_tokens_equal_segment_anything_too(center, tiny_sam):
    sam = tiny_sam(mask_tokens=2)
    tokens = torch.randn(3, 32, 4, 4)
    logits, iou = sam.mask_logits(tokens, center_prompt=center)
    assert logits.shape == (3, 2, 16, 16)
    assert iou.shape == (3, 2)
    for row, features in enumerate(sam.image_encoder.neck(tokens)):
        masks, quality = original_masks(sam, features[None], center, 64)
        torch.testing.assert_close(logits[row], masks[0], **CLOSE)
        torch.testing.assert_close(iou[row], quality[0], **CLOSE)


@torch.no_grad()
def test_the_logits_compared_are_neither_tiny_nor_huge(case):
    """Else 1e-4 would mean nothing: SAM's own logits reach some tens."""
    for center in (False, True):
        logits, _ = case.ours.mask_logits(case.tokens, center_prompt=center)
        assert 0.1 < logits.std() < 50
    assert 0.1 < case.tokens.std() < 50


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_named_sizes_are_those_of_segment_anything(name, build_sam, monkeypatch):
    monkeypatch.setattr(build_sam, "_build_sam", lambda **settings: settings)
    settings = getattr(build_sam, f"build_sam_{name}")()
    assert (
        EncoderSize(
            settings["encoder_embed_dim"],
            settings["encoder_depth"],
            settings["encoder_num_heads"],
            tuple(settings["encoder_global_attn_indexes"]),
        )
        == SIZES[name]
    )


@pytest.fixture
def relative(tmp_path, monkeypatch):
    """Return (folder, model) of a small fine-tuned SAM, saved by transformers."""
    monkeypatch.setitem(SIZES, "under test", TINY)
    model = transformers_model(TINY, 64)
    model.save_pretrained(tmp_path)
    return tmp_path, model


@torch.no_grad()
def test_a_fine_tuned_relative_in_transformers_layout_loads_whole_from_its_folder(relative):
    folder, model = relative
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    embedder = SAMLoRAEmbedder(str(folder), image_size=64, pixel_stats=((0, 0, 0), (1, 1, 1)), dtype="float32")
    sam = embedder.fit(images).encoder_.network()
    assert embedder.prompt_ == "center"
    pixels = torch.randn(1, 3, 64, 64)
    theirs = model(pixels, input_points=torch.full((1, 1, 1, 2), 32.0), multimask_output=False)
    logits, _ = sam.mask_logits(sam.tokens(pixels), center_prompt=True)
    torch.testing.assert_close(logits[:, :1], theirs.pred_masks[:, 0], **CLOSE)
    assert embedder.transform(images).shape == (2, 32)


def test_a_pickled_relative_loads_as_its_safetensors_do(relative):
    folder, model = relative
    expected = load_backbone(Backbone(str(folder)))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    found = load_backbone(Backbone(str(folder)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.mark.parametrize("form", ["sharded", "empty"])
def test_a_folder_without_the_one_weights_file_names_what_was_looked_for(form, relative):
    folder, model = relative
    (folder / "model.safetensors").unlink()
    if form == "sharded":
        model.save_pretrained(folder, max_shard_size="1MB")
        assert (folder / "model.safetensors.index.json").is_file()
    with pytest.raises((ValueError, OSError), match=r"Got backbone=.* a folder with model\.safetensors.*Fix:"):
        load_backbone(Backbone(str(folder)))
