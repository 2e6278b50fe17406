"""The autoencoder's contract: unsupervised, aligned, deterministic; any input that it can take; bad input named."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder
from sam_bloodcell.alignment import reconstruction
from sam_bloodcell.models import devices
from sam_bloodcell.segmentation.cell import QUALITY

# Many tests transform few cells, or know no domain, on purpose; tests/test_domain_travels.py tests the warnings.
pytestmark = pytest.mark.filterwarnings("ignore:The domain of .* cells is unknown", "ignore:The domain .* is new")

ARCHITECTURES = ("linear", "vector", "conv", "masked")
VECTORS, MAPS = ("linear", "vector"), ("conv", "masked")
every = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_trained = pytest.mark.parametrize("architecture", ARCHITECTURES[1:])


@pytest.fixture(scope="module")
def cells():
    """Two laboratories that differ by a constant in every token; crops are discs of two colours."""
    rng = np.random.default_rng(0)
    domains = np.repeat([0, 1], 24)
    kind = np.tile([0, 1], 24)
    tokens = rng.normal(size=(48, 12, 6, 6)).astype(np.float16)
    tokens[:, :4] += 2 * kind[:, None, None, None]
    tokens[:, 4:8] += 3 * domains[:, None, None, None]
    crops = np.full((48, 128, 128, 3), 128, np.uint8)
    disc = np.hypot(*(np.mgrid[:128, :128] - 63.5)) < 40
    crops[:, disc] = np.where(kind[:, None, None] == 1, (200, 40, 40), (40, 40, 200))
    return CellEmbeddings(tokens.mean((2, 3)), tokens, np.ones((48, 8, 8), bool), crops, np.zeros(48, QUALITY)), domains


def small(architecture="auto", **params):
    few = {"epochs": 6, "batch_size": 16, "learning_rate": 5e-3, "random_state": 0}
    return CrossDomainAutoencoder(8, architecture=architecture, **few | params)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def fitted(request, cells):
    X, domains = cells
    return small(request.param, epochs=2).fit(X, domain=domains)


@pytest.mark.filterwarnings("ignore:Got no domain")
@parametrize_with_checks([CrossDomainAutoencoder(epochs=2)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# What comes out


def test_features_are_float32_rows(fitted, cells):
    X, domains = cells
    for domain in (None, domains):
        features = fitted.transform(X, domain=domain)
        assert features.shape == (48, 8)
        assert features.dtype == np.float32
        part = fitted.transform(X[5:7], domain=None if domain is None else domain[5:7])
        np.testing.assert_allclose(part, features[5:7], atol=1e-5)


@pytest.mark.slow
@every_trained
def test_same_seed_same_features(cells, architecture):
    X, domains = cells

    def features(**params):
        return small(architecture, epochs=1, **params).fit(X, domain=domains).transform(X, domain=domains)

    torch.manual_seed(1)
    a = features()
    torch.manual_seed(2)
    np.testing.assert_array_equal(a, features())
    assert not np.array_equal(a, features(random_state=1))


def test_class_labels_are_not_looked_at(cells):
    X, domains = cells
    a = small(epochs=1).fit(X, np.zeros(48), domain=domains).transform(X)
    b = small(epochs=1).fit(X, np.arange(48), domain=domains).transform(X)
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "epochs"), [("conv", 30), ("masked", 40)])
def test_reconstruction_learns_the_crops(cells, architecture, epochs):
    X, domains = cells[0][12:36], cells[1][12:36]
    params = {"epochs": epochs, "batch_size": 4, "learning_rate": 3e-3, "embedding_weight": 0.1}
    fitted = small(architecture, **params).fit(X, domain=domains)
    crops = fitted.reconstruct(X, domain=domains)
    assert crops.shape == (24, 32, 32, 3)
    assert crops.dtype == np.uint8
    assert fitted.history_["crops"].iloc[-1] < 0.8 * fitted.history_["crops"].iloc[0]
    middle = crops[:, 12:20, 12:20].mean((1, 2))
    redness, is_red = middle[:, 0] - middle[:, 2], X.crops[:, 64, 64, 0] > 100
    assert redness[is_red].mean() - redness[~is_red].mean() > 100  # the discs' own differ by 320


def test_reconstruction_of_vectors_is_in_their_units(cells):
    X, domains = np.asarray(cells[0]) * 10 + 100, cells[1]
    fitted = small("vector", epochs=200).fit(X, domain=domains)
    back = fitted.reconstruct(X, domain=domains)
    assert back.shape == fitted.reconstruct(X).shape == X.shape
    assert np.square(back - X).mean() < 0.5 * X.var(0).mean()


def test_linear_features_are_rotated_principal_components(cells):
    X, domains = np.asarray(cells[0]), cells[1]
    fitted = small("linear", normalization="raw").fit(X, domain=domains)
    features = fitted.transform(X, domain=domains)
    principal = PCA(8).fit_transform(X)
    np.testing.assert_allclose(pdist(features), pdist(principal), rtol=1e-3)  # distances do not change by a rotation
    assert fitted.history_["loss"].item() == pytest.approx(np.square(X - fitted.reconstruct(X)).mean(), rel=1e-3)
    ratio, before = (values.std(0).max() / values.std(0).min() for values in (features, principal))
    assert ratio < before


def test_more_linear_features_than_inputs_keep_every_distance(cells):
    X, domains = np.asarray(cells[0]), cells[1]
    features = CrossDomainAutoencoder(20, normalization="raw").fit(X, domain=domains).transform(X)
    assert features.shape == (48, 20)
    np.testing.assert_allclose(pdist(features), pdist(X), rtol=1e-3)


def test_features_of_fewer_cells_than_components_do_not_depend_on_the_order_of_rows():
    X = np.random.default_rng(0).normal(size=(60, 192))
    order = np.random.default_rng(1).permutation(12)
    with pytest.warns(UserWarning, match="nothing is aligned"):
        one, other = (CrossDomainAutoencoder().fit(X[rows]) for rows in (np.arange(12), order))
    np.testing.assert_allclose(other.transform(X), one.transform(X), atol=1e-4)


def test_an_autoencoder_of_before_there_were_checkpoints_is_an_estimator_all_the_same(cells):
    fitted = small("linear").fit(cells[0], domain=cells[1])
    state = fitted.__getstate__()
    del state["checkpoint"]
    old = CrossDomainAutoencoder.__new__(CrossDomainAutoencoder)
    old.__setstate__(state)
    assert clone(old).get_params() == fitted.get_params()


def test_parts_of_the_cells_teach_a_linear_autoencoder_what_the_whole_does(cells):
    X, domains = np.asarray(cells[0]), cells[1]
    whole, parts = small("linear", normalization="raw").fit(X, domain=domains), small("linear", normalization="raw")
    for rows in (slice(0, 48, 3), slice(1, 48, 3), slice(2, 48, 3)):
        parts.partial_fit(X[rows], domain=domains[rows])
    np.testing.assert_allclose(parts.transform(X), whole.transform(X), atol=1e-4)
    assert len(parts.history_) == 3


@pytest.mark.slow
@pytest.mark.parametrize("crop_size", [32, 64, 128])
def test_crop_sizes(cells, crop_size):
    X, domains = cells
    network = small("conv", epochs=1, crop_size=crop_size).fit(X[20:28], domain=domains[20:28])
    assert network.reconstruct(X[:2]).shape == (2, crop_size, crop_size, 3)


@pytest.mark.slow
def test_feature_names(fitted, cells):
    assert fitted.get_feature_names_out()[0] == "crossdomainautoencoder0"
    X, domains = cells
    table = clone(fitted).set_params(epochs=1).set_output(transform="pandas").fit(X, domain=domains).transform(X)
    assert table.shape == (48, 8)
    assert list(table) == list(fitted.get_feature_names_out())


# Domains


def distance(features, domains):
    spread = features.std(0) + 1e-6
    return np.mean(((features[domains == 0].mean(0) - features[domains == 1].mean(0)) / spread) ** 2)


@pytest.mark.parametrize("alignment", ["mean", "mmd"])
def test_alignment_brings_the_laboratories_together(cells, alignment):
    X, domains = cells
    plain = {"normalization": None, "epochs": 150, "batch_size": 48}
    apart = small("vector", alignment=None, **plain).fit(X, domain=domains).transform(X, domain=domains)
    aligned = small("vector", alignment=alignment, alignment_weight=20.0, **plain).fit(X, domain=domains)
    assert distance(aligned.transform(X, domain=domains), domains) < 0.5 * distance(apart, domains)
    assert "alignment" in aligned.history_


@pytest.mark.slow
@every
def test_normalization_brings_the_laboratories_together(cells, architecture):
    X, domains = cells
    apart = small(architecture, normalization=None, epochs=2).fit(X, domain=domains).transform(X, domain=domains)
    for normalization in ("domain", "cluster"):
        aligned = small(architecture, normalization=normalization, epochs=2).fit(X, domain=domains)
        aligned = aligned.transform(X, domain=domains)
        assert distance(aligned, domains) < 0.1 * distance(apart, domains)


def test_names_of_laboratories_do_not_matter(cells):
    X, domains = cells
    names = np.array(["tecom", "acevedo"])[1 - domains]
    named = small(epochs=1).fit(X, domain=pd.Series(names))
    assert named.domains_.tolist() == ["acevedo", "tecom"]
    np.testing.assert_array_equal(
        named.transform(X, domain=names), small(epochs=1).fit(X, domain=domains).transform(X, domain=domains)
    )


@every_trained
@pytest.mark.parametrize("domain", [None, np.zeros(48, int)])
def test_one_laboratory_or_none_trains_plain_with_a_warning(cells, architecture, domain):
    with pytest.warns(UserWarning, match=r"Got (no domain|one domain, 0).* nothing is aligned"):
        alone = small(architecture, epochs=1, alignment="mean").fit(cells[0], domain=domain)
    assert (alone.history_["alignment"] == 0).all()
    assert np.isfinite(alone.transform(cells[0], domain=cells[1])).all()


def test_no_warning_where_nothing_is_to_be_aligned(cells):
    small(epochs=1, normalization=None, alignment=None).fit(cells[0])


def _interrupt_in_the_third_epoch(autoencoder, cells, monkeypatch):
    X, domains = cells
    loss_terms, steps = reconstruction.loss_terms, []

    def failing(*args):
        steps.append(1)
        if len(steps) > 7:  # three steps in each epoch
            raise RuntimeError("no power")
        return loss_terms(*args)

    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "loss_terms", failing)
        with pytest.raises(RuntimeError, match="no power"):
            autoencoder.fit(X, domain=domains)


@pytest.mark.slow
@every_trained
def test_an_interrupted_fit_resumes_to_the_same_bits(cells, architecture, tmp_path, monkeypatch):
    X, domains = cells
    unbroken = small(architecture).fit(X, domain=domains)
    resumed = small(architecture, checkpoint=tmp_path / "run.ckpt")
    _interrupt_in_the_third_epoch(resumed, cells, monkeypatch)
    resumed.fit(X, domain=domains)
    pd.testing.assert_frame_equal(resumed.history_, unbroken.history_)
    np.testing.assert_array_equal(resumed.transform(X, domain=domains), unbroken.transform(X, domain=domains))


@pytest.mark.slow
def test_a_checkpoint_of_other_cells_or_settings_is_refused(cells, tmp_path):
    X, domains = cells
    masked = small("masked", epochs=1, checkpoint=tmp_path / "run.ckpt")
    masked.fit(X, domain=domains)
    other_crops = CellEmbeddings(np.asarray(X), X.tokens, X.masks, 255 - X.crops, X.quality)
    other_tokens = CellEmbeddings(np.asarray(X), X.tokens + np.float16(1), X.masks, X.crops, X.quality)
    for changed, cells_, domain in (
        (masked, X[::-1], domains), (masked, X, domains[::-1]), (masked, other_crops, domains),
        (masked, other_tokens, domains), (clone(masked).set_params(epochs=2), X, domains),
        (clone(masked).set_params(random_state=1), X, domains), (clone(masked).set_params(patience=1), X, domains),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"belongs to a training with other data or settings.* Fix: delete it"):
            changed.fit(cells_, domain=domain)
    masked.partial_fit(X, domain=domains)  # which goes on from the fit, and not from the file


def test_a_checkpoint_needs_an_int_random_state(cells, tmp_path):
    X, domains = cells
    with pytest.raises(ValueError, match=r"Got random_state=None with a checkpoint but expected an int.* Fix: random"):
        small(checkpoint=tmp_path / "run.ckpt", random_state=None).fit(X, domain=domains)


@every
def test_a_new_laboratory_whose_cells_hardly_vary_gets_a_warning(cells, architecture):
    X, domains = cells
    fitted = small(architecture, epochs=1).fit(X, domain=domains)
    some, centre = X[:24], X.pooled.mean(0)
    tokens = centre[:, None, None] + 0.3 * (some.tokens - centre[:, None, None])
    of_one_kind = CellEmbeddings(tokens.mean((2, 3)), tokens.astype(np.float16), some.masks, some.crops, some.quality)
    said = r"domain 9 is new, and its 24 cells vary 0\.\d\d times as much .* Fix: pass cells of the laboratory's usual"
    with pytest.warns(UserWarning, match=said):
        fitted.transform(of_one_kind, domain=[9] * 24)
    with pytest.warns(UserWarning, match=said):
        pickle.loads(pickle.dumps(fitted)).add_domain(of_one_kind, 9)
    fitted.transform(X[:24], domain=[9] * 24)


@pytest.mark.slow
@every
def test_a_laboratory_never_seen_works_both_ways(cells, architecture):
    X, domains = cells
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = small(architecture).fit(X[:24], domain=domains[:24])
    new = fitted.transform(X[24:], domain=domains[24:])
    old = fitted.transform(X[:24], domain=domains[:24])
    rowwise = fitted.transform(X)
    both = np.concatenate([old, new])
    assert distance(both, domains) < 0.5 * distance(rowwise, domains)
    assert np.isfinite(fitted.transform(X[30:31], domain=["of one cell"])).all()
    np.testing.assert_allclose(fitted.transform(X[30:31]), rowwise[30:31], atol=1e-5)


def test_a_rare_laboratory_may_miss_from_a_part(cells):
    X, domains = cells
    three = np.where(np.arange(48) == 7, 2, domains)
    fitted = small("vector", alignment="mmd", batch_size=4).fit(X, domain=three)
    assert np.isfinite(fitted.history_.to_numpy()).all()
    assert np.isfinite(fitted.transform(X, domain=three)).all()


# Training


def test_early_stopping_keeps_the_best_epoch(cells):
    X, domains = cells
    fitted = small("vector", epochs=400, patience=3, learning_rate=0.02).fit(X, domain=domains)
    scores = fitted.history_["validation_score"]
    assert len(scores) < 400
    assert len(scores) - 1 - scores.argmax() == 3


def test_epochs_follow_the_number_of_cells(cells):
    X, domains = cells
    assert len(small("vector", epochs="auto").fit(X, domain=domains).history_) == 200  # of 3 steps: 600
    assert small("vector", epochs="auto").fit(np.tile(X, (20, 1)), domain=np.tile(domains, 20)).history_.shape[0] == 10


@pytest.mark.slow
@every
def test_partial_fit_goes_on(cells, architecture):
    X, domains = cells
    order = np.random.default_rng(0).permutation(48)
    X, domains = X[order], domains[order]
    fitted = small(architecture)
    for start in (0, 16, 32) * 4:
        rows = slice(start, start + 16)
        fitted.partial_fit(X[rows], domain=domains[rows])
    assert fitted.history_["epoch"].tolist() == list(range(12))
    if architecture != "linear":
        assert fitted.history_["loss"].iloc[-3:].mean() < fitted.history_["loss"].iloc[:3].mean()
    assert fitted.domains_.tolist() == [0, 1]
    assert fitted.scaler_.statistics[0].n_samples_seen_ == 4 * (24 if architecture in VECTORS else 24 * 36)
    assert distance(fitted.transform(X, domain=domains), domains) < 0.2
    with pytest.raises(ValueError, match=r"expecting 12 features|but expected 12\."):
        fitted.partial_fit(X[:, :4] if architecture in VECTORS else _narrow(X), domain=domains)


@pytest.mark.slow
def test_tokens_may_lie_on_disk(cells, tmp_path):
    X, domains = cells
    parts = {}
    for name in ("tokens", "crops"):
        np.save(tmp_path / f"{name}.npy", getattr(X, name))
        parts[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = CellEmbeddings(X.pooled, parts["tokens"], X.masks, parts["crops"], X.quality)
    for architecture in MAPS:
        inside = small(architecture, epochs=1).fit(X, domain=domains).transform(X, domain=domains)
        outside = small(architecture, epochs=1).fit(mapped, domain=domains).transform(mapped, domain=domains)
        np.testing.assert_array_equal(inside, outside)


# In scikit-learn


def test_clone_and_pickle(fitted, cells):
    X, domains = cells
    assert clone(fitted).get_params() == fitted.get_params()
    back = pickle.loads(pickle.dumps(fitted))
    for domain in (None, domains):
        np.testing.assert_array_equal(back.transform(X, domain=domain), fitted.transform(X, domain=domain))
    assert "CrossDomainAutoencoder" in fitted._repr_html_()


def test_metadata_routing_takes_domains_to_both_sides(cells):
    X, domains = cells
    kind = np.tile([0, 1], 24)
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(small(), LogisticRegression())
        search = GridSearchCV(pipe, {"logisticregression__C": [0.1, 1]}, cv=folds).fit(X, kind, domain=domains)
        assert search.best_estimator_.score(X, kind, domain=domains) > 0.9
        if parse_version(sklearn.__version__) >= parse_version("1.8"):  # Python 3.10 has only older ones
            assert search.score(X, kind, domain=domains) > 0.9
        direct = small().fit_transform(X, domain=domains)
    np.testing.assert_array_equal(direct, small().fit(X, domain=domains).transform(X, domain=domains))


def test_without_routing_fit_transform_is_row_by_row(cells):
    X, domains = cells
    with pytest.warns(UserWarning, match=r"fit_transform used domain only in fit, .* Fix: CellEmbeddings.from_arrays"):
        features = small().fit_transform(X, domain=domains)
    np.testing.assert_array_equal(features, small().fit(X, domain=domains).transform(X))
    assert small(normalization=None).fit_transform(X, domain=domains).shape == (48, 8)


@pytest.mark.filterwarnings("error:The domain of .* cells is unknown")
def test_fit_transform_does_not_say_that_a_domain_is_unknown_that_was_passed(cells):
    X, domains = np.asarray(cells[0]), cells[1]
    with pytest.warns(UserWarning, match="fit_transform used domain only in fit"):
        small().fit_transform(X, domain=domains)
    carried = CellEmbeddings.from_arrays(X, domain=domains)
    np.testing.assert_array_equal(
        small().fit_transform(carried), small().fit(X, domain=domains).transform(X, domain=domains)
    )


def test_the_warning_of_one_domain_has_a_fix_that_works(cells):
    X, domain = cells[0], np.zeros(48, int)
    said = "Got one domain, 0, but expected two or more, .* Fix: add cells of another laboratory, or normalization=None"
    with pytest.warns(UserWarning, match=said):
        small(epochs=1).fit(X, domain=domain)
    small(epochs=1, normalization=None).fit(X, domain=domain)


@pytest.mark.parametrize("kind", ["float32", "float64", "frame", "list", "read-only", "memmap"])
def test_any_two_dimensional_input(cells, tmp_path, kind):
    plain, domains = np.asarray(cells[0]), cells[1]
    np.save(tmp_path / "x.npy", plain)
    frozen = plain.copy()
    frozen.setflags(write=False)
    X = {
        "float32": plain,
        "float64": plain.astype(float),
        "frame": pd.DataFrame(plain, columns=[f"c{i}" for i in range(12)]),
        "list": plain.tolist(),
        "read-only": frozen,
        "memmap": np.load(tmp_path / "x.npy", mmap_mode="r"),
    }[kind]
    features = small(epochs=2).fit(X, domain=domains).transform(X, domain=domains)
    assert features.dtype == np.float32
    np.testing.assert_allclose(
        features, small(epochs=2).fit(plain, domain=domains).transform(plain, domain=domains), atol=1e-4
    )


class Kept:
    """Embeddings of which only some parts were kept."""

    def __init__(self, X, **parts):
        self.pooled = np.asarray(X)
        vars(self).update(parts)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.pooled, dtype)


def _narrow(X):
    return CellEmbeddings(X.pooled[:, :4], X.tokens[:, :4], X.masks, X.crops, X.quality)


def test_errors_name_the_fix(cells):
    X, domains = cells
    fitted = small("conv", epochs=1).fit(X, domain=domains)
    with pytest.raises(ValueError, match=r"Got domain of shape \(47,\) but expected \(48,\).* Fix:"):
        small().fit(X, domain=domains[:-1])
    with pytest.raises(ValueError, match=r"Got domain of shape \(1,\) but expected \(48,\).* Fix:"):
        fitted.transform(X, domain=["tecom"])
    with pytest.raises(ValueError, match=r"Row 3: domain is missing, .* Fix:"):
        small().fit(X, domain=[None if row == 3 else "a" for row in range(48)])
    with pytest.raises(ValueError, match="'crop_size' parameter"):
        small("conv", crop_size=100).fit(X, domain=domains)
    with pytest.raises(ValueError, match="'n_components' parameter"):
        CrossDomainAutoencoder(0).fit(X)
    with pytest.raises(ValueError, match="'preset' parameter"):
        small(preset="bcsam").fit(X)
    with pytest.raises(ValueError, match="Got embedding_weight=0, but architecture='vector'"):
        small("vector", embedding_weight=0).fit(X)
    with pytest.raises(ValueError, match="Got 1 cells but expected at least 2"):
        small("conv").fit(X[:1], domain=domains[:1])
    with pytest.raises(ValueError, match="1 sample"):
        small("vector").fit(X[:1], domain=domains[:1])
    with pytest.raises(ValueError, match="Got 2 cells but patience needs at least 3"):
        small(patience=1).fit(X[23:25], domain=domains[23:25])
    with pytest.raises(ValueError, match=r"Got embeddings 4 wide but expected 12. Fix:"):
        fitted.transform(_narrow(X))
    with pytest.raises(NotFittedError):
        small().transform(X)


@pytest.mark.parametrize("architecture", MAPS)
def test_token_maps_that_were_not_kept_are_asked_for(cells, architecture):
    X, domains = cells
    fitted = small(architecture, epochs=1).fit(X, domain=domains)
    message = rf"Got X of type \w+ but architecture='{architecture}' expected .* with token maps and crops. Fix: "
    message += re.escape('SAMLoRAEmbedder(..., keep=("tokens", "crops"))')
    for without in (np.asarray(X), Kept(X), Kept(X, tokens=X.tokens)):
        with pytest.raises(TypeError, match=message):
            clone(fitted).fit(without, domain=domains)
    for without in (np.asarray(X), Kept(X)):
        with pytest.raises(TypeError, match=message):
            fitted.transform(without)
    tokens_alone = Kept(X, tokens=X.tokens)  # only training looks at crops
    np.testing.assert_array_equal(fitted.transform(tokens_alone), fitted.transform(X))


@every
def test_features_are_computed_on_the_device_that_was_asked_for(cells, architecture, monkeypatch):
    X, domains = cells
    fitted = small(architecture, epochs=1).fit(X, domain=domains)
    chosen = []

    def choose(device):
        chosen.append(device)
        return torch.device("cpu")

    monkeypatch.setattr(devices, "choose", choose)
    fitted.set_params(device="cuda").transform(X)
    fitted.reconstruct(X)
    assert chosen == ["cpu" if architecture in VECTORS else "cuda"] * 2


@pytest.mark.cuda
@pytest.mark.parametrize("architecture", MAPS)
def test_a_gpu_gives_the_features_of_the_cpu(cells, architecture, gpu):
    X, domains = cells
    fitted = small(architecture, epochs=2, device="cpu").fit(X, domain=domains)
    expected = fitted.transform(X, domain=domains)
    np.testing.assert_allclose(fitted.set_params(device=gpu).transform(X, domain=domains), expected, atol=1e-2)
    assert next(fitted.network_.parameters()).device.type == "cpu"


@pytest.mark.cuda
@every
def test_a_gpu_learns_what_the_cpu_learns(cells, architecture, gpu):
    X, domains = cells
    on_cpu, on_gpu = (small(architecture, epochs=3, device=device).fit(X, domain=domains) for device in ("cpu", gpu))
    losses = on_gpu.history_["reconstruction"]
    assert architecture == "linear" or losses.iloc[-1] < losses.iloc[0]  # the linear network is solved in one step
    if architecture == "masked":  # the GPU's generator hides other tokens
        np.testing.assert_allclose(losses, on_cpu.history_["reconstruction"], rtol=0.3)
    else:
        np.testing.assert_allclose(losses, on_cpu.history_["reconstruction"], rtol=0.1)
    assert next(on_gpu.network_.parameters()).device.type == "cpu"
    assert np.isfinite(on_gpu.transform(X, domain=domains)).all()


@pytest.mark.cuda
def test_an_interrupted_fit_resumes_on_a_gpu_and_leaves_its_random_numbers_alone(cells, gpu, tmp_path, monkeypatch):
    X, domains = cells
    torch.manual_seed(7)
    expected = torch.rand(3, device=gpu)
    torch.manual_seed(7)
    unbroken = small("conv", epochs=3, device=gpu).fit(X, domain=domains)
    resumed = small("conv", epochs=3, device=gpu, checkpoint=tmp_path / "run.ckpt")
    _interrupt_in_the_third_epoch(resumed, cells, monkeypatch)
    resumed.fit(X, domain=domains)
    pd.testing.assert_frame_equal(resumed.history_, unbroken.history_, rtol=0.05)
    torch.testing.assert_close(torch.rand(3, device=gpu), expected, rtol=0, atol=0)


# Packaged


def test_the_packaged_autoencoder_needs_no_training(tmp_path):
    packaged = CrossDomainAutoencoder.from_pretrained("vit_tiny")
    assert packaged.n_features_in_ == 192
    assert packaged.domains_.tolist() == ["acevedo", "cellavision", "munich_bm", "raabin_unlabelled", "tecom"]
    X = np.random.default_rng(0).normal(size=(10, 192)).astype(np.float32)
    features = packaged.transform(X)
    assert features.shape == (10, 50)
    assert np.isfinite(packaged.transform(X, domain=np.repeat(["tecom", "elsewhere"], 5))).all()
    again = CrossDomainAutoencoder.from_pretrained(packaged.save_pretrained(tmp_path))
    np.testing.assert_array_equal(again.transform(X), features)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(cells, architecture, value):
    X, domains = cells
    pooled, tokens = X.pooled.copy(), X.tokens.copy()
    pooled[[3, 40]], tokens[[3, 40]] = value, value
    broken = CellEmbeddings(pooled, tokens, X.masks, X.crops, X.quality)
    message = (
        r"Got NaN or inf in 2 rows of X \(rows 3, 40\) .* images that could not be read .* Fix: leave these rows out"
    )
    fitted = small(architecture, epochs=1).fit(X, domain=domains)
    before = pickle.dumps(fitted.scaler_.to_plain())
    for work in (small(architecture).fit, fitted.transform, fitted.partial_fit):
        with pytest.raises(ValueError, match=message):
            work(broken, domain=domains)
    assert pickle.dumps(fitted.scaler_.to_plain()) == before
    assert len(fitted.transform(broken[np.isfinite(broken).all(axis=1)])) == 46


@pytest.mark.parametrize("architecture", MAPS)
def test_infinite_tokens_under_finite_embeddings_are_named(cells, architecture):
    X, domains = cells
    tokens = X.tokens.copy()
    tokens[7, 0, 0, 0] = np.inf  # float16 ends at 65504
    broken = CellEmbeddings(X.pooled, tokens, X.masks, X.crops, X.quality)
    with pytest.raises(ValueError, match=r"Got NaN or inf in 1 rows of X \(rows 7\)"):
        small(architecture).fit(broken, domain=domains)


def test_partial_fit_trains_at_a_constant_rate(cells, monkeypatch):
    X, domains = cells
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    fitted = small("vector", batch_size=2, warmup_steps=5)
    for _ in range(2):
        fitted.partial_fit(X, domain=domains)
    assert rates == [5e-3] * 48
    assert fitted.history_["learning_rate"].tolist() == [5e-3] * 2


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_features_may_be_tables(cells, library):
    X, domains = cells
    fitted = small(epochs=1).set_output(transform=library).fit(X, domain=domains)
    found = fitted.transform(X)
    assert type(found).__module__.startswith(library)
    np.testing.assert_array_equal(found.to_numpy(), fitted.set_output(transform="default").transform(X))


def test_a_table_without_token_maps_is_refused_with_its_cause(cells):
    X, domains = cells
    with pytest.raises(
        TypeError, match="Got X of type DataFrame but architecture='conv' expected embeddings with token"
    ):
        small("conv").fit(pd.DataFrame(np.asarray(X)), domain=domains)
