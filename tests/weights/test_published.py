"""Adapters of the published code, against its forward pass told in our own words."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.cli import app
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.models.lora import Adapter, add_lora, apply_adapter, extract_adapter
from sam_bloodcell.models.sam import SIZES, EncoderSize
from sam_bloodcell.published import PUBLISHED_PIXEL_STATS, read_published_adapter
from sam_bloodcell.weights.adapters import read_adapter

TINY = EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,))
STATS = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


class WithFactors(nn.Module):
    """A fused projection whose query and value slices get B(A(x)) added."""

    def __init__(self, fused, a, b):
        super().__init__()
        self.fused, self.a, self.b = fused, a, b  # a, b: of query and value

    def forward(self, x):
        width = x.shape[-1]
        out = self.fused(x)
        out[..., :width] += self.b[0](self.a[0](x))
        out[..., -width:] += self.b[1](self.a[1](x))
        return out


def add_factors(sam, rank=4):
    """Wrap every block's projection in place; return the state that the published code would save: parameters, too."""
    width = sam.size.width
    state = {}
    for number, block in enumerate(sam.image_encoder.blocks):
        a = [nn.Linear(width, rank, bias=False) for _ in range(2)]
        b = [nn.Linear(rank, width, bias=False) for _ in range(2)]
        for part in range(2):
            nn.init.normal_(b[part].weight, std=0.1)
            state[f"w_a_{2 * number + part:03d}"] = a[part].weight
            state[f"w_b_{2 * number + part:03d}"] = b[part].weight
        block.attn.qkv = WithFactors(block.attn.qkv, a, b)
    decoder = {key: value for key, value in sam.state_dict().items() if key.startswith(("prompt_e", "mask_d"))}
    return state | decoder


def forward(sam, pixels):
    """segment-anything's own way through its own modules, one image, no prompt: pre-neck tokens and mask logits."""
    seen = []
    hook = sam.image_encoder.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = sam.image_encoder(pixels)
    hook.remove()
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    logits, _ = sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    return seen[0], logits


@pytest.fixture
def published(tiny_sam, tmp_path):
    """Return (path, state) of a file as the published code saves it, for the tiny SAM."""
    state = add_factors(tiny_sam(mask_tokens=2))
    return save(state, tmp_path), state


def save(state, folder):
    torch.save(state, folder / "published.pth")
    return folder / "published.pth"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "px"), [(TINY, 64), (SIZES["vit_b"], 224)], ids=["tiny", "vit_b"])
@torch.no_grad()
def test_a_converted_adapter_equals_the_published_forward_pass(size, px, tiny_sam, tmp_path):
    theirs, ours = (tiny_sam(image_size=px, size=size, seed=0) for _ in range(2))
    plain = ours.tokens(pixels := torch.randn(1, 3, px, px, generator=torch.Generator().manual_seed(1)))
    for parameter in theirs.mask_decoder.parameters():
        parameter *= 1.1  # trained since, so the file's decoder has to be used
    adapter = read_published_adapter(save(add_factors(theirs), tmp_path), backbone="own", image_size=px)
    apply_adapter(ours, adapter)
    tokens, logits = forward(theirs, pixels)
    torch.testing.assert_close(ours.tokens(pixels), tokens, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours(pixels), logits, rtol=0, atol=1e-4)
    assert (tokens - plain).abs().max() > 0.01
    assert logits.abs().max() > 0.1
    if size == SIZES["vit_b"]:
        assert sum(value.numel() for value in adapter.lora.values()) == 147_456


def test_it_is_the_adapter_that_training_would_leave(published, tiny_sam):
    path, state = published
    sam = tiny_sam()
    trained = extract_adapter(sam, add_lora(sam, rank=4), STATS)
    adapter = read_published_adapter(path, backbone="own", image_size=64, pixel_stats=STATS)
    assert {key: value.shape for key, value in adapter.lora.items()} == {k: v.shape for k, v in trained.lora.items()}
    assert {key: value.shape for key, value in adapter.decoder.items()} == {
        key: value.shape for key, value in trained.decoder.items()
    }
    assert adapter.lora_config == trained.lora_config
    assert (adapter.pixel_stats, adapter.image_size) == (STATS, 64)
    value_b_of_block_1 = adapter.lora["base_model.model.blocks.1.attn.qkv.v.lora_B.weight"]
    torch.testing.assert_close(value_b_of_block_1, state["w_b_003"], rtol=0, atol=0)


def test_a_file_of_the_published_code_can_be_hashed_and_pickled(published):
    adapter = read_published_adapter(published[0], backbone="own")
    assert len(adapter.digest()) == 64
    assert not any(value.requires_grad for value in adapter.lora.values())
    again = Adapter.unpacked(pickle.loads(pickle.dumps(adapter.packed())))
    assert again.digest() == adapter.digest()


def _transposed(state):
    return {key: value.T.contiguous().T if value.ndim == 2 else value for key, value in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {key if key[:2] == "w_" else f"module.sam.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        _transposed,
        lambda state: {key: value.double() for key, value in state.items()},
    ],
    ids=["DataParallel", "inside a network", "checkpoint", "not contiguous", "float64"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_forks_of_the_published_code_load_alike(change, zipped, published, tmp_path):
    path, state = published
    torch.save(change(state), tmp_path / "fork", _use_new_zipfile_serialization=zipped)
    fork = read_published_adapter(tmp_path / "fork", backbone="own")
    assert fork.digest() == read_published_adapter(path, backbone="own").digest()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_are_read_as_float32(dtype, published, tmp_path):
    torch.save({key: value.to(dtype) for key, value in published[1].items()}, tmp_path / "half.pt")
    adapter = read_published_adapter(tmp_path / "half.pt", backbone="own")
    assert {value.dtype for value in (adapter.lora | adapter.decoder).values()} == {torch.float32}


def test_the_published_run_is_the_default(published):
    adapter = read_published_adapter(published[0], backbone="own")
    assert adapter.image_size == 224
    assert adapter.pixel_stats == PUBLISHED_PIXEL_STATS == ((215.03, 187.76, 200.47), (41.30, 56.92, 21.95))


def test_numbers_sort_as_numbers_past_three_digits(published, tmp_path):
    """1000 comes after 999 and stands for the query of block 500, whatever the order in the file."""
    state = {key: value for key, value in published[1].items() if not key.startswith("w_")}
    for number in sorted(range(1002), key=str):
        state[f"w_a_{number:03d}"] = torch.full((1, 2), float(number))
        state[f"w_b_{number:03d}"] = torch.full((2, 1), float(number))
    adapter = read_published_adapter(save(state, tmp_path), backbone="own")
    assert adapter.lora_config["r"] == 1
    for block in (0, 499, 500):
        for offset, part in enumerate("qv"):
            for factor in "AB":
                value = adapter.lora[f"base_model.model.blocks.{block}.attn.qkv.{part}.lora_{factor}.weight"]
                assert (value == 2 * block + offset).all()


def test_everything_wrong_is_listed_in_one_error(published, tmp_path):
    _, state = published
    del state["w_b_001"], state["mask_decoder.iou_token.weight"]
    state["w_a_002"] = torch.zeros(3, 32)
    state["w_b_003"] = torch.zeros(4, 32)
    state["w_a_4"] = torch.zeros(4, 32)
    state["image_encoder.pos_embed"] = torch.zeros(1)
    state["mask_decoder.mask_tokens.weight"] = torch.zeros(4, 256)
    with pytest.raises(ValueError, match=r"published\.pth' is not an adapter of the published code for own") as caught:
        read_published_adapter(save(state, tmp_path), backbone="own")
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [
        "  mask_decoder.iou_token.weight: missing",
        "  w_b_001: missing",
        "  w_a_4: unknown",
        "  image_encoder.pos_embed: unknown",
        "  w_a_002: (3, 32) instead of (4, 32)",
        "  w_b_003: (4, 32) instead of (32, 4)",
        "  mask_decoder.mask_tokens.weight: (4, 256) instead of (2, 256)",
    ]
    assert lines[-1].startswith("Fix: pass the .pth that its training wrote, whole, and the backbone")


@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        (lambda key: key not in ("w_a_003", "w_b_003"), ["w_a_003", "w_b_003"]),
        (lambda key: key not in ("w_a_001", "w_b_001"), ["w_a_001", "w_b_001"]),
        (lambda key: key.startswith("w_"), ["prompt_encoder.*", "mask_decoder.*"]),
        (lambda key: not key.startswith("w_"), ["w_a_*", "w_b_*"]),
        (lambda key: not key.startswith("w_b"), ["w_b_*"]),
    ],
    ids=["odd count", "a gap", "no decoder", "no factors", "no B"],
)
def test_what_is_missing_is_named(kept, missing, published, tmp_path):
    state = {key: value for key, value in published[1].items() if kept(key)}
    with pytest.raises(ValueError, match="is not an adapter") as caught:
        read_published_adapter(save(state, tmp_path), backbone="own")
    assert str(caught.value).splitlines()[1:-1] == [f"  {key}: missing" for key in missing]


def test_an_adapter_of_another_size_is_refused(published):
    with pytest.raises(ValueError, match="published code for vit_b") as caught:
        read_published_adapter(published[0], backbone="vit_b")
    assert "  w_a_000: (4, 32) instead of (4, 768)" in str(caught.value)
    assert "  w_b_023: missing" in str(caught.value)


def test_a_std_of_zero_is_refused(published):
    with pytest.raises(ValueError, match=r"Got std=\(1, 0, 1\) but expected positive numbers\. Fix:"):
        read_published_adapter(published[0], backbone="own", pixel_stats=((0, 0, 0), (1, 0, 1)))


class _TouchesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_malicious_file_is_refused_and_runs_nothing(published, tmp_path):
    marker = tmp_path / "executed"
    path = save(published[1] | {"w_a_000": _TouchesAFile(marker)}, tmp_path)
    with pytest.raises(WeightsUnavailableError, match=r"published\.pth' is not a readable weights file"):
        read_published_adapter(path, backbone="own")
    assert not marker.exists()


@pytest.fixture
def for_vit_tiny(tiny_sam, tmp_path):
    return save(add_factors(tiny_sam(image_size=224, size=SIZES["vit_tiny"])), tmp_path)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_embedder_takes_the_file_or_the_converted_folder(for_vit_tiny, tmp_path):
    folder = tmp_path / "new" / "adapter"
    result = run("convert", for_vit_tiny, folder, "--backbone", "vit_tiny")
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(folder)
    images = make_blood_cells(1, domains=["lab_a"], random_state=0).images
    fitted = [SAMLoRAEmbedder("vit_tiny", adapter, dtype="float32").fit(images) for adapter in (for_vit_tiny, folder)]
    packaged = SAMLoRAEmbedder("vit_tiny", dtype="float32").fit(images)
    for embedder in fitted:
        assert embedder.pixel_stats_ == PUBLISHED_PIXEL_STATS
        assert embedder.prompt_ == "none"
    with torch.no_grad():
        pixels = torch.randn(1, 3, 224, 224)
        tokens = [embedder.encoder_.network().tokens(pixels) for embedder in (*fitted, packaged)]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert (tokens[0] - tokens[2]).abs().max() > 0.1


def test_convert_notes_what_the_file_does_not_say(for_vit_tiny, tmp_path):
    told = ("--image-size", 64, "--mean", "1,2,3", "--std", "4.5,5,6")
    result = run("convert", for_vit_tiny, tmp_path / "adapter", "--backbone", "vit_tiny", *told)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "adapter" / "sam_bloodcell.json").read_text())["pixel_stats"] == [
        [1, 2, 3],
        [4.5, 5, 6],
    ]
    adapter = read_adapter(tmp_path / "adapter")
    assert adapter.image_size == 64


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--backbone", "vit_b"), "w_a_000: (4, 192) instead of (4, 768)"),
        (
            ("--backbone", "vit_tiny", "--mean", "1,2"),
            "Got '1,2' but expected three numbers. Fix: write them as 215.03",
        ),
    ],
)
def test_convert_says_what_is_wrong_and_writes_nothing(args, message, for_vit_tiny, tmp_path):
    result = run("convert", for_vit_tiny, tmp_path / "adapter", *args)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "adapter").exists()
