import json
import os
import pickle
import re
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import TINY
from tests.weights import cellpose_tokens
from tests.weights.timm_tokens import weights
from transformers import SamConfig, SamModel

from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.models.inference import accelerate
from sam_bloodcell.models.sam import CELL_MASK_TOKENS, SAM_MASK_TOKENS, SAM_PIXEL_STATS, SIZES, normalise
from sam_bloodcell.weights import backbones
from sam_bloodcell.weights.backbones import (
    HUB_BACKBONES,
    Backbone,
    check_digest,
    identify,
    load_backbone,
    load_sam,
    locate_backbone,
)

STATE = {"image_encoder.pos_embed": torch.arange(8.0).view(1, 2, 2, 2)}
PATCHES = "image_encoder.patch_embed.proj.weight"


class _TouchesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("name", ["vit_x", "no/such/folder", "missing.pth", "owner/missing.safetensors"])
def test_an_unknown_backbone_lists_the_known_ones(name):
    expected = rf"Got backbone='{re.escape(name)}' but expected one of vit_tiny, vit_b, vit_l, vit_h, a Hub repo id"
    with pytest.raises(ValueError, match=expected):
        load_backbone(Backbone(name))


def test_the_packaged_backbone_is_whole_and_float32():
    state = load_backbone(Backbone("vit_tiny"))
    assert {key.split(".")[0] for key in state} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert locate_backbone(Backbone("vit_tiny")).is_file()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_loads_as_float32(suffix, tmp_path):
    path = tmp_path / f"sam{suffix}"
    half = {key: value.half() for key, value in STATE.items()}
    torch.save(half, path) if suffix == ".pth" else save_file(half, path)
    state = load_backbone(Backbone(str(path)))
    assert state.keys() == STATE.keys()
    torch.testing.assert_close(state["image_encoder.pos_embed"], STATE["image_encoder.pos_embed"])


@pytest.mark.parametrize("form", ["torch.save", "bare pickle"])
def test_a_malicious_pth_is_refused_and_runs_nothing(form, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "sam.pth"
    payload = {"image_encoder.pos_embed": _TouchesAFile(marker)}
    if form == "torch.save":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(WeightsUnavailableError, match=r"sam\.pth' is not a readable weights file"):
        load_backbone(Backbone(str(path)))
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_says_so(suffix, kept, tmp_path):
    path = tmp_path / f"sam{suffix}"
    torch.save(STATE, path) if suffix == ".pth" else save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsUnavailableError, match=r"not a readable weights file: .*Fix: fetch it again"):
        load_backbone(Backbone(str(path)))


@pytest.mark.parametrize("content", [torch.zeros(2), {"net": STATE, "epoch": 3}], ids=["tensor", "nested"])
def test_a_pth_that_holds_no_state_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(WeightsUnavailableError, match=r"sam\.pth' is not a readable weights file"):
        load_backbone(Backbone(str(tmp_path / "sam.pth")))


# the client's pauses between its tries are counted, not slept through
UNAVAILABLE = """
import time
from sam_bloodcell.weights.backbones import Backbone, load_backbone
slept = []
time.sleep = slept.append
start = time.monotonic()
try:
    load_backbone(Backbone("vit_b"))
except OSError as error:
    print(type(error).__name__, time.monotonic() - start + sum(slept), error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, {}], ids=["offline", "unreachable"])
def test_without_network_the_error_is_quick_and_names_the_way_out(env, in_subprocess):
    output = in_subprocess(UNAVAILABLE, HF_ENDPOINT="http://127.0.0.1:9", **env)
    name, seconds, message = output.split(" ", 2)
    assert name == "WeightsUnavailableError"
    assert float(seconds) < 30
    assert "model.safetensors of 'facebook/sam-vit-base'" in message
    assert "revision 70c1a07f894ebb5b307fd9eaaee97b9dfc16068f" in message
    assert "Fix: " in message
    assert "run sam-bloodcell download vit_b once with network, or pass a local file" in message


@pytest.mark.parametrize("backbone", [Backbone("vit_b"), Backbone("vit_b", "v2"), Backbone("lab/sam", "v1")], ids=str)
def test_the_advised_command_fetches_what_was_asked_for(backbone, monkeypatch):
    asked = []
    monkeypatch.setattr(backbones.hub, "fetch", lambda repo, _, commit, **named: asked.append((repo, commit, named)))
    locate_backbone(backbone)
    _, _, name, *options = asked[0][2]["command"].split()
    locate_backbone(Backbone(name, options[1] if options else None))
    assert asked[1][:2] == asked[0][:2] == backbone.resolved()


def test_revisions_are_pinned_unless_asked_otherwise():
    for name in ("vit_b", "vit_l", "vit_h"):
        assert Backbone(name).resolved() == HUB_BACKBONES[name]
        assert re.fullmatch("[0-9a-f]{40}", HUB_BACKBONES[name][1])
    assert Backbone("vit_b", "main").resolved() == ("facebook/sam-vit-base", "main")
    assert Backbone("someone/sam").resolved() == ("someone/sam", None)


def test_a_backbone_is_known_by_its_digest(tmp_path):
    path = tmp_path / "sam.safetensors"
    save_file(STATE, path)
    known = identify(Backbone(str(path)))
    assert len(known.digest) == 64
    load_backbone(known)
    save_file({key: value + 1 for key, value in STATE.items()}, path)
    with pytest.raises(WeightsUnavailableError, match=r"is not the backbone that this was fitted on: .*Fix: restore '"):
        load_backbone(known)


def test_other_packaged_weights_need_the_version_that_has_them():
    path = locate_backbone(Backbone("vit_tiny"))
    with pytest.raises(WeightsUnavailableError, match="install the version of sam-bloodcell that it was fitted with"):
        check_digest(Backbone("vit_tiny", digest="0" * 64), path)


@pytest.mark.parametrize(("two_masks", "tokens"), [(True, CELL_MASK_TOKENS), (False, SAM_MASK_TOKENS)])
def test_a_network_has_two_mask_tokens_or_those_of_its_backbone(two_masks, tokens, tiny_sam, tmp_path):
    kept = tiny_sam(size=SIZES["vit_tiny"], mask_tokens=SAM_MASK_TOKENS).state_dict()
    save_file(kept, tmp_path / "sam.safetensors")
    sam = load_sam(Backbone(str(tmp_path / "sam.safetensors")), 64, two_masks=two_masks)
    assert (sam.image_size, len(sam.mask_decoder.mask_tokens.weight)) == (64, tokens)
    torch.testing.assert_close(sam.state_dict()[PATCHES], kept[PATCHES])


@pytest.fixture
def network(tiny_sam, monkeypatch):
    """Return a random SAM with the four mask tokens of the original, and a size of its own by name."""
    monkeypatch.setitem(SIZES, "under test", TINY)
    return tiny_sam(mask_tokens=SAM_MASK_TOKENS)


def _renamed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


LAYOUTS = {
    "segment-anything": lambda state: state,
    "micro-sam, fine-tuned": lambda state: {"model_state": _renamed(state, "sam."), "iteration": 3},
    "micro-sam, on several GPUs": lambda state: {"model_state": _renamed(state, "module.sam.")},
    "micro-sam, with its own decoder": lambda state: {"model_state": state, "decoder_state": {"x": torch.ones(1)}},
    "MedSAM's training": lambda state: {"model": _renamed(state, "module."), "epoch": 3, "optimizer": {"state": {}}},
    "Lightning": lambda state: {"state_dict": _renamed(state, "model."), "epoch": 3, "hparams_name": None},
    "compiled": lambda state: {"state_dict": _renamed(state, "_orig_mod.")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["sam.pth", "vit_b_lm.pt", "pytorch_model.bin", "last.ckpt", "vit_b_lm"])
def test_neighbours_checkpoints_load_whatever_their_suffix(layout, name, network, tmp_path):
    torch.save(LAYOUTS[layout](network.state_dict()), tmp_path / name)
    sam = load_sam(Backbone(str(tmp_path / name)), 64, two_masks=False)
    for key, value in network.state_dict().items():
        assert torch.equal(sam.state_dict()[key], value), key


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("write", [save_file, torch.save, partial(torch.save, _use_new_zipfile_serialization=False)])
def test_the_content_tells_the_format_and_not_the_suffix(write, suffix, network, tmp_path):
    path = tmp_path / f"sam.{suffix}"
    write(dict(network.state_dict()), path)
    assert torch.equal(load_backbone(Backbone(str(path)))[PATCHES], network.state_dict()[PATCHES])


@pytest.mark.parametrize("prefix", ["", "image_encoder.", "module.image_encoder."])
def test_an_encoder_alone_is_named_as_such(prefix, network, tmp_path):
    path = tmp_path / "encoder.pt"
    torch.save(_renamed(network.image_encoder.state_dict(), prefix), path)
    for two_masks in (True, False):
        with pytest.raises(
            ValueError, match=r"encoder\.pt' has only SAM's image encoder.*Fix: pass the complete check"
        ):
            load_sam(Backbone(str(path)), 64, two_masks=two_masks)


def test_a_checkpoint_without_mask_tokens_is_refused(network, tmp_path):
    state = network.state_dict()
    del state["mask_decoder.mask_tokens.weight"]
    torch.save(state, tmp_path / "sam.pt")
    for two_masks in (True, False):
        with pytest.raises(
            ValueError, match=r"sam\.pt' cannot be used.*\n  mask_decoder\.mask_tokens\.weight: missing"
        ):
            load_sam(Backbone(str(tmp_path / "sam.pt")), 64, two_masks=two_masks)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("write", [save_file, torch.save])
def test_weights_that_are_no_numbers_are_refused(value, write, network, tmp_path):
    state = dict(network.state_dict())
    state[PATCHES] = torch.full_like(state[PATCHES], value)
    write(state, tmp_path / "sam.pt")
    with pytest.raises(WeightsUnavailableError, match=rf"NaN or infinite numbers in 1 of \d+ .*{PATCHES}\. Fix:"):
        load_backbone(Backbone(str(tmp_path / "sam.pt")))


def test_a_checkpoint_that_needs_unpickling_names_what_it_needs(network, tmp_path):
    torch.save({"model": network.state_dict(), "best": np.float64(0.9)}, tmp_path / "sam.pt")
    with pytest.raises(
        WeightsUnavailableError, match=r"besides tensors it contains Python objects \(numpy\..*Fix: if you trust"
    ):
        load_backbone(Backbone(str(tmp_path / "sam.pt")))


def test_what_is_no_file_of_weights_says_how_it_begins(tmp_path):
    (tmp_path / "sam.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsUnavailableError, match=r"it begins with b'version h'\. Fix: fetch it again"):
        load_backbone(Backbone(str(tmp_path / "sam.safetensors")))


def test_a_micro_sam_name_tells_where_its_file_is():
    with pytest.raises(
        ValueError, match=r"Fix: download micro-sam's vit_b_lm from its page on Zenodo.*path of its file"
    ):
        load_backbone(Backbone("vit_b_lm"))


FROM_HUB = """
import sys
from sam_bloodcell.weights.backbones import Backbone, load_backbone
print(float(load_backbone(Backbone(sys.argv[1]))["image_encoder.pos_embed"].sum()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_hub_repo_in_transformers_layout_loads_by_name(form, hub_server, in_subprocess):
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
    model = SamModel(SamConfig(vision_config=config | {"global_attn_indexes": [1], "mlp_dim": 128}))
    model.requires_grad_(False)
    torch.nn.init.normal_(model.vision_encoder.pos_embed)
    folder = hub_server.folder("wanglab/medsam-vit-base")
    if form == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder)
    expected = pytest.approx(float(model.vision_encoder.pos_embed.sum()), abs=1e-4)
    name = "wanglab/medsam-vit-base"
    assert float(in_subprocess(FROM_HUB, name, HF_ENDPOINT=hub_server.url)) == expected
    assert float(in_subprocess(FROM_HUB, name, HF_ENDPOINT=hub_server.url, HF_HUB_OFFLINE="1")) == expected


CELLPOSE = json.loads(cellpose_tokens.PATH.read_text("utf-8"))


@pytest.mark.filterwarnings("ignore:backbone=.* is Cellpose-SAM")
@pytest.mark.parametrize("way", ["as it is", "for inference"])
@torch.no_grad()
def test_tokens_of_cellpose_sam_are_those_that_cellpose_computes(way, cellpose_file):
    sam = load_sam(Backbone(str(cellpose_file)), cellpose_tokens.IMAGE_SIZE, two_masks=True).eval()
    assert (sam.size.patch, sam.size.global_blocks, len(sam.image_encoder.pos_embed[0])) == (8, (0, 1), 32)
    sam = sam if way == "as it is" else accelerate(sam)
    tokens = sam.tokens(normalise(cellpose_tokens.image()[None], SAM_PIXEL_STATS))
    some = tokens[0, :, :: cellpose_tokens.EVERY, :: cellpose_tokens.EVERY]
    torch.testing.assert_close(some, torch.tensor(CELLPOSE["tokens"]), rtol=0, atol=1e-4)


def test_loading_cellpose_sam_warns_of_its_licence(cellpose_file):
    with pytest.warns(UserWarning, match=r"cpsam' is Cellpose-SAM.* \(CC BY-NC\)\. Fix: make sure") as caught:
        load_sam(Backbone(str(cellpose_file)), 64, two_masks=True)
    assert len(caught) == 1


@pytest.mark.filterwarnings("ignore:backbone=.* is Cellpose-SAM")
@pytest.mark.parametrize("wrapped", [lambda state: _renamed(state, "module."), lambda state: {"state_dict": state}])
def test_cellpose_sam_loads_from_several_gpus_and_trainings(wrapped, cellpose_file):
    expected = load_backbone(Backbone(str(cellpose_file)))
    torch.save(wrapped(torch.load(cellpose_file)), cellpose_file)
    loaded = load_backbone(Backbone(str(cellpose_file)))
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.filterwarnings("ignore:backbone=.* is Cellpose-SAM")
def test_without_a_decoder_cellpose_sam_finds_no_cell_and_the_error_says_what_to_do(cellpose_file):
    with pytest.raises(ValueError, match=r"cpsam' is Cellpose-SAM, which has no mask decoder.*Fix: ViTEmbedder\('/"):
        load_sam(Backbone(str(cellpose_file)), 64, two_masks=False)


def test_another_network_of_cellpose_is_refused(cellpose_file):
    state = torch.load(cellpose_file)
    state["encoder.cls_token"] = state.pop("encoder.pos_embed")
    torch.save(state, cellpose_file)
    with pytest.raises(ValueError, match=r"cpsam' cannot be used.*no key 'image_encoder\.pos_embed'"):
        load_sam(Backbone(str(cellpose_file)), 64, two_masks=True)


@pytest.mark.parametrize(("name", "file"), [("", "cpsam"), ("/cpsam", "cpsam"), ("/cpsam_v2", "cpsam_v2")])
def test_cellpose_sam_is_fetched_by_the_name_of_its_repo_or_file(name, file, monkeypatch):
    asked = []
    monkeypatch.setattr(backbones.hub, "fetch", lambda *given, **access: asked.append((*given, access["command"])))
    backbone = Backbone(f"mouseland/cellpose-sam{name}")
    locate_backbone(backbone)
    assert asked == [("mouseland/cellpose-sam", file, None, f"sam-bloodcell download {backbone.name}")]
    assert backbone.resolved() == ("mouseland/cellpose-sam", None)


CELLPOSE_FROM_HUB = """
import sys
from sam_bloodcell.models.sam import SIZES, EncoderSize
from sam_bloodcell.weights.backbones import Backbone, load_sam
SIZES["under test"] = EncoderSize(32, 2, 2, (1,))
sam = load_sam(Backbone("mouseland/cellpose-sam"), 64, two_masks=True)
print(sam.size.patch, float(sam.image_encoder.patch_embed.proj.weight.sum()))
"""


@pytest.mark.slow
def test_cellpose_sam_comes_from_the_hub(cellpose_file, hub_server, in_subprocess):
    cellpose_file.rename(hub_server.folder("mouseland/cellpose-sam") / "cpsam")
    expected = float(weights(CELLPOSE["shapes"])["encoder.patch_embed.proj.weight"].sum())
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        patch, total = in_subprocess(CELLPOSE_FROM_HUB, HF_ENDPOINT=hub_server.url, **offline).split()
        assert (patch, float(total)) == ("8", pytest.approx(expected, abs=1e-4))
