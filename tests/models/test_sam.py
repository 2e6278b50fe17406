import re

import numpy as np
import pytest
import torch

from sam_bloodcell.models.sam import SIZES, EncoderSize, load_weights, size_of, stretch

HEAD = "mask_decoder.iou_prediction_head.layers.2"
FRESH = {"mask_decoder.mask_tokens.weight", f"{HEAD}.weight", f"{HEAD}.bias"}


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_center_prompt_changes_the_masks_and_forward_uses_none(tiny_sam, pixels):
    sam = tiny_sam()
    tokens = sam.tokens(pixels)
    plain, _ = sam.mask_logits(tokens)
    prompted, _ = sam.mask_logits(tokens, center_prompt=True)
    assert (plain - prompted).abs().max() > 1e-2
    torch.testing.assert_close(sam(pixels), plain)


def test_original_names_load_with_nothing_fresh(tiny_sam, pixels):
    source, target = tiny_sam(mask_tokens=4), tiny_sam(mask_tokens=4, seed=1)
    checkpoint = source.state_dict() | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert load_weights(target, checkpoint) == []
    with torch.no_grad():
        torch.testing.assert_close(target(pixels), source(pixels), rtol=0, atol=0)


def _interpolated(table, length):
    """Linear along the first axis, pixel centres aligned, by numpy alone."""
    table = np.asarray(table)
    places = (np.arange(length) + 0.5) * len(table) / length - 0.5
    return np.stack([np.interp(places, np.arange(len(table)), column) for column in table.T], axis=1)


def test_positions_shrink_by_shape_for_vit_l_block_numbers(tiny_sam):
    size = EncoderSize(16, 24, 2, SIZES["vit_l"].global_blocks)
    checkpoint = tiny_sam(image_size=1024, mask_tokens=4, size=size).state_dict()
    sam = tiny_sam(image_size=224, mask_tokens=4, size=size, seed=1)
    assert load_weights(sam, checkpoint) == []
    loaded = sam.state_dict()
    for block in range(24):
        for axis in "hw":
            key = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            assert loaded[key].shape == (27, 8)
            if block in (5, 11, 17, 23):
                assert checkpoint[key].shape == (127, 8)
                np.testing.assert_allclose(loaded[key], _interpolated(checkpoint[key], 27), atol=1e-5)
            else:
                torch.testing.assert_close(loaded[key], checkpoint[key], rtol=0, atol=0)
    grid = checkpoint["image_encoder.pos_embed"][0].numpy()  # 64x64x16
    rows = _interpolated(grid.reshape(64, -1), 14).reshape(14, 64, 16)
    both = _interpolated(rows.swapaxes(0, 1).reshape(64, -1), 14).reshape(14, 14, 16).swapaxes(0, 1)
    np.testing.assert_allclose(loaded["image_encoder.pos_embed"][0], both, atol=1e-5)


def test_everything_wrong_is_listed_in_one_error(tiny_sam):
    sam = tiny_sam()
    before = {key: value.clone() for key, value in sam.state_dict().items()}
    checkpoint = {key: value + 1 for key, value in before.items()}
    del checkpoint["image_encoder.neck.0.weight"]
    checkpoint["image_encoder.extra"] = torch.zeros(1)
    checkpoint["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    with pytest.raises(ValueError, match="does not fit this SAM") as caught:
        load_weights(sam, checkpoint)
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  image_encoder.extra: unknown",
        "  image_encoder.neck.0.weight: missing",
        "  mask_decoder.iou_token.weight: (1, 7) instead of (1, 256)",
    ]
    for key, value in sam.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_same_number_of_mask_tokens_forgives_nothing(tiny_sam):
    checkpoint = tiny_sam().state_dict()
    del checkpoint[f"{HEAD}.bias"]
    with pytest.raises(ValueError, match=re.escape(f"{HEAD}.bias: missing")):
        load_weights(tiny_sam(seed=1), checkpoint)


def test_two_mask_tokens_from_four_start_only_the_reshaped_parts_fresh(tiny_sam):
    four, two = tiny_sam(mask_tokens=4), tiny_sam(mask_tokens=2, seed=1)
    before = {key: value.clone() for key, value in two.state_dict().items()}
    checkpoint = four.state_dict()
    assert set(load_weights(two, checkpoint)) == FRESH
    for key, value in two.state_dict().items():
        expected = before[key] if key in FRESH else checkpoint[key]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_size_of_knows_every_named_size_and_rejects_others():
    for size in SIZES.values():
        state = {f"image_encoder.blocks.{i}.norm1.bias": torch.zeros(1) for i in range(size.depth)}
        state["image_encoder.pos_embed"] = torch.zeros(1, 2, 2, size.width)
        assert size_of(state) == size
    state["image_encoder.pos_embed"] = torch.zeros(1, 2, 2, 99)
    with pytest.raises(ValueError, match=r"Got an encoder 99 wide with 32 blocks but expected one of vit_tiny"):
        size_of(state)
    with pytest.raises(ValueError, match=r"no key 'image_encoder.pos_embed'.*first keys are \['conv1'\]"):
        size_of({"conv1": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"is not a SAM checkpoint.*\['module.image_encoder.pos_embed'\]"):
        size_of({"module.image_encoder.pos_embed": state["image_encoder.pos_embed"]})


def test_a_readout_tells_cellpose_sam_in_which_all_blocks_are_global_and_the_file_tells_the_patch():
    size = SIZES["vit_l"]
    state = {f"image_encoder.blocks.{i}.norm1.bias": torch.zeros(1) for i in range(size.depth)}
    state |= {"image_encoder.pos_embed": torch.zeros(1, 32, 32, size.width)}
    state |= {"image_encoder.patch_embed.proj.weight": torch.zeros(size.width, 3, 8, 8)}
    assert size_of(state) == EncoderSize(1024, 24, 16, (5, 11, 17, 23), patch=8)
    readout = dict.fromkeys(("out.weight", "out.bias", "W2"), torch.zeros(1))
    assert size_of(state | readout) == EncoderSize(1024, 24, 16, tuple(range(24)), patch=8, stretched=True)


def test_stretched_channels_go_from_the_1st_to_the_99th_percentile_whatever_they_were_before():
    pixels = np.random.default_rng(0).integers(20, 200, (2, 40, 40, 3)) * np.array([1.0, 0.5, 0.2])
    pixels[1, :, :, 2] = 77
    low, high = np.percentile(pixels, [1, 99], axis=(1, 2), keepdims=True)
    flat = high == low
    expected = torch.from_numpy(np.where(flat, 0, (pixels - low) / np.where(flat, 1, high - low))).permute(0, 3, 1, 2)
    given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for before in (given, (given - 120) / 58):
        torch.testing.assert_close(stretch(before.float()), expected.float(), rtol=0, atol=1e-4)
    half = stretch(given.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected.float(), rtol=0, atol=0.02)


@torch.no_grad()
def test_a_patch_of_8_gives_four_times_the_tokens_and_masks_of_half_the_side(tiny_sam, pixels):
    sam = tiny_sam(size=EncoderSize(32, 2, 2, (0, 1), patch=8))
    tokens = sam.tokens(pixels)
    assert tokens.shape == (3, 32, 8, 8)
    assert sam.mask_logits(tokens)[0].shape == (3, 2, 32, 32)
    with pytest.raises(ValueError, match=r"Got image_size=60 but expected a positive multiple of 8\. Fix: use 64"):
        tiny_sam(image_size=60, size=sam.size)


@pytest.mark.parametrize(("px", "fix"), [(0, 16), (-16, 16), (100, 96), (230, 224)])
def test_image_size_must_be_a_multiple_of_16(tiny_sam, px, fix):
    with pytest.raises(ValueError, match=f"Got image_size={px} but expected.*Fix: use {fix}"):
        tiny_sam(image_size=px)


@torch.no_grad()
def test_half_precision_encoder_keeps_the_decoder_in_float32(tiny_sam, pixels):
    sam = tiny_sam()
    exact = sam(pixels)
    sam.set_encoder_dtype(torch.bfloat16)
    tokens = sam.tokens(pixels.bfloat16())
    logits, _ = sam.mask_logits(tokens)
    assert tokens.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert torch.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.99
