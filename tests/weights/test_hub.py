import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from tests.hub_server import COMMIT

from sam_bloodcell.models.lora import Adapter
from sam_bloodcell.weights import hub
from sam_bloodcell.weights.hub import Backbone, WeightsUnavailableError

STATE = {"image_encoder.pos_embed": torch.arange(8.0).view(1, 2, 2, 2)}
ADAPTER = Adapter(
    lora={"base_model.q.lora_A.weight": torch.ones(4, 2)},
    lora_config={"r": 4},
    decoder={"mask_decoder.iou_token.weight": torch.ones(1, 2)},
    pixel_stats=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    image_size=64,
)


class _TouchesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("name", ["vit_x", "no/such/folder", "missing.pth", "owner/missing.safetensors"])
def test_an_unknown_backbone_lists_the_known_ones(name):
    expected = rf"Got backbone='{re.escape(name)}' but expected one of vit_tiny, vit_b, vit_l, vit_h, a Hub repo id"
    with pytest.raises(ValueError, match=expected):
        hub.load_backbone(Backbone(name))


def test_the_packaged_backbone_is_whole_and_float32():
    state = hub.load_backbone(Backbone("vit_tiny"))
    assert {key.split(".")[0] for key in state} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert hub.locate_backbone(Backbone("vit_tiny")).is_file()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_loads_as_float32(suffix, tmp_path):
    path = tmp_path / f"sam{suffix}"
    half = {key: value.half() for key, value in STATE.items()}
    torch.save(half, path) if suffix == ".pth" else save_file(half, path)
    state = hub.load_backbone(Backbone(str(path)))
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
    with pytest.raises(WeightsUnavailableError, match=r"sam\.pth' is no readable weights file"):
        hub.load_backbone(Backbone(str(path)))
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_says_so(suffix, kept, tmp_path):
    path = tmp_path / f"sam{suffix}"
    torch.save(STATE, path) if suffix == ".pth" else save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsUnavailableError, match=r"no readable weights file: .*Fix: fetch it again"):
        hub.load_backbone(Backbone(str(path)))


@pytest.mark.parametrize("content", [torch.zeros(2), {"model": STATE, "epoch": 3}], ids=["tensor", "nested"])
def test_a_pth_that_holds_no_state_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(WeightsUnavailableError, match=r"sam\.pth' is no readable weights file"):
        hub.load_backbone(Backbone(str(tmp_path / "sam.pth")))


# the client's pauses between its tries are counted, not slept through
UNAVAILABLE = """
import time
from sam_bloodcell.weights.hub import Backbone, load_backbone
slept = []
time.sleep = slept.append
start = time.monotonic()
try:
    load_backbone(Backbone("vit_b"))
except OSError as error:
    print(type(error).__name__, time.monotonic() - start + sum(slept), error)
"""


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
    monkeypatch.setattr(hub.remote, "fetch", lambda repo, _, revision, **named: asked.append((repo, revision, named)))
    hub.locate_backbone(backbone)
    _, _, name, *options = asked[0][2]["command"].split()
    hub.locate_backbone(Backbone(name, options[1] if options else None))
    assert asked[1][:2] == asked[0][:2] == backbone.resolved()


def test_revisions_are_pinned_unless_asked_otherwise():
    for name in ("vit_b", "vit_l", "vit_h"):
        assert Backbone(name).resolved() == hub.HUB_BACKBONES[name]
        assert re.fullmatch("[0-9a-f]{40}", hub.HUB_BACKBONES[name][1])
    assert Backbone("vit_b", "main").resolved() == ("facebook/sam-vit-base", "main")
    assert Backbone("someone/sam").resolved() == ("someone/sam", None)


@pytest.mark.parametrize("name", hub._ADAPTER_FILES)
def test_an_adapter_folder_names_the_file_it_lacks(name, tmp_path):
    hub.write_adapter(ADAPTER, tmp_path, Backbone("vit_tiny"))
    (tmp_path / name).unlink()
    with pytest.raises(WeightsUnavailableError, match=rf"it lacks {re.escape(name)}\. Fix: pass a folder made by"):
        hub.read_adapter(tmp_path)


def test_an_adapter_folder_notes_its_settings(tmp_path):
    hub.write_adapter(ADAPTER, tmp_path, Backbone("vit_b"), dtype=torch.float16)
    assert hub.adapter_settings(tmp_path) == {
        "kind": "adapter",
        "backbone": "vit_b",
        "digest": None,
        "revision": hub.HUB_BACKBONES["vit_b"][1],
        "image_size": 64,
        "pixel_stats": [[1, 2, 3], [4, 5, 6]],
    }


def test_only_vit_tiny_ships_with_an_adapter():
    assert hub.packaged_adapter("vit_tiny").image_size == 224
    assert hub.packaged_adapter("vit_b") is None


FETCH = """
import json
from sam_bloodcell.weights.hub import Backbone, WeightsUnavailableError, load_backbone, read_adapter
state = load_backbone(Backbone("lab/small", "v1"))
adapter = read_adapter("lab/adapter")
try:
    load_backbone(Backbone("lab/absent"))
    error = None
except WeightsUnavailableError as exc:
    error = str(exc)
print(json.dumps({
    "state": {key: value.tolist() for key, value in state.items()},
    "lora": {key: value.tolist() for key, value in adapter.lora.items()},
    "image_size": adapter.image_size,
    "error": error,
}))
"""
FROM_CACHE = """
from sam_bloodcell.weights.hub import Backbone, load_backbone
print(*load_backbone(Backbone("lab/small", "v1")))
"""


def test_weights_and_adapters_come_from_the_hub_and_stay_cached(hub_server, in_subprocess):
    save_file(STATE, hub_server.folder("lab/small") / "model.safetensors")
    hub.write_adapter(ADAPTER, hub_server.folder("lab/adapter"), Backbone("vit_tiny"))

    got = json.loads(in_subprocess(FETCH, HF_ENDPOINT=hub_server.url))
    assert got["state"] == {key: value.tolist() for key, value in STATE.items()}
    assert got["lora"] == {key: value.tolist() for key, value in ADAPTER.lora.items()}
    assert got["image_size"] == 64
    assert "model.safetensors of 'lab/absent' (its newest revision)" in got["error"]
    assert "GET /lab/small/resolve/v1/model.safetensors" in hub_server.asked

    before = len(hub_server.asked)
    output = in_subprocess(FROM_CACHE, HF_ENDPOINT=hub_server.url, HF_HUB_OFFLINE="1")
    assert output.split() == list(STATE)
    assert len(hub_server.asked) == before


FROM_REVISION = """
from sam_bloodcell import SAMLoRAEmbedder
embedder = SAMLoRAEmbedder.from_pretrained("lab/adapter", revision="v2")
print(embedder.adapter_.image_size, embedder.adapter_revision)
"""


def test_an_adapter_comes_whole_from_the_revision_asked_for(hub_server, in_subprocess):
    hub.write_adapter(hub.packaged_adapter("vit_tiny"), hub_server.folder("lab/adapter"), Backbone("vit_tiny"))
    assert in_subprocess(FROM_REVISION, HF_ENDPOINT=hub_server.url).split() == ["224", COMMIT]
    # the first file at the tag, the rest at the commit that it stood for
    assert {path.split("/")[4] for path in hub_server.asked} == {"v2", COMMIT}


def test_a_backbone_is_known_by_its_digest(tmp_path):
    path = tmp_path / "sam.safetensors"
    save_file(STATE, path)
    known = hub.identify(Backbone(str(path)))
    assert len(known.digest) == 64
    hub.load_backbone(known)
    save_file({key: value + 1 for key, value in STATE.items()}, path)
    with pytest.raises(WeightsUnavailableError, match=r"is not the backbone that this was fitted on: .*Fix: restore '"):
        hub.load_backbone(known)
