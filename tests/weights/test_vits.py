import json
import os
import re

import pytest
import torch
from safetensors.torch import save_file
from tests.weights import cellpose_tokens
from tests.weights.test_vit_names import OWN, prefixed, transformers_model

from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.models.sam import SAM_PIXEL_STATS, normalise
from sam_bloodcell.weights import backbones, vits
from sam_bloodcell.weights.backbones import Backbone
from sam_bloodcell.weights.vits import identify_vit, is_vit, load_vit, locate_vit


@pytest.mark.parametrize("form", ["bare", "teacher", "model"])
@pytest.mark.parametrize("name", ["pytorch_model_s.bin", "dinobloom.pth", "teacher_checkpoint"])
def test_a_local_file_loads_whatever_its_suffix(form, name, tmp_path):
    content = {
        "bare": OWN,
        "teacher": {"teacher": prefixed(OWN, "backbone.") | {"dino_head.last.weight": torch.ones(2)}},
        "model": {"model": prefixed(OWN, "teacher.backbone."), "iteration": 3},
    }[form]
    torch.save(content, tmp_path / name)
    vit = load_vit(Backbone(str(tmp_path / name)))
    assert vit.state_dict().keys() == OWN.keys() - {"mask_token"}
    assert all(torch.equal(value, OWN[key]) for key, value in vit.state_dict().items())
    assert not vit.training
    assert not any(parameter.requires_grad for parameter in vit.parameters())


def test_half_precision_files_load_as_float32(tmp_path):
    save_file({key: value.half() for key, value in OWN.items()}, tmp_path / "model.safetensors")
    assert {value.dtype for value in load_vit(Backbone(str(tmp_path))).state_dict().values()} == {torch.float32}


class _TouchesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path):
    torch.save(OWN | {"cls_token": _TouchesAFile(tmp_path / "executed")}, tmp_path / "vit.bin")
    with pytest.raises(WeightsUnavailableError, match=r"vit\.bin' is not a readable weights file"):
        load_vit(Backbone(str(tmp_path / "vit.bin")))
    assert not (tmp_path / "executed").exists()


def test_what_does_not_fit_is_listed(tmp_path):
    wrong = OWN | {"blocks.0.attn.q_norm.weight": torch.ones(64), "norm.bias": torch.ones(3)}
    del wrong["blocks.1.mlp.fc1.bias"]
    torch.save(wrong, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"vit\.pth' cannot be used\. The file does not fit this ViT:") as caught:
        load_vit(Backbone(str(tmp_path / "vit.pth")))
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  blocks.0.attn.q_norm.weight: unknown",
        "  blocks.1.mlp.fc1.bias: missing",
        "  norm.bias: (3,) instead of (64,)",
    ]


def test_a_file_of_another_kind_names_the_backbone_and_the_first_keys(tmp_path):
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"resnet\.pth' cannot be used.*not a ViT.*keys are \['conv1\.weight'\]\. Fix"):
        load_vit(Backbone(str(tmp_path / "resnet.pth")))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("num_attention_heads", 2, 1), ("hidden_act", "relu", "'gelu'"), ("layer_norm_eps", 1e-3, 1e-6)],
)
def test_what_only_the_settings_tell_must_be_as_expected(name, value, expected, tmp_path):
    transformers_model().save_pretrained(tmp_path)
    load_vit(Backbone(str(tmp_path)))
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}), "utf-8")
    with pytest.raises(
        ValueError, match=rf"config\.json' has {name}={value!r} but expected {expected} for a ViT.*Fix: "
    ):
        load_vit(Backbone(str(tmp_path)))


@pytest.mark.parametrize("name", ["dinov2", "no/such/folder", "missing.pth", "owner/missing.bin", "a b/c", "a/b/c/d"])
def test_an_unknown_name_says_what_a_vit_may_be(name):
    expected = rf"Got backbone='{re.escape(name)}' but expected a Hub repo id \(facebook/dinov2-small\).*Fix: check the"
    with pytest.raises(ValueError, match=expected):
        load_vit(Backbone(name))


def test_a_repo_with_a_file_for_each_size_asks_for_one():
    with pytest.raises(ValueError, match=r"Fix: pass one of its files, such as MarrLab/DinoBloom/pytorch_model_s\.bin"):
        load_vit(Backbone("MarrLab/DinoBloom"))


@pytest.mark.parametrize("name", ["vit_tiny", "vit_b"])
def test_segment_anything_has_an_embedder_of_its_own(name):
    with pytest.raises(ValueError, match=rf"Got backbone='{name}' but.*Fix: for Segment Anything, use SAMLoRAEmbedder"):
        load_vit(Backbone(name))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"but expected a Hub repo id.*a folder with model\.safetensors or py"):
        load_vit(Backbone(str(tmp_path)))


def test_what_begins_with_a_folder_of_this_machine_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(vits.hub, "fetch_first", None)
    with pytest.raises(ValueError, match=r"Got backbone='weights/vit/small\.bin' but"):
        load_vit(Backbone("weights/vit/small.bin"))


def test_a_backbone_is_known_by_its_digest(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(OWN, path)
    known = identify_vit(Backbone(str(path)))
    assert len(known.digest) == 64
    load_vit(known)
    save_file({key: value + 1 for key, value in OWN.items()}, path)
    with pytest.raises(WeightsUnavailableError, match=r"is not the backbone that this was fitted on: .*Fix: restore '"):
        load_vit(known)


@pytest.mark.parametrize(("revision", "more"), [(None, ""), ("v1", " --revision v1")])
def test_the_advised_command_fetches_that_file_alone(revision, more, monkeypatch):
    asked = []
    monkeypatch.setattr(vits.hub, "fetch", lambda *where, **named: asked.append((*where, named["command"])))
    locate_vit(Backbone("MarrLab/DinoBloom/pytorch_model_g.bin", revision))
    command = f"hf download MarrLab/DinoBloom pytorch_model_g.bin{more}"
    assert asked == [("MarrLab/DinoBloom", "pytorch_model_g.bin", revision, command)]


FROM_HUB = """
import sys
from sam_bloodcell.weights.backbones import Backbone
from sam_bloodcell.weights.vits import identify_vit, load_vit
known = identify_vit(Backbone(sys.argv[1]))
print(known.revision, float(load_vit(known).cls_token.sum()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facebook/dinov2-small", "MarrLab/DinoBloom/pytorch_model_s.bin"])
def test_a_hub_repo_or_a_file_in_one_loads_by_name_and_again_offline(name, hub_server, in_subprocess):
    repo, file = name.split("/")[:2], name.split("/")[2:]
    folder = hub_server.folder("/".join(repo))
    if file:
        torch.save(OWN, folder / file[0])
        expected = float(OWN["cls_token"].sum())
    else:
        model = transformers_model()
        model.save_pretrained(folder)
        expected = float(model.embeddings.cls_token.detach().sum())
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        revision, total = in_subprocess(FROM_HUB, name, HF_ENDPOINT=hub_server.url, **env).split()
        assert float(total) == pytest.approx(expected, abs=1e-4)
        assert len(revision) == 40


def test_a_plain_vit_is_told_from_segment_anything_by_its_file(tmp_path, tiny_sam, vit_file):
    save_file(tiny_sam().state_dict(), tmp_path / "sam.safetensors")
    (tmp_path / "broken.bin").write_bytes(b"no weights")
    transformers_model().save_pretrained(tmp_path / "folder")
    assert is_vit(str(vit_file))
    assert is_vit(str(tmp_path / "folder"))
    sams = (tmp_path / "sam.safetensors", "vit_tiny", "vit_b")
    assert not any(is_vit(str(name)) for name in (*sams, tmp_path / "broken.bin", "no-such-name"))
    with pytest.raises(ValueError, match="Fix: pass one of its files"):
        is_vit("MarrLab/DinoBloom")


def test_cellpose_sam_gives_patch_tokens_alone(cellpose_file):
    with pytest.warns(UserWarning, match=r"cpsam' is Cellpose-SAM\. Cellpose-SAM was trained on images whose licence"):
        vit = load_vit(Backbone(str(cellpose_file)))
    assert (vit.layout.patch, vit.layout.image_size, vit.layout.width) == (8, 256, 32)
    assert (vit.layout.has_cls, vit.layout.any_size) == (False, False)
    tokens = vit(normalise(cellpose_tokens.image()[None], SAM_PIXEL_STATS))
    assert (tokens.cls.shape, tokens.registers.shape) == ((1, 0), (1, 0, 0))
    expected = torch.tensor(json.loads(cellpose_tokens.PATH.read_text("utf-8"))["tokens"])
    some = tokens.patches[0, :, :: cellpose_tokens.EVERY, :: cellpose_tokens.EVERY]
    torch.testing.assert_close(some, expected, rtol=0, atol=1e-4)
    assert not vit.training
    assert not any(parameter.requires_grad for parameter in vit.parameters())


@pytest.mark.parametrize(("name", "file"), [("", "cpsam"), ("/cpsam_v2", "cpsam_v2")])
def test_cellpose_sam_is_found_by_its_names(name, file, monkeypatch):
    asked = []
    monkeypatch.setattr(backbones.hub, "fetch", lambda *given, **access: asked.append((*given, access["command"])))
    locate_vit(Backbone(f"mouseland/cellpose-sam{name}"))
    assert asked == [("mouseland/cellpose-sam", file, None, f"sam-bloodcell download mouseland/cellpose-sam{name}")]


def test_cellpose_sam_needs_a_segmenter_unless_an_adapter_brings_a_decoder(cellpose_file):
    assert is_vit(str(cellpose_file))
    assert not is_vit(str(cellpose_file), with_adapter=True)
