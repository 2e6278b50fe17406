"""The presets are the papers' settings, whole: network, inputs, loss, schedule, batches, and what comes out."""

import json
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder
from sam_bloodcell.alignment import reconstruction
from sam_bloodcell.alignment.inputs import NetworkInputs, ReconstructionBatch
from sam_bloodcell.alignment.reconstruction import loss_terms
from sam_bloodcell.alignment.settings import PRESETS, Settings, resolve_settings
from sam_bloodcell.models.alignment import first_discrepancy
from sam_bloodcell.models.autoencoders import ConvAutoencoder, MaskedAutoencoder
from sam_bloodcell.models.losses import ssim
from sam_bloodcell.models.published import BCSAMAutoencoder, DoRLAutoencoder
from sam_bloodcell.segmentation.cell import QUALITY

WIDTH = 8
NETWORKS = {"bc-sam": BCSAMAutoencoder, "dorl": DoRLAutoencoder}
both = pytest.mark.parametrize("preset", NETWORKS)


@pytest.fixture(scope="module")
def cells():
    """Six cells of two laboratories, unlike in number."""
    rng = np.random.default_rng(0)
    tokens = (3 + 5 * rng.normal(size=(6, WIDTH, 14, 14))).astype(np.float16)
    crops = rng.integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    X = CellEmbeddings(
        tokens.mean((2, 3), dtype=np.float32), tokens, np.ones((6, 8, 8), bool), crops, np.zeros(6, QUALITY)
    )
    return X, np.repeat(["acevedo", "matek"], [4, 2])


def tiny(preset, **params):
    """Return the preset for one step."""
    return CrossDomainAutoencoder(**{"preset": preset, "epochs": 1, "batch_size": 6, "random_state": 0, **params})


@pytest.fixture(scope="module", params=NETWORKS)
def fitted(request, cells):
    return tiny(request.param).fit(cells[0], domain=cells[1])


def resolved(preset, **params):
    return resolve_settings(CrossDomainAutoencoder(preset=preset, **params).get_params())


# Settings


def test_the_papers_numbers():
    bcsam, dorl = resolved("bc-sam"), resolved("dorl")
    assert (bcsam.learning_rate, bcsam.batch_size, bcsam.epochs, bcsam.alignment_weight) == (5e-4, 128, 10, 5)
    assert (dorl.learning_rate, dorl.batch_size, dorl.epochs, dorl.alignment_weight) == (1e-4, 64, 300, 2)
    assert bcsam.embedding_weight == 0
    assert dorl.embedding_weight == 2 * 0.5
    for settings in (bcsam, dorl):
        assert (settings.weight_decay, settings.warmup_steps, settings.n_components) == (0.05, 500, 50)
        assert (settings.alignment, settings.normalization, settings.crop_size) == ("first", "raw", 128)
        assert settings.clip_norm is None
        assert settings.published_schedule
        assert settings.decay_everything
        assert settings.padded_ssim
        assert not settings.balanced_batches


def test_what_is_given_wins_over_a_preset():
    assert resolved("dorl", crop_size=32).crop_size == 32
    assert resolved("dorl", normalization="cluster").by_domain
    assert resolved("bc-sam", architecture="conv") == replace(PRESETS["bc-sam"], architecture="conv")


def test_without_a_preset_nothing_of_the_papers_is_used():
    papers = [field.name for field in fields(Settings)][-5:]
    for architecture in ("vector", "conv", "masked"):
        settings = resolve_settings(CrossDomainAutoencoder(architecture=architecture).get_params())
        assert {name: getattr(settings, name) for name in papers} == {
            "clip_norm": 1.0, "published_schedule": False, "decay_everything": False, "balanced_batches": True,
            "padded_ssim": False,
        }  # fmt: skip


# What comes out


def test_the_network_is_the_papers_and_sees_the_tokens_as_they_are(fitted, cells):
    X, domains = cells
    assert type(fitted.network_) is NETWORKS[fitted.preset]
    with torch.no_grad():
        expected = fitted.network_.encode(torch.from_numpy(X.tokens.astype(np.float32))).numpy()
    for domain in (None, domains):
        np.testing.assert_allclose(fitted.transform(X, domain=domain), expected, atol=1e-5)


@pytest.mark.parametrize(("preset", "width"), [("bc-sam", 50), ("dorl", WIDTH)])
def test_bcsam_gives_50_features_and_dorl_its_cls_token(cells, preset, width, tmp_path):
    X, domains = cells
    fitted = tiny(preset).set_output(transform="pandas").fit(X, domain=domains)
    features = fitted.transform(X)
    assert features.shape == (6, width)
    assert list(features) == list(fitted.get_feature_names_out())
    assert len(fitted.get_feature_names_out()) == width
    card = (fitted.save_pretrained(tmp_path) / "README.md").read_text()
    assert f"into {width} features" in card


def test_n_components_is_the_layer_that_dorl_aligns(cells):
    fitted = tiny("dorl", n_components=5).fit(cells[0], domain=cells[1])
    assert fitted.network_.decoder.to_features.out_features == 5
    assert fitted.transform(cells[0]).shape == (6, WIDTH)
    assert tiny("bc-sam", n_components=5, crop_size=32).fit_transform(cells[0], domain=cells[1]).shape == (6, 5)


def test_crops_are_reconstructed_within_bounds(fitted, cells):
    crops = fitted.reconstruct(cells[0][:2])
    assert (crops.shape, crops.dtype) == ((2, 128, 128, 3), np.uint8)
    with torch.no_grad():
        made = fitted.network_(torch.from_numpy(cells[0].tokens[:2].astype(np.float32))).crops
    expected = made.clip(0, 1).movedim(1, -1).numpy()  # DoRL's paint has no bounds
    np.testing.assert_allclose(crops / 255, expected, atol=0.01)


# The training


def batch_of(cells, rows):
    X, domains = cells
    tokens = torch.from_numpy(X.tokens[rows].astype(np.float32))
    crops = torch.from_numpy(X.crops[rows]).movedim(-1, 1) / 255
    codes = torch.from_numpy((domains[rows] == "matek").astype(int))
    return ReconstructionBatch(tokens, tokens.mean((2, 3)), crops, codes)


def test_dorls_loss(cells):
    batch, settings = batch_of(cells, slice(2, 6)), resolved("dorl")
    network = reconstruction.build_network(settings, WIDTH).eval()
    with torch.no_grad():
        made, loss = network(batch.inputs), loss_terms(network, batch, settings)["loss"]
    mse = (made.embedding - batch.inputs).square().mean()
    expected = 1 - ssim(made.crops, batch.crops, padded=True)
    expected += 2 * (first_discrepancy(made.features, batch.codes) + 0.5 * mse)
    torch.testing.assert_close(loss, expected)


def test_dorls_loss_compares_the_tokens_that_were_seen_too(cells):
    batch, settings = batch_of(cells, slice(2, 6)), resolved("dorl")
    network = reconstruction.build_network(settings, WIDTH).train()
    with torch.no_grad():
        torch.manual_seed(0)
        made = network(batch.inputs)
        torch.manual_seed(0)
        terms = loss_terms(network, batch, settings)
    torch.testing.assert_close(terms["embedding"], (made.embedding - batch.inputs).square().mean())


def test_bcsams_loss(cells):
    batch, settings = batch_of(cells, slice(2, 6)), resolved("bc-sam")
    network = reconstruction.build_network(settings, WIDTH).eval()
    with torch.no_grad():
        made, loss = network(batch.inputs), loss_terms(network, batch, settings)["loss"]
    expected = 1 - ssim(made.crops, batch.crops, padded=True) + 5 * first_discrepancy(made.features, batch.codes)
    torch.testing.assert_close(loss, expected)


@both
def test_the_optimiser_is_the_papers(cells, preset, monkeypatch):
    groups, rates = [], []
    step = torch.optim.AdamW.step

    def spy(self, *args):
        rates.append(self.param_groups[0]["lr"])
        groups[:] = [(len(group["params"]), group["weight_decay"]) for group in self.param_groups]
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: pytest.fail("clipped"))
    fitted = tiny(preset, batch_size=2).fit(cells[0], domain=cells[1])
    assert groups == [(len(list(fitted.network_.parameters())), 0.05)]
    peak = {"bc-sam": 5e-4, "dorl": 1e-4}[preset]
    assert rates == pytest.approx([peak * (i + 1) / 500 for i in range(3)])  # a warm-up that is not cut


def test_batches_are_drawn_from_all_cells_alike(cells, monkeypatch):
    seen = []
    batch = NetworkInputs.batch

    def spy(self, rows, device):
        seen.append(rows)
        return batch(self, rows, device)

    monkeypatch.setattr(NetworkInputs, "batch", spy)
    tiny("bc-sam", epochs=2, batch_size=2, crop_size=32).fit(cells[0], domain=cells[1])
    assert [len(rows) for rows in seen] == [2] * 6
    for epoch in (seen[:3], seen[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(6))  # each cell once, of whatever laboratory
    assert [list(rows) for rows in seen[:3]] != [list(rows) for rows in seen[3:]]


def test_a_preset_goes_on_in_parts(cells):
    X, domains = cells[0][2:6], cells[1][2:6]
    fitted = tiny("dorl")
    for _ in range(2):
        fitted.partial_fit(X, domain=domains)
    assert fitted.history_["learning_rate"].tolist() == [1e-4] * 2
    assert fitted.transform(X).shape == (4, WIDTH)


# What does not fit


@pytest.mark.parametrize(
    ("preset", "side", "message"),
    [
        (
            "dorl",
            6,
            r"Got token maps of 6 x 6 tokens but preset='dorl' expected 14 x 14, .*Fix: SAMLoRA",
        ),
        ("bc-sam", 2, r"Got token maps of 2 x 2 tokens but preset='bc-sam' expected at least 3 x 3\. Fix: SAMLoRA"),
    ],
)
def test_a_grid_that_the_network_cannot_read_is_refused(cells, preset, side, message):
    X, domains = cells
    other = CellEmbeddings(X.pooled, X.tokens[:, :, :side, :side], X.masks, X.crops, X.quality)
    with pytest.raises(ValueError, match=message):
        tiny(preset).fit(other, domain=domains)


@both
def test_token_maps_that_were_not_kept_are_asked_for(cells, preset):
    message = rf"Got X of type ndarray but preset='{preset}' expected embeddings with token maps .* or preset=None\."
    with pytest.raises(TypeError, match=message):
        tiny(preset).fit(np.asarray(cells[0]), domain=cells[1])


def test_bcsam_reads_other_grids(cells):
    X, domains = cells
    other = CellEmbeddings(X.pooled, X.tokens[:, :, :6, :6], X.masks, X.crops, X.quality)
    assert tiny("bc-sam", crop_size=32).fit_transform(other, domain=domains).shape == (6, 50)


@both
def test_a_preset_has_no_laboratory_to_add_and_none_to_warn_of(cells, preset):
    X, domains = cells[0][3:5], cells[1][3:5]
    fitted = tiny(preset, crop_size=32).fit(X, domain=domains)
    assert fitted.transform(X[:1], domain=["new"]).shape[0] == 1  # warnings are errors here
    with pytest.raises(ValueError, match=r"Got normalization='raw', which has no statistics of domains\. Fix: norm"):
        fitted.add_domain(X, "new")


def test_rows_that_are_not_finite_are_named(cells):
    X, domains = cells
    tokens = X.tokens.copy()
    tokens[5, 0, 0, 0] = np.inf
    broken = CellEmbeddings(X.pooled, tokens, X.masks, X.crops, X.quality)
    with pytest.raises(ValueError, match=r"Got NaN or inf in 1 rows of X \(rows 5\)"):
        tiny("dorl").fit(broken, domain=domains)


def test_vectors_may_be_taken_as_they_are():
    X = 100 + 10 * np.random.default_rng(0).normal(size=(40, 6))
    fitted = CrossDomainAutoencoder(4, normalization="raw", epochs=1, random_state=0).fit(X)  # nothing to warn of
    with torch.no_grad():
        expected = fitted.network_(torch.from_numpy(X.astype(np.float32)).double())
    np.testing.assert_allclose(fitted.transform(X), expected.features, rtol=1e-5)
    np.testing.assert_allclose(fitted.reconstruct(X), expected.embedding, rtol=1e-5)


# Saved


def test_a_preset_is_the_same_after_saving_and_pickling(fitted, cells, tmp_path):
    X, domains = cells
    saved = CrossDomainAutoencoder.from_pretrained(fitted.save_pretrained(tmp_path))
    for again in (saved, pickle.loads(pickle.dumps(fitted))):
        assert again.settings_ == fitted.settings_
        np.testing.assert_array_equal(again.transform(X, domain=domains), fitted.transform(X, domain=domains))
        np.testing.assert_array_equal(again.get_feature_names_out(), fitted.get_feature_names_out())


@pytest.mark.parametrize(
    ("preset", "architecture", "network"),
    [("bc-sam", "conv", ConvAutoencoder), ("dorl", "masked", MaskedAutoencoder)],
)
def test_a_preset_saved_before_it_was_the_papers_network_gives_what_it_gave(
    cells, tmp_path, preset, architecture, network
):
    X, domains = cells
    params = {"architecture": architecture, "alignment": "mean", "normalization": None, "crop_size": 32}
    fitted = CrossDomainAutoencoder(**params, epochs=1, batch_size=4, random_state=0).fit(X, domain=domains)
    path = fitted.save_pretrained(tmp_path) / "sam_bloodcell.json"
    content = json.loads(path.read_text())
    content["state"] |= {"preset": preset, "architecture": "auto"}
    for name in [field.name for field in fields(Settings)][-5:]:
        del content["state"]["settings_"][name]
    path.write_text(json.dumps(content))
    again = CrossDomainAutoencoder.from_pretrained(tmp_path)
    assert type(again.network_) is network
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    assert len(again.get_feature_names_out()) == 50


@pytest.mark.cuda
def test_a_gpu_gives_the_features_of_the_cpu(fitted, cells, gpu):
    expected = fitted.transform(cells[0])
    again = pickle.loads(pickle.dumps(fitted)).set_params(device=gpu)
    np.testing.assert_allclose(again.transform(cells[0]), expected, atol=1e-2)


@pytest.mark.cuda
def test_a_gpu_takes_the_step_of_the_cpu(fitted, cells, gpu):
    X, domains = cells
    on_gpu = tiny(fitted.preset, device=gpu).fit(X, domain=domains)
    np.testing.assert_allclose(on_gpu.history_["loss"], fitted.history_["loss"], rtol=0.1)
    assert next(on_gpu.network_.parameters()).device.type == "cpu"
    assert np.isfinite(on_gpu.transform(X)).all()
