"""scikit-learn's contract for the embedders, whose input is images and so cannot go through `check_estimator`.

Each test stands for the check of scikit-learn's that it is named after.
"""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_html_repr, get_tags
from sklearn.utils.validation import check_is_fitted

from sam_bloodcell import FunctionEmbedder, SAMLoRAEmbedder, ViTEmbedder
from sam_bloodcell.datasets import make_blood_cells


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(1, random_state=0)


def colours_by_row(crops):
    return crops.mean(axis=2).reshape(len(crops), -1)


@pytest.fixture(scope="module", params=["sam", "vit", "function"])
def make(request, vit_file):
    return {
        "sam": partial(SAMLoRAEmbedder, "vit_tiny"),
        "vit": partial(ViTEmbedder, str(vit_file)),
        "function": partial(FunctionEmbedder, colours_by_row, "colours-1", image_size=64, background=True),
    }[request.param]


@pytest.fixture(scope="module")
def fitted(cells, make):
    return make().fit(cells.images)


def test_check_no_attributes_set_in_init(make):
    embedder = make()
    assert set(vars(embedder)) == set(embedder.get_params())


@pytest.mark.parametrize("kind", [SAMLoRAEmbedder, ViTEmbedder])
def test_check_parameters_default_constructible(kind):
    defaults = kind().get_params()
    assert all(value is None or isinstance(value, str | int | float | bool | tuple) for value in defaults.values())


def test_check_get_params_invariance_and_set_params(make):
    embedder = make(batch_size=3)
    assert embedder.get_params(deep=False) == embedder.get_params(deep=True)
    assert len(embedder.get_params()) <= 18
    assert embedder.set_params(batch_size=5) is embedder
    assert embedder.batch_size == 5
    with pytest.raises(ValueError, match="Invalid parameter 'bach_size'"):
        embedder.set_params(bach_size=5)


def test_check_estimator_cloneable(fitted):
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        check_is_fitted(fresh)


def test_check_estimators_unfitted(make, cells):
    with pytest.raises(NotFittedError):
        make().transform(cells.images)


def test_check_fit_check_is_fitted_and_returns_self(make, cells):
    embedder = make()
    assert embedder.fit(cells.images) is embedder
    check_is_fitted(embedder)


OF_ANOTHER_WIDTH = {
    SAMLoRAEmbedder: {"pooling": "mask+texture", "image_size": 112},
    ViTEmbedder: {"pooling": "both"},
    FunctionEmbedder: {"image_size": 32, "name": "colours-32"},
}


def test_what_decides_the_number_of_features_takes_effect_in_the_next_fit(make, cells, tmp_path):
    embedder = make(cache_dir=tmp_path).fit(cells.images)
    before, names = np.asarray(embedder.transform(cells.images)), embedder.get_feature_names_out().tolist()
    embedder.set_params(**OF_ANOTHER_WIDTH[type(embedder)])
    for still in (embedder, pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(still.transform(cells.images), before)
        assert still.get_feature_names_out().tolist() == names
    after = embedder.fit_transform(cells.images)
    assert after.shape[1] == len(embedder.get_feature_names_out()) != before.shape[1]


def test_check_estimators_overwrite_params_and_dont_overwrite_attributes(make, cells):
    embedder = make()
    before = copy.deepcopy(embedder.get_params())
    embedder.fit(cells.images)
    assert embedder.get_params() == before
    added = set(vars(embedder)) - set(before)
    assert all(name.endswith("_") or name.startswith("_") for name in added)


def test_check_dict_unchanged(fitted, cells):
    before = {name: id(value) for name, value in vars(fitted).items()}
    fitted.transform(cells.images)
    assert {name: id(value) for name, value in vars(fitted).items()} == before


def test_check_readonly_memmap_input(fitted, cells, tmp_path):
    np.save(tmp_path / "images.npy", cells.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(fitted.transform(mapped), fitted.transform(cells.images))


def test_check_methods_subset_invariance(fitted, cells):
    whole = np.asarray(fitted.transform(cells.images))
    parts = np.concatenate([np.asarray(fitted.transform(cells.images[i : i + 1])) for i in range(len(cells.images))])
    np.testing.assert_allclose(parts, whole, atol=0.05 * whole.std())  # bfloat16 where the CPU has it


def test_check_methods_sample_order_invariance(fitted, cells):
    whole = np.asarray(fitted.transform(cells.images))
    backwards = np.asarray(fitted.transform(cells.images[::-1]))[::-1]
    np.testing.assert_allclose(backwards, whole, atol=0.05 * whole.std())


def test_check_transformer_general(fitted, cells):
    at_once = clone(fitted).fit_transform(cells.images, np.arange(len(cells.images)))
    np.testing.assert_array_equal(at_once, fitted.transform(cells.images))
    assert at_once.dtype == np.float32


def test_check_fit_idempotent(fitted, cells):
    twice = clone(fitted).fit(cells.images).fit(cells.images)
    np.testing.assert_array_equal(twice.transform(cells.images), fitted.transform(cells.images))


def test_check_estimators_pickle(fitted, cells):
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.transform(cells.images), fitted.transform(cells.images))


def test_check_set_output_transform_pandas(fitted, cells):
    table = clone(fitted).set_output(transform="pandas").fit(cells.images).transform(cells.images)
    assert list(table) == list(fitted.get_feature_names_out())
    assert len(table) == len(cells.images)


def test_check_transformer_get_feature_names_out(fitted):
    names = fitted.get_feature_names_out()
    assert len(names) == len(set(names)) == fitted.n_features_out_
    assert all(name.startswith(type(fitted).__name__.lower()) for name in names)


def test_check_estimator_repr_and_html(fitted):
    name = type(fitted).__name__
    assert repr(fitted).startswith(f"{name}(")
    assert name in estimator_html_repr(fitted)


def test_check_estimator_repr_leaves_out_defaults():
    assert repr(SAMLoRAEmbedder("vit_tiny")) == "SAMLoRAEmbedder(backbone='vit_tiny')"
    assert repr(ViTEmbedder("facebook/dinov2-base")) == "ViTEmbedder(backbone='facebook/dinov2-base')"


def test_check_estimator_tags_renamed(fitted):
    tags = get_tags(fitted)
    assert tags.transformer_tags is not None
    assert not tags.target_tags.required


def test_check_estimators_empty_data_messages(fitted):
    with pytest.raises(ValueError, match=r"0 images|no images|at least one|empty"):
        fitted.transform([])
