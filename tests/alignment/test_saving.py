import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sam_bloodcell import CrossDomainAutoencoder
from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.weights.backbones import packaged_folder


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the packaged autoencoder's folder."""
    return shutil.copytree(packaged_folder("vit_tiny", "autoencoder"), tmp_path / "copy")


def _refused(folder, reason):
    with pytest.raises(WeightsUnavailableError, match=rf"copy.*{reason}.*Fix: fetch"):
        CrossDomainAutoencoder.from_pretrained(folder)


def test_an_incomplete_network_is_refused(folder):
    path = folder / "autoencoder.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[:-1]), path)
    _refused(folder, "incomplete")
    first = next(iter(tensors))
    save_file(tensors | {first: torch.full_like(tensors[first], torch.nan)}, path)
    _refused(folder, "NaN or infinite")


@pytest.mark.parametrize("name", ["settings_", "scaler_", "domains_", "n_features_in_"])
def test_incomplete_settings_are_refused(name, folder):
    path = folder / "sam_bloodcell.json"
    settings = json.loads(path.read_text())
    del settings["state"][name]
    path.write_text(json.dumps(settings))
    _refused(folder, f"incomplete .*its settings lack {name}")


def test_a_network_in_bfloat16_loads(folder):
    path = folder / "autoencoder.safetensors"
    save_file({key: value.bfloat16() for key, value in load_file(path).items()}, path)
    CrossDomainAutoencoder.from_pretrained(folder)


def test_a_card_names_the_base_weights_only_if_they_are_stated(folder, tmp_path):
    """The packaged card states them; the autoencoder itself sees only embeddings."""
    packaged = CrossDomainAutoencoder.from_pretrained(folder)
    saved = {base: packaged.save_pretrained(tmp_path / str(base), base=base) for base in (None, "vit_tiny", "me/vit")}
    cards = {base: (where / "README.md").read_text("utf-8") for base, where in saved.items()}
    assert "- Base weights: not stated\n" in cards[None]
    assert "- Base weights: me/vit\n" in cards["me/vit"]
    assert "base_model: me/vit\n" in cards["me/vit"]
    for card in (cards["vit_tiny"], (folder / "README.md").read_text("utf-8")):
        assert "- Base weights: vit_tiny\n" in card
        assert "base_model" not in card  # no repo of the Hub
