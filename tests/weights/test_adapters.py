import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tests.hub_server import COMMIT

from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.models.lora import Adapter
from sam_bloodcell.weights import adapters
from sam_bloodcell.weights.adapters import read_adapter_file, write_adapter, write_adapter_file
from sam_bloodcell.weights.backbones import HUB_BACKBONES, Backbone

STATE = {"image_encoder.pos_embed": torch.arange(8.0).view(1, 2, 2, 2)}
ADAPTER = Adapter(
    lora={"base_model.q.lora_A.weight": torch.ones(4, 2)},
    lora_config={"r": 4, "lora_alpha": 4, "target_modules": "q"},
    decoder={"mask_decoder.iou_token.weight": torch.ones(1, 2)},
    pixel_stats=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    image_size=64,
)


@pytest.mark.parametrize("name", adapters._ADAPTER_FILES)
def test_an_adapter_folder_names_the_file_it_lacks(name, tmp_path):
    write_adapter(ADAPTER, tmp_path, Backbone("vit_tiny"))
    (tmp_path / name).unlink()
    with pytest.raises(WeightsUnavailableError, match=rf"it lacks {re.escape(name)}\. Fix: pass a folder made by"):
        adapters.read_adapter(tmp_path)


def test_an_adapter_folder_notes_its_settings(tmp_path):
    write_adapter(ADAPTER, tmp_path, Backbone("vit_b"), dtype=torch.float16)
    assert adapters.adapter_settings(tmp_path) == {
        "kind": "adapter",
        "backbone": "vit_b",
        "digest": None,
        "revision": HUB_BACKBONES["vit_b"][1],
        "image_size": 64,
        "pixel_stats": [[1, 2, 3], [4, 5, 6]],
    }


def test_only_vit_tiny_ships_with_an_adapter():
    assert adapters.packaged_adapter("vit_tiny").image_size == 224
    assert adapters.packaged_adapter("vit_b") is None


FETCH = """
import json
from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.weights.adapters import read_adapter
from sam_bloodcell.weights.backbones import Backbone, load_backbone
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
from sam_bloodcell.weights.backbones import Backbone, load_backbone
print(*load_backbone(Backbone("lab/small", "v1")))
"""


@pytest.mark.slow
def test_weights_and_adapters_come_from_the_hub_and_stay_cached(hub_server, in_subprocess):
    save_file(STATE, hub_server.folder("lab/small") / "model.safetensors")
    write_adapter(ADAPTER, hub_server.folder("lab/adapter"), Backbone("vit_tiny"))

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


@pytest.mark.slow
def test_an_adapter_comes_whole_from_the_revision_asked_for(hub_server, in_subprocess):
    write_adapter(adapters.packaged_adapter("vit_tiny"), hub_server.folder("lab/adapter"), Backbone("vit_tiny"))
    assert in_subprocess(FROM_REVISION, HF_ENDPOINT=hub_server.url).split() == ["224", COMMIT]
    # the first file at the tag, the rest at the commit that it stood for
    assert {path.split("/")[4] for path in hub_server.asked} == {"v2", COMMIT}


def test_an_adapter_in_one_file_comes_back(tmp_path):
    half = {key: value.half() for key, value in ADAPTER.lora.items()}
    for adapter in (ADAPTER, replace(ADAPTER, lora=half)):
        write_adapter_file(adapter, tmp_path / "one.safetensors")
        again = read_adapter_file(tmp_path / "one.safetensors")
        assert again.digest() == adapter.digest()
        assert (again.lora_config, again.pixel_stats) == (adapter.lora_config, adapter.pixel_stats)
        assert again.image_size == adapter.image_size


@pytest.mark.parametrize("metadata", [None, {"adapter": "{"}, {"adapter": "{}"}, {"adapter": "[]"}], ids=str)
def test_a_file_without_an_adapters_settings_is_damaged(metadata, tmp_path):
    save_file(STATE, tmp_path / "one.safetensors", metadata)
    with pytest.raises(WeightsUnavailableError, match=r"'.*one\.safetensors' is damaged: .*Fix: delete it"):
        read_adapter_file(tmp_path / "one.safetensors")


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_adapter_file_is_damaged(kept, tmp_path):
    path = tmp_path / "one.safetensors"
    write_adapter_file(ADAPTER, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(WeightsUnavailableError, match="is damaged"):
        read_adapter_file(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_adapter_file(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.pop("pixel_stats"),
        lambda settings: settings.update(kind="autoencoder"),
        lambda settings: settings.update(pixel_stats=[[1, 2, 3], [4, 0, 6]]),
        lambda settings: settings.update(pixel_stats=[[1, 2, 3]]),
    ],
    ids=["no statistics", "another kind", "a deviation of zero", "no deviations"],
)
def test_bad_settings_of_an_adapter_name_their_file(change, tmp_path):
    path = write_adapter(ADAPTER, tmp_path, Backbone("vit_tiny")) / "sam_bloodcell.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    with pytest.raises(
        WeightsUnavailableError, match=r"sam_bloodcell\.json' has .*Fix: fetch or save the adapter again"
    ):
        adapters.read_adapter(tmp_path)


def test_an_adapter_of_other_weights_is_told(tmp_path):
    write_adapter(ADAPTER, tmp_path, Backbone("medsam.pth", digest="a" * 64))
    adapters.read_adapter(tmp_path, backbone=Backbone("moved.pth", digest="a" * 64))
    with pytest.warns(
        UserWarning, match=r"trained on the weights of 'medsam\.pth' .* is used with other weights, 'vit_b'"
    ):
        adapters.read_adapter(tmp_path, backbone=Backbone("vit_b", digest="b" * 64))


@pytest.mark.parametrize(
    ("key", "value"),
    [("lora_alpha", None), ("lora_alpha", 0), ("lora_alpha", "32"), ("r", None), ("target_modules", None)],
)
def test_a_configuration_that_gives_the_factors_no_meaning_is_refused(tmp_path, key, value):
    write_adapter(adapters.packaged_adapter("vit_tiny"), tmp_path, Backbone("vit_tiny"))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(WeightsUnavailableError, match=rf"adapter_config.json' has {key}={value!r} but expected"):
        adapters.read_adapter(tmp_path)
