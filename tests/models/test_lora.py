import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sam_bloodcell.models.lora import (
    Adapter,
    add_lora,
    apply_adapter,
    extract_adapter,
    fuse_qkv,
    resume_adapter,
    split_qkv,
)
from sam_bloodcell.models.sam import SAM, SIZES, EncoderSize
from sam_bloodcell.weights.adapters import read_adapter, write_adapter
from sam_bloodcell.weights.backbones import HUB_BACKBONES, Backbone

STATS = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
DECODER = ("prompt_encoder.", "mask_decoder.")


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trained(tiny_sam):
    """Return (SAM with LoRA, its PEFT model) with every trainable parameter moved."""
    sam = tiny_sam()
    model = add_lora(sam, rank=4)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sam.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return sam.eval(), model


def _trainable(sam):
    return {name for name, parameter in sam.named_parameters() if parameter.requires_grad}


def _assert_same_masks(logits, expected):
    """Equal to 1e-5 of the logits' range: the random decoder makes them large."""
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_split_and_fuse_change_nothing(tiny_sam, pixels):
    sam = tiny_sam()
    before = {key: value.clone() for key, value in sam.state_dict().items()}
    tokens = sam.tokens(pixels)
    split_qkv(sam.image_encoder)
    torch.testing.assert_close(sam.tokens(pixels), tokens, rtol=1e-6, atol=1e-6)
    fuse_qkv(sam.image_encoder)
    after = sam.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0)


def test_only_q_v_factors_and_the_decoder_are_trainable(tiny_sam):
    sam = tiny_sam()
    decoder = {name for name in _trainable(sam) if name.startswith(DECODER)}
    add_lora(sam)
    factors = {
        f"image_encoder.blocks.{block}.attn.qkv.{part}.lora_{factor}.default.weight"
        for block in range(2)
        for part in "qv"
        for factor in "AB"
    }
    assert _trainable(sam) == factors | decoder


def test_rank_4_on_vit_b_has_147456_parameters():
    with torch.device("meta"):
        sam = SAM(SIZES["vit_b"])
        add_lora(sam, rank=4)
    trainable = [p for p in sam.image_encoder.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == 147_456


@torch.no_grad()
def test_fresh_lora_is_kaiming_a_zero_b_and_invisible(tiny_sam, pixels):
    sam = tiny_sam()
    tokens = sam.tokens(pixels)
    add_lora(sam)
    torch.testing.assert_close(sam.tokens(pixels), tokens, rtol=1e-6, atol=1e-6)
    bound = 1 / 32**0.5  # Kaiming-uniform with a = sqrt(5): +-1/sqrt(width)
    for name, parameter in sam.named_parameters():
        if "lora_A" in name:
            assert 0.8 * bound < parameter.abs().max() <= bound
        elif "lora_B" in name:
            assert not parameter.any()


@pytest.mark.parametrize(("alpha", "scaling"), [(None, 1.0), (8, 2.0)])
def test_scaling_is_alpha_over_rank(tiny_sam, alpha, scaling):
    sam = tiny_sam()
    add_lora(sam, rank=4, alpha=alpha)
    assert sam.image_encoder.blocks[0].attn.qkv.q.scaling["default"] == scaling


def test_blocks_adapts_those_alone(tiny_sam):
    sam = tiny_sam(size=EncoderSize(32, 12, 2, (1,)))
    add_lora(sam, blocks=[1])
    adapted = {name.split(".")[2] for name in _trainable(sam) if "lora" in name}
    assert adapted == {"1"}


@pytest.mark.parametrize("blocks", [[0, 2, -1], np.array([0, 2, -1])], ids=["list", "array"])
def test_blocks_beyond_the_encoder_are_refused_before_anything_changes(tiny_sam, blocks):
    sam = tiny_sam()
    names = list(sam.state_dict())
    with pytest.raises(
        ValueError, match=r"Got 2, -1 among blocks but expected numbers from 0 to 1.*has 2 blocks\. Fix"
    ):
        add_lora(sam, blocks=blocks)
    assert list(sam.state_dict()) == names
    with pytest.raises(ValueError, match=r"Got blocks=\[\] but expected at least one.*Fix: blocks=None adapts all"):
        add_lora(sam, blocks=[])


@torch.no_grad()
def test_an_applied_adapter_equals_the_trained_network(tiny_sam, trained, pixels):
    sam, model = trained
    plain = tiny_sam()
    assert (plain.tokens(pixels) - sam.tokens(pixels)).abs().max() > 1e-3
    names = list(plain.state_dict())
    apply_adapter(plain, extract_adapter(sam, model, STATS))
    torch.testing.assert_close(plain.tokens(pixels), sam.tokens(pixels), rtol=1e-5, atol=1e-5)
    _assert_same_masks(plain(pixels), sam(pixels))
    assert list(plain.state_dict()) == names


def test_extracted_parts_are_copies(trained):
    sam, model = trained
    adapter = extract_adapter(sam, model, STATS)
    assert (adapter.pixel_stats, adapter.image_size) == (STATS, 64)
    assert json.loads(json.dumps(adapter.lora_config))["r"] == 4
    kept = {key: value.clone() for key, value in (adapter.lora | adapter.decoder).items()}
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.zero_()
    for key, value in (adapter.lora | adapter.decoder).items():
        torch.testing.assert_close(value, kept[key], rtol=0, atol=0)


@torch.no_grad()
def test_resume_starts_where_training_stopped(tiny_sam, trained, pixels):
    sam, model = trained
    again = tiny_sam()
    resume_adapter(again, extract_adapter(sam, model, STATS), rank=4)
    torch.testing.assert_close(again.eval()(pixels), sam(pixels), rtol=1e-6, atol=1e-6)
    assert any("lora" in name for name in _trainable(again))


@torch.no_grad()
def test_resume_at_another_rank_takes_the_decoder_alone(tiny_sam, trained, pixels):
    sam, model = trained
    again = tiny_sam()
    plain_tokens = again.tokens(pixels)
    with pytest.warns(
        UserWarning, match=r"start fresh: those of the adapter have rank 4 .* asks for rank 2 .* Fix: to"
    ):
        resume_adapter(again, extract_adapter(sam, model, STATS), rank=2)
    torch.testing.assert_close(again.eval().tokens(pixels), plain_tokens, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again.mask_decoder.iou_token.weight, sam.mask_decoder.iou_token.weight)


def test_an_adapter_of_another_width_is_refused(tiny_sam, trained):
    adapter = extract_adapter(*trained, STATS)
    wider = tiny_sam(size=EncoderSize(64, 2, 2, (1,)))
    with pytest.raises(ValueError, match=r"does not fit an encoder 64 wide with 2 blocks\. Fix: pass the backbone"):
        apply_adapter(wider, adapter)


def test_an_adapter_of_more_blocks_is_refused(tiny_sam, trained):
    adapter = extract_adapter(*trained, STATS)
    with pytest.raises(ValueError, match="keys that this encoder lacks"):
        apply_adapter(tiny_sam(size=EncoderSize(32, 1, 2, (0,))), adapter)


@torch.no_grad()
def test_folder_round_trip(tiny_sam, trained, pixels, tmp_path):
    sam, model = trained
    adapter = extract_adapter(sam, model, STATS)
    folder = write_adapter(adapter, tmp_path / "new" / "adapter", Backbone("vit_b"))
    read = read_adapter(folder)
    for mine, theirs in ((adapter.lora, read.lora), (adapter.decoder, read.decoder)):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            torch.testing.assert_close(theirs[key], value, rtol=0, atol=0)
    assert (read.pixel_stats, read.image_size) == (STATS, 64)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == HUB_BACKBONES["vit_b"]
    plain = tiny_sam()
    apply_adapter(plain, read)
    _assert_same_masks(plain(pixels), sam(pixels))


@torch.no_grad()
def test_stock_peft_reads_the_folder(tiny_sam, trained, pixels, tmp_path):
    import peft

    sam, model = trained
    folder = write_adapter(extract_adapter(sam, model, STATS), tmp_path, Backbone("vit_b"))
    plain = tiny_sam()
    split_qkv(plain.image_encoder)
    peft.PeftModel.from_pretrained(plain.image_encoder, str(folder)).eval()
    torch.testing.assert_close(plain.tokens(pixels), sam.tokens(pixels), rtol=1e-6, atol=1e-6)


def test_settings_of_a_newer_peft_are_left_out_where_they_are_off(tiny_sam, trained):
    adapter = extract_adapter(*trained, STATS)
    adapter.lora_config |= {"newer": None, "use_newer": False, "newer_size": 16, "newer_table": {}}
    apply_adapter(tiny_sam(), adapter)


@pytest.mark.parametrize("value", [True, {"rank": 4}, "fast"])
def test_settings_of_a_newer_peft_that_are_on_are_refused(tiny_sam, trained, value):
    adapter = extract_adapter(*trained, STATS)
    adapter.lora_config["newer"] = value
    with pytest.raises(ValueError, match=r"uses newer, which the installed PEFT does not know.*--upgrade peft"):
        apply_adapter(tiny_sam(), adapter)


def _stock_adapter(sam, folder, *, safe=True, **settings):
    """Save an adapter as stock PEFT does, with our decoder and settings beside it; return (adapter, model)."""
    import peft

    split_qkv(sam.image_encoder)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 32, "target_modules": ["q", "v"]} | settings)
    model = peft.get_peft_model(sam.image_encoder, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    write_adapter(extract_adapter(sam, model, STATS), folder, Backbone("vit_b"))
    (folder / "adapter_model.safetensors").unlink()
    model.save_pretrained(str(folder), safe_serialization=safe)
    return read_adapter(folder), model


KINDS = {
    "alpha": {},
    "rank-stabilised": {"use_rslora": True},
    "alpha by module": {"alpha_pattern": {"q": 3}},
    "rank by module": {"rank_pattern": {"blocks.1.attn.qkv.v": 2}},
    "DoRA": {"use_dora": True},
    "biases": {"bias": "lora_only"},
    "all projections": {"target_modules": ["q", "k", "v"]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [None, 32, 8.0])
@torch.no_grad()
def test_going_on_from_an_adapter_starts_from_what_it_computes(kind, alpha, tiny_sam, pixels, tmp_path):
    sam, again, applied = tiny_sam(), tiny_sam(), tiny_sam()
    adapter, _ = _stock_adapter(sam, tmp_path, **KINDS[kind])
    expected = sam.eval().tokens(pixels)
    assert (expected - tiny_sam().tokens(pixels)).abs().max() > 1e-2
    model = resume_adapter(again, adapter, rank=4, alpha=alpha)
    torch.testing.assert_close(again.eval().tokens(pixels), expected, rtol=1e-4, atol=1e-4)
    apply_adapter(applied, extract_adapter(again, model, STATS))
    torch.testing.assert_close(applied.tokens(pixels), expected, rtol=1e-4, atol=1e-4)
    assert model.peft_config["default"].lora_alpha == (alpha or 32)


@torch.no_grad()
def test_an_adapter_of_peft_in_its_older_formats_loads(tiny_sam, pixels, tmp_path):
    sam, plain = tiny_sam(), tiny_sam()
    _stock_adapter(sam, tmp_path, safe=False)
    assert (tmp_path / "adapter_model.bin").is_file()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    old = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type", "fan_in_fan_out")
    kept = {key: config[key] for key in old} | {"enable_lora": None, "merge_weights": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(kept))
    apply_adapter(plain, read_adapter(tmp_path))
    torch.testing.assert_close(plain.tokens(pixels), sam.eval().tokens(pixels), rtol=1e-4, atol=1e-4)


def test_an_adapter_of_another_method_is_named(tiny_sam, trained):
    adapter = extract_adapter(*trained, STATS)
    adapter.lora_config["peft_type"] = "LOHA"
    with pytest.raises(ValueError, match=r"is of the type LOHA but expected LORA\. Fix:"):
        apply_adapter(tiny_sam(), adapter)


@pytest.mark.parametrize("part", ["lora", "decoder"])
@pytest.mark.parametrize("use", [apply_adapter, resume_adapter])
def test_an_incomplete_adapter_is_refused(part, use, tiny_sam, trained):
    adapter = replace(extract_adapter(*trained, STATS), source="half")
    whole = getattr(adapter, part)
    adapter = replace(adapter, **{part: {key: whole[key] for key in sorted(whole)[: len(whole) // 2]}})
    with pytest.raises(
        ValueError, match=r"adapter 'half' is incomplete.*the first: .*Fix: fetch or save it again, whole"
    ):
        use(tiny_sam(), adapter)


def test_an_adapter_holds_plain_tensors(trained):
    adapter = extract_adapter(*trained, STATS)
    parameters = {key: torch.nn.Parameter(value.T.contiguous().T) for key, value in adapter.lora.items()}
    assert replace(adapter, lora=parameters).digest() == adapter.digest()
    brain = replace(adapter, lora={key: value.bfloat16() for key, value in adapter.lora.items()})
    assert len(brain.digest()) == 64
    assert Adapter.unpacked(brain.packed()).digest() == brain.digest()
