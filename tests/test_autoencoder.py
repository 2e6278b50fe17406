"""The autoencoder's contract: unsupervised, aligned, deterministic; bad input named."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder
from sam_bloodcell.cells import QUALITY


@pytest.fixture(scope="module")
def cells():
    """Two laboratories that differ by a constant in every token; crops are discs of two colours."""
    rng = np.random.default_rng(0)
    lab = np.repeat([0, 1], 24)
    kind = np.tile([0, 1], 24)
    tokens = rng.normal(size=(48, 12, 6, 6)).astype(np.float16)
    tokens[:, :4] += 2 * kind[:, None, None, None]
    tokens[:, 4:8] += 3 * lab[:, None, None, None]
    crops = np.full((48, 128, 128, 3), 128, np.uint8)
    disc = np.hypot(*(np.mgrid[:128, :128] - 63.5)) < 40
    crops[:, disc] = np.where(kind[:, None, None] == 1, (200, 40, 40), (40, 40, 200))
    return CellEmbeddings(tokens.mean((2, 3)), tokens, np.ones((48, 8, 8), bool), crops, np.zeros(48, QUALITY)), lab


def small(**params):
    return CrossDomainAutoencoder(
        8, **{"epochs": 6, "batch_size": 16, "learning_rate": 5e-3, "random_state": 0} | params
    )


@pytest.fixture(scope="module")
def fitted(cells):
    X, lab = cells
    return small(epochs=12).fit(X, domain=lab)


def test_features_are_float32_rows(fitted, cells):
    features = fitted.transform(cells[0])
    assert features.shape == (48, 8)
    assert features.dtype == np.float32
    np.testing.assert_allclose(fitted.transform(cells[0][5:7]), features[5:7], atol=1e-5)


def test_reconstruction_learns_the_crops(fitted, cells):
    X, _ = cells
    crops = fitted.reconstruct(X)
    assert crops.shape == (48, 32, 32, 3)
    assert crops.dtype == np.uint8
    assert fitted.history_["reconstruction"].iloc[-1] < 0.6 * fitted.history_["reconstruction"].iloc[0]
    middle = crops[:, 16, 16].astype(int)
    assert ((middle[:, 0] > middle[:, 2]) == (X.crops[:, 64, 64, 0] > 100)).mean() > 0.9


def test_alignment_brings_the_laboratories_together(cells):
    X, lab = cells
    gaps = {}
    for weight in (0.0, 50.0):
        features = small(alignment_weight=weight, epochs=12).fit_transform(X, domain=lab)
        spread = features.std(0) + 1e-6
        gaps[weight] = np.mean(((features[lab == 0].mean(0) - features[lab == 1].mean(0)) / spread) ** 2)
    assert gaps[50.0] < 0.5 * gaps[0.0]


def test_class_labels_are_not_looked_at(cells):
    X, lab = cells
    a = small(epochs=1).fit(X, np.zeros(48), domain=lab).transform(X)
    b = small(epochs=1).fit(X, np.arange(48), domain=lab).transform(X)
    np.testing.assert_array_equal(a, b)


def test_same_seed_same_features(cells):
    X, lab = cells
    torch.manual_seed(1)
    a = small(epochs=1).fit_transform(X, domain=lab)
    torch.manual_seed(2)
    b = small(epochs=1).fit_transform(X, domain=lab)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, small(epochs=1, random_state=1).fit_transform(X, domain=lab))


def test_domains_may_be_strings_absent_or_single(cells):
    X, lab = cells
    names = small(epochs=1).fit(X, domain=np.array(["tecom", "acevedo"])[lab])
    assert names.domains_.tolist() == ["acevedo", "tecom"]
    for domain in (None, np.zeros(48, int)):
        alone = small(epochs=1).fit(X, domain=domain)
        assert (alone.history_["alignment"] == 0).all()
        assert np.isfinite(alone.transform(X)).all()


@pytest.mark.parametrize("crop_size", [32, 64, 128])
def test_crop_sizes(cells, crop_size):
    X, lab = cells
    network = small(epochs=1, crop_size=crop_size).fit(X[:4], domain=lab[:4])
    assert network.reconstruct(X[:2]).shape == (2, crop_size, crop_size, 3)


def test_errors_name_the_fix(cells, fitted):
    X, lab = cells
    with pytest.raises(ValueError, match=r"Got domain of shape \(47,\) but expected \(48,\).* Fix:"):
        small().fit(X, domain=lab[:-1])
    with pytest.raises(ValueError, match=r"Row 3: domain is missing. Fix:"):
        small().fit(X, domain=[None if row == 3 else "a" for row in range(48)])
    with pytest.raises(
        TypeError, match=r"Got X of type ndarray but expected CellEmbeddings .* Fix: put SAMLoRAEmbedder"
    ):
        small().fit(np.asarray(X))
    with pytest.raises(ValueError, match="Got crop_size=100 but expected one of"):
        small(crop_size=100).fit(X)
    with pytest.raises(ValueError, match="'n_components' parameter"):
        CrossDomainAutoencoder(0).fit(X)
    with pytest.raises(ValueError, match="Got 1 cell but expected at least 2"):
        small().fit(X[:1])
    narrow = CellEmbeddings(X.pooled[:, :4], X.tokens[:, :4], X.masks, X.crops, X.quality)
    with pytest.raises(ValueError, match=r"Got embeddings 4 wide but expected 12. Fix:"):
        fitted.transform(narrow)
    with pytest.raises(NotFittedError):
        small().transform(X)


def test_clone_and_pickle(fitted, cells):
    assert clone(fitted).get_params() == fitted.get_params()
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.transform(cells[0]), fitted.transform(cells[0]))


def test_feature_names(fitted, cells):
    assert fitted.get_feature_names_out()[0] == "crossdomainautoencoder0"
    table = clone(fitted).set_params(epochs=1).set_output(transform="pandas").fit(cells[0]).transform(cells[0])
    assert table.shape == (48, 8)
