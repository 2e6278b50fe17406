"""`ViTEmbedder`: a plain ViT's tokens over the cells that a segmenter finds."""

import copy
import json
import pickle
from dataclasses import replace

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tests.counting import FatalViTEmbedder
from tests.weights.test_vit_names import OWN, shapes_of
from tests.weights.timm_tokens import weights

from sam_bloodcell import (
    CrossDomainAutoencoder,
    SAMLoRAEmbedder,
    ViTEmbedder,
    WeightsUnavailableError,
    from_pretrained,
    save_pretrained,
)
from sam_bloodcell.bulk import embed_to_file
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.embedding import network
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.models.sam import SAM_PIXEL_STATS
from sam_bloodcell.models.vit import IMAGENET_PIXEL_STATS
from sam_bloodcell.segmentation.cell import token_weights
from sam_bloodcell.weights.backbones import Backbone
from sam_bloodcell.weights.vits import load_vit


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(1, random_state=0)


@pytest.fixture(scope="module")
def other_segmenter(cells):
    """A segmenter with weights of its own, as after a fine-tuning."""
    segmenter = SAMLoRAEmbedder("vit_tiny").fit(cells.images)
    lora = {name: 0.9 * factor for name, factor in segmenter.adapter_.lora.items()}
    segmenter.adapter_ = replace(segmenter.adapter_, lora=lora)
    return segmenter


def tokens_by_hand(vit_file, images, size):
    vit = load_vit(Backbone(str(vit_file)))
    pixels = torch.from_numpy(np.stack([load_square(image, size) for image in images])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_PIXEL_STATS)
    return vit((pixels - mean) / std)


@pytest.mark.parametrize("pooling", ["mask", "cls", "both"])
@pytest.mark.parametrize("size", [None, 126])
def test_the_tokens_are_the_networks_and_the_masks_the_segmenters(vit_file, cells, pooling, size):
    embedder = ViTEmbedder(vit_file, pooling=pooling, image_size=size, dtype="float32", keep=("tokens", "crops"))
    found = embedder.fit_transform(cells.images)
    plain = SAMLoRAEmbedder("vit_tiny", dtype="float32", keep=("crops",)).fit_transform(cells.images)
    np.testing.assert_array_equal(found.masks, plain.masks)
    np.testing.assert_array_equal(found.crops, plain.crops)
    np.testing.assert_array_equal(found.quality, plain.quality)
    cls, _, patches = tokens_by_hand(vit_file, cells.images, size or 224)
    grid = (size or 224) // 14
    assert found.tokens.shape == (10, 64, grid, grid)
    np.testing.assert_allclose(found.tokens[:].astype(np.float32), patches, rtol=1e-3, atol=1e-3)
    share = np.stack([token_weights(mask, (grid, grid)) for mask in np.asarray(plain.masks)])
    mean = np.einsum("nchw,nhw->nc", patches, share)
    expected = {"mask": mean, "cls": cls, "both": np.concatenate([cls, mean], axis=1)}[pooling]
    np.testing.assert_allclose(found.pooled, expected, atol=1e-3)
    names = embedder.get_feature_names_out().tolist()
    assert embedder.n_features_out_ == found.shape[1] == len(names)
    parts = (found, found[1:3], found.copy(), pickle.loads(pickle.dumps(found)), np.concatenate([found, found]))
    assert all(part.to_frame().columns[: len(names)].tolist() == names for part in parts)


def test_registers_are_no_patches(cells, tmp_path):
    torch.save(weights(shapes_of(registers=4)), tmp_path / "vit.pth")
    found = ViTEmbedder(tmp_path / "vit.pth", keep=("tokens",)).fit_transform(cells.images[:2])
    assert found.tokens.shape == (2, 64, 16, 16)


@pytest.mark.parametrize("name", ["vit_tiny", "a saved folder", "fitted", "unfitted"])
def test_a_segmenter_is_a_name_a_folder_or_an_embedder(vit_file, cells, other_segmenter, name, tmp_path):
    expected = {"vit_tiny": SAMLoRAEmbedder("vit_tiny"), "unfitted": SAMLoRAEmbedder("vit_tiny", image_size=112)}
    expected = expected[name].fit(cells.images) if name in expected else other_segmenter
    segmenter = {
        "vit_tiny": "vit_tiny", "a saved folder": tmp_path, "fitted": other_segmenter,
        "unfitted": SAMLoRAEmbedder("vit_tiny", image_size=112),
    }[name]  # fmt: skip
    if name == "a saved folder":
        other_segmenter.save_pretrained(tmp_path)
    found = ViTEmbedder(vit_file, segmenter, keep=("tokens",)).fit_transform(cells.images)
    np.testing.assert_array_equal(found.masks, expected.transform(cells.images).masks)
    assert found.tokens.shape == (10, 64, 16, 16)


def test_a_fitted_segmenter_stays_what_it_is_in_clones_and_after_another_fit(vit_file, cells, other_segmenter):
    embedder = ViTEmbedder(vit_file, pickle.loads(pickle.dumps(other_segmenter)))
    masks = embedder.fit_transform(cells.images).masks[:]
    assert (masks != SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images).masks[:]).any()
    np.testing.assert_array_equal(clone(embedder).fit_transform(cells.images).masks, masks)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(cells.images).masks, masks)
    embedder.segmenter.fit(cells.images)  # without masks: what was learned is lost
    np.testing.assert_array_equal(embedder.transform(cells.images).masks, masks)


def test_settings_of_a_fitted_segmenter_take_effect_in_the_next_fit(vit_file, cells, other_segmenter):
    embedder = ViTEmbedder(vit_file, copy.copy(other_segmenter)).fit(cells.images)
    before = embedder.encoder_.recipe
    embedder.set_params(segmenter__prompt="center", segmenter__pixel_stats="sam", segmenter__image_size=112)
    assert embedder.encoder_.recipe == before
    after = embedder.fit(cells.images).encoder_.recipe
    assert (after.prompt, after.pixel_stats, after.network.image_size) == ("center", SAM_PIXEL_STATS, 112)
    assert after.network.adapter == before.network.adapter == other_segmenter.adapter_.digest()
    assert (embedder.segmenter.prompt_, other_segmenter.prompt_) == ("none", "none")
    with pytest.raises(ValueError, match="'prompt' parameter"):
        embedder.set_params(segmenter__prompt="box").fit(cells.images)


def test_other_weights_of_a_fitted_segmenter_are_loaded_in_the_next_fit(vit_file, cells, other_segmenter, tmp_path):
    other_segmenter.save_pretrained(tmp_path)
    embedder = ViTEmbedder(vit_file, SAMLoRAEmbedder("vit_tiny").fit(cells.images)).fit(cells.images)
    assert embedder.segmenter_.adapter_.digest() != other_segmenter.adapter_.digest()
    embedder.set_params(segmenter__adapter=tmp_path).fit(cells.images)
    assert embedder.segmenter_.adapter_.digest() == other_segmenter.adapter_.digest()


def test_an_autoencoder_of_token_maps_needs_embeddings_as_wide_as_tokens(vit_file, cells):
    embedder = ViTEmbedder(vit_file, pooling="both", keep=("tokens", "crops"))
    found = embedder.fit_transform(cells.images)
    said = r"Got embeddings 128 wide with tokens 64 wide but 'conv' expected one width\. Fix: pass pooling='mask'"
    with pytest.raises(ValueError, match=said):
        CrossDomainAutoencoder(2, architecture="conv", epochs=1).fit(found, domain=cells.domain)


def test_masks_are_no_way_to_fine_tune_a_vit(vit_file, cells):
    said = r"Got masks but ViTEmbedder is not fine-tuned: .*Fix: leave masks out\. .* pass it as segmenter"
    with pytest.raises(ValueError, match=said):
        ViTEmbedder(vit_file).fit(cells.images, masks=cells.masks)
    with pytest.raises(ValueError, match=said):
        ViTEmbedder(vit_file).fit_transform(cells.images, masks=cells.masks)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"image_size": 100}, r"Got image_size=100 but expected a positive multiple of 14, .* Fix: use 98\."),
        ({"pixel_stats": ((0.5,) * 3, (0.5,) * 3)}, r"Got pixel_stats=.* in 0-255 units.*times 255"),
        ({"pooling": "mean"}, "The 'pooling' parameter of ViTEmbedder"),
        ({"segmenter": 3}, "The 'segmenter' parameter of ViTEmbedder"),
        ({"keep": ("masks",)}, r"Got keep=\('masks',\) but expected a collection of 'tokens', 'crops'"),
        ({"backbone": "vit_b"}, "Fix: for Segment Anything, use SAMLoRAEmbedder"),
        ({"backbone": "MarrLab/DinoBloom"}, "Fix: pass one of its files, such as MarrLab/DinoBloom/pytorch_model_s"),
    ],
)
def test_bad_parameters_are_refused(vit_file, cells, params, said):
    with pytest.raises(ValueError, match=said):
        ViTEmbedder(vit_file).set_params(**params).fit(cells.images)


def test_bfloat16_stays_close_to_float32(vit_file, cells):
    low, high = (ViTEmbedder(vit_file, dtype=d).fit_transform(cells.images).pooled for d in ("bfloat16", "float32"))
    cosine = (low * high).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(high, axis=1)
    assert cosine.min() > 0.998


def test_unreadable_images_are_rows_of_nan(vit_file, cells, tmp_path):
    embedder = ViTEmbedder(vit_file, on_error="nan", pooling="both", keep=("tokens", "crops"), cache_dir=tmp_path)
    with pytest.warns(UserWarning, match="1 of 3 images cannot be read and are embedded as NaN"):
        found = embedder.fit_transform([cells.images[0], "gone.png", cells.images[1]])
    assert np.isnan(found.pooled).all(1).tolist() == [False, True, False]
    assert found.tokens.shape == (3, 64, 16, 16)
    with pytest.warns(UserWarning, match="1 of 1 images cannot be read"):
        assert embedder.transform(["gone.png"]).tokens.shape == (1, 64, 16, 16)


def test_predicted_masks_are_the_segmenters_and_load_no_vit(vit_file, cells):
    embedder = ViTEmbedder(vit_file).fit(cells.images)
    embedder.free_network()
    found = embedder.predict_masks(cells.images)
    expected = SAMLoRAEmbedder("vit_tiny").fit(cells.images).predict_masks(cells.images)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert network._last.vit is None


def test_both_networks_can_be_freed(vit_file, cells):
    embedder = ViTEmbedder(vit_file, batch_size=4).fit(cells.images)
    expected = embedder.transform(cells.images[:2]).pooled
    embedder.free_network()
    assert network._last.sam is None
    assert network._last.vit is None
    assert embedder.transform(cells.images[:2]).pooled.tolist() == expected.tolist()
    assert network._last.vit is None  # all was in the cache


@pytest.mark.slow
def test_processes_give_the_same_rows(vit_file, cells):
    get_reusable_executor().shutdown()
    alone = ViTEmbedder(vit_file, batch_size=3, dtype="float32").fit_transform(cells.images)
    fitted = ViTEmbedder(vit_file, batch_size=2, dtype="float32", n_jobs=2).fit(cells.images)
    chunks = ([(row, image)] for row, image in enumerate(map(_content, cells.images)))
    done = sorted((part.rows[0], part.records[0].pooled) for part in fitted.encoder_.stream(chunks))
    np.testing.assert_allclose(np.stack([pooled for _, pooled in done]), alone.pooled, atol=1e-3)


def _content(image):
    from sam_bloodcell.images.reading import read_content

    return read_content(image)


@pytest.mark.slow
@pytest.mark.fault
def test_a_worker_that_dies_costs_its_chunk(vit_file, cells, tmp_path, monkeypatch):
    get_reusable_executor().shutdown()  # workers of earlier tests do not know the marker
    monkeypatch.setenv("KILL_ONCE", str(tmp_path / "killed"))
    with joblib.parallel_config("loky", n_jobs=2), pytest.warns(UserWarning, match="A worker process died"):
        found = FatalViTEmbedder(vit_file, batch_size=2).fit(cells.images).transform(cells.images)
    assert (tmp_path / "killed").exists()
    expected = ViTEmbedder(vit_file, batch_size=2, cache_dir=tmp_path / "cache").fit_transform(cells.images)
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=0.1)


def test_a_batch_too_large_for_the_memory_is_halved(vit_file, cells, monkeypatch):
    embedder = ViTEmbedder(vit_file, dtype="float32", batch_size=5).fit(cells.images)
    expected = embedder.transform(cells.images[:5]).pooled
    embedder.set_params(pooling="both").fit(cells.images)
    seen = []

    def limited(self, pixels):
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(pixels))
        return forward(self, pixels)

    vit = type(network._last.vit)
    forward = vit.forward
    monkeypatch.setattr(vit, "forward", limited)
    with pytest.warns(UserWarning, match=r"5 images in a forward pass are too many .*Fix: batch_size=3"):
        halved = embedder.transform(cells.images[:5]).pooled
    assert seen == [3, 2]
    np.testing.assert_allclose(halved[:, 64:], expected, atol=1e-3)


def test_a_weights_file_that_changed_is_refused(cells, tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(OWN, path)
    embedder = ViTEmbedder(path).fit(cells.images)
    embedder.free_network()
    save_file({key: value + 1 for key, value in OWN.items()}, path)
    with pytest.raises(WeightsUnavailableError, match="is not the backbone that this was fitted on"):
        embedder.transform(cells.images)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_saved_is_loaded(vit_file, cells, other_segmenter, own, tmp_path):
    segmenter = other_segmenter if own else SAMLoRAEmbedder("vit_tiny", image_size=112)
    embedder = ViTEmbedder(vit_file, segmenter, pooling="both", image_size=126).fit(cells.images)
    expected = embedder.transform(cells.images)
    embedder.save_pretrained(tmp_path / "saved", licence="apache-2.0")
    back = ViTEmbedder.from_pretrained(tmp_path / "saved")
    found = back.set_params(cache_dir=tmp_path / "cache").transform(cells.images)
    np.testing.assert_array_equal(found.pooled, expected.pooled)
    np.testing.assert_array_equal(found.masks, expected.masks)
    assert back.encoder_.recipe.digest == embedder.encoder_.recipe.digest
    assert ViTEmbedder.from_pretrained(tmp_path / "saved", pooling="cls").pooling == "cls"
    with pytest.raises(TypeError, match=r"Got the parameter 'poling', which ViTEmbedder .* Fix: use one of"):
        ViTEmbedder.from_pretrained(tmp_path / "saved", poling="cls")
    assert "ViTEmbedder.from_pretrained" in (tmp_path / "saved" / "README.md").read_text("utf-8")


def test_saved_settings_that_do_not_fit_are_refused(vit_file, cells, tmp_path):
    ViTEmbedder(vit_file).fit(cells.images).save_pretrained(tmp_path)
    path = tmp_path / "vit_embedder.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(settings | {"digest": "0" * 64}), "utf-8")
    with pytest.raises(WeightsUnavailableError, match="is not the backbone that this was fitted on"):
        ViTEmbedder.from_pretrained(tmp_path)
    path.write_text(json.dumps({"params": {}}), "utf-8")
    with pytest.raises(WeightsUnavailableError, match=r"holds no settings of a ViTEmbedder of this version.*Fix: "):
        ViTEmbedder.from_pretrained(tmp_path)
    with pytest.raises(
        WeightsUnavailableError, match=r"is not the folder of a saved ViTEmbedder: it lacks vit_embedder\.json"
    ):
        ViTEmbedder.from_pretrained(tmp_path.parent)


def test_a_whole_pipeline_is_saved_and_loaded(vit_file, cells, other_segmenter, tmp_path):
    pipeline = make_pipeline(ViTEmbedder(vit_file, other_segmenter), LogisticRegression(max_iter=2000))
    pipeline.fit(cells.images, cells.labels)
    save_pretrained(pipeline, tmp_path / "saved")
    loaded = from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(loaded.predict_proba(cells.images), pipeline.predict_proba(cells.images), atol=1e-6)


def test_a_bulk_file_has_its_features_and_settings(vit_file, cells, tmp_path):
    paths = load_cells(save_cells(cells, tmp_path / "cells")).paths
    embedder = ViTEmbedder(vit_file, pooling="cls", batch_size=10).fit(paths)
    content = np.load(embed_to_file(embedder, paths, tmp_path / "cells.npz"))
    np.testing.assert_allclose(content["embeddings"], embedder.transform(paths).pooled, atol=0.1)
    assert content["features"][0] == "vitembedder0"
    made_by = json.loads(str(content["made_by"]))
    assert (made_by["backbone"], made_by["segmenter"], made_by["pooling"]) == (str(vit_file), "vit_tiny", "cls")


FROM_HUB = """
import sys, warnings
import numpy as np
from sam_bloodcell import ViTEmbedder
warnings.simplefilter("ignore")
images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
for name in sys.argv[1:]:
    embedder = ViTEmbedder(name).fit(images)
    print(len(embedder.backbone_.revision), embedder.transform(images).shape)
"""
NAMED = {
    "facebook/dinov2-small": "pytorch_model.bin",
    "MarrLab/DinoBloom/pytorch_model_s.bin": "pytorch_model_s.bin",
    "1aurent/vit_small_patch14_224.dinobloom": "pytorch_model.bin",
    "Snarcy/RedDino-small": "pytorch_model.bin",
}


@pytest.mark.slow
def test_the_repos_that_we_name_load_by_name_and_again_offline(hub_server, in_subprocess):
    for name, file in NAMED.items():
        torch.save(OWN, hub_server.folder("/".join(name.split("/")[:2])) / file)
    expected = ["40 (2, 64)"] * len(NAMED)
    assert in_subprocess(FROM_HUB, *NAMED, HF_ENDPOINT=hub_server.url).splitlines() == expected
    asked = len(hub_server.asked)
    offline = {"HF_ENDPOINT": hub_server.url, "HF_HUB_OFFLINE": "1"}
    assert in_subprocess(FROM_HUB, *NAMED, **offline).splitlines() == expected
    assert len(hub_server.asked) == asked


PUSHED = """
import sys, warnings
import numpy as np
from sam_bloodcell import ViTEmbedder
warnings.simplefilter("ignore")
images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
embedder = ViTEmbedder("MarrLab/DinoBloom/pytorch_model_s.bin").fit(images)
print(embedder.push_to_hub("me/vit"))
back = ViTEmbedder.from_pretrained("me/vit")
assert back.encoder_.recipe.digest == embedder.encoder_.recipe.digest
"""


@pytest.mark.slow
def test_an_embedder_is_pushed_and_fetched(hub_server, in_subprocess):
    torch.save(OWN, hub_server.folder("MarrLab/DinoBloom") / "pytorch_model_s.bin")
    out = in_subprocess(PUSHED, HF_ENDPOINT=hub_server.url, HF_TOKEN="hf_x")
    assert "/me/vit/commit/" in out
    assert "base_model: MarrLab/DinoBloom\n" in (hub_server.folder("me/vit") / "README.md").read_text("utf-8")
