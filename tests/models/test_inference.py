import copy

import pytest
import torch
from torch.nn import functional as F

from sam_bloodcell.models import inference
from sam_bloodcell.models.inference import accelerate
from sam_bloodcell.models.sam import SAM, EncoderSize


@pytest.mark.parametrize("short", [512, 0], ids=["two products", "fused kernel"])
@pytest.mark.parametrize("image_size", [64, 224, 304], ids=["padded window", "one window", "several windows"])
def test_accelerated_tokens_are_the_plain_ones(tiny_sam, monkeypatch, image_size, short):
    monkeypatch.setattr(inference, "_SHORT", short)
    sam = tiny_sam(image_size)
    pixels = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        expected = sam.tokens(pixels)
        torch.testing.assert_close(accelerate(sam).tokens(pixels), expected, rtol=1e-4, atol=1e-5)


def test_heads_whose_width_is_no_power_of_two_as_in_vit_h(tiny_sam):
    sam = tiny_sam(64, size=EncoderSize(width=40, depth=2, heads=2, global_blocks=(1,)))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = sam.tokens(pixels)
        torch.testing.assert_close(accelerate(sam).tokens(pixels), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_at_vit_b_width(randomise):
    sam = randomise(SAM(EncoderSize(768, 3, 12, (2,)), 224))
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = sam.tokens(pixels)
        half = accelerate(copy.deepcopy(sam).set_encoder_dtype(torch.bfloat16)).tokens(pixels.bfloat16()).float()
    assert F.cosine_similarity(half.flatten(1), expected.flatten(1)).min() > 0.999


def test_all_that_is_added_lies_on_the_networks_device():
    with torch.device("meta"):
        sam = SAM(EncoderSize(32, 2, 2, (1,)), 64)
    added = [buffer for block in accelerate(sam).image_encoder.blocks for buffer in block.attn.buffers()]
    assert len(added) == 6
    assert {buffer.device.type for buffer in added} == {"meta"}
