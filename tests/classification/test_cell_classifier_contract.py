"""scikit-learn's contract for `CellClassifier`, whose input is images and so cannot go through `check_estimator`.

Each test stands for the check of scikit-learn's that it is named after. Inputs are tables of images and laboratories.
"""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_html_repr, get_tags
from sklearn.utils.validation import check_is_fitted

from sam_bloodcell import CellClassifier
from sam_bloodcell.datasets import make_blood_cells


@pytest.fixture(scope="module")
def cells():
    made = make_blood_cells(6, classes=["eosinophil", "lymphocyte"], random_state=0)
    return pd.DataFrame({"path": list(made.images), "domain": made.domain}), made.labels


@pytest.fixture(scope="module")
def fitted(cells):
    return CellClassifier(random_state=0, verbose=0).fit(*cells)


def test_check_no_attributes_set_in_init():
    classifier = CellClassifier()
    assert set(vars(classifier)) == set(classifier.get_params())


def test_check_parameters_default_constructible():
    defaults = CellClassifier().get_params()
    assert all(value is None or isinstance(value, str | int | float) for value in defaults.values())


def test_check_get_params_invariance_and_set_params():
    classifier = CellClassifier(coverage=0.9)
    assert classifier.get_params(deep=False) == classifier.get_params(deep=True)
    assert classifier.set_params(coverage=0.8) is classifier
    assert classifier.coverage == 0.8
    with pytest.raises(ValueError, match="Invalid parameter 'covrage'"):
        classifier.set_params(covrage=0.8)


def test_check_estimator_cloneable(fitted):
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        check_is_fitted(fresh)


def test_check_estimators_unfitted(cells):
    fresh = CellClassifier()
    for method in (fresh.predict, fresh.predict_proba, fresh.predict_table):
        with pytest.raises(NotFittedError):
            method(cells[0])


def test_check_estimators_overwrite_params_and_dont_overwrite_attributes(cells):
    classifier = CellClassifier(random_state=0, verbose=0)
    before = copy.deepcopy(classifier.get_params())
    assert classifier.fit(*cells) is classifier
    assert classifier.get_params() == before
    assert all(name.endswith("_") for name in set(vars(classifier)) - set(before))


def test_check_dict_unchanged(fitted, cells):
    before = {name: id(value) for name, value in vars(fitted).items()}
    fitted.predict(cells[0])
    fitted.predict_table(cells[0])
    assert {name: id(value) for name, value in vars(fitted).items()} == before


def test_check_classifiers_classes_and_train(fitted, cells):
    X, y = cells
    assert is_classifier(fitted)
    assert fitted.classes_.tolist() == sorted(set(y))
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (len(y), 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(axis=1)], fitted.predict(X))
    assert fitted.score(X, y) > 0.9


def test_check_classifiers_one_label(cells):
    X, y = cells
    with pytest.raises(ValueError, match="Got one class"):
        CellClassifier(verbose=0).fit(X, np.full(len(y), "lymphocyte"))


def test_check_classifiers_regression_target(cells):
    X, y = cells
    with pytest.raises(ValueError, match="Unknown label type"):
        CellClassifier(verbose=0).fit(X, np.linspace(0, 1, len(y)))


def test_check_requires_y_none(cells):
    with pytest.raises(TypeError, match="y"):
        CellClassifier(verbose=0).fit(cells[0], None)


def test_check_supervised_y_2d_and_no_nan(cells):
    X, y = cells
    with pytest.raises(ValueError, match="y"):
        CellClassifier(verbose=0).fit(X, np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match="Row 0: y is missing"):
        CellClassifier(verbose=0).fit(X, [None, *y[1:]])


def test_check_estimators_empty_data_messages(cells):
    X, y = cells
    with pytest.raises(ValueError, match=r"X is empty|at least one|0 images"):
        CellClassifier(verbose=0).fit(X.iloc[:0], y[:0])


def test_check_methods_sample_order_invariance(fitted, cells):
    backwards = fitted.predict_proba(cells[0].iloc[::-1])[::-1]
    np.testing.assert_allclose(backwards, fitted.predict_proba(cells[0]), atol=0.02)  # bfloat16 where the CPU has it


def test_check_methods_subset_invariance(fitted, cells):
    """The laboratories are those of the fit, so that each cell is answered by itself."""
    X, _ = cells
    parts = np.concatenate([fitted.predict_proba(X.iloc[row : row + 4]) for row in range(0, len(X), 4)])
    np.testing.assert_allclose(parts, fitted.predict_proba(X), atol=0.02)


def test_check_fit_idempotent(fitted, cells):
    twice = clone(fitted).fit(*cells).fit(*cells)
    np.testing.assert_array_equal(twice.predict_proba(cells[0]), fitted.predict_proba(cells[0]))


def test_check_fit2d_predict1d_and_one_image(fitted, cells):
    with pytest.raises(ValueError, match="Got one image"):
        fitted.predict("cell.png")
    assert fitted.predict(cells[0].iloc[:1]).shape == (1,)


def test_check_estimators_pickle(fitted, cells):
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.predict_proba(cells[0]), fitted.predict_proba(cells[0]))


def test_check_estimator_repr_and_html(fitted):
    assert repr(fitted) == "CellClassifier(random_state=0, verbose=0)"
    assert "CellClassifier" in estimator_html_repr(fitted)


def test_check_estimator_tags_renamed(fitted):
    tags = get_tags(fitted)
    assert tags.target_tags.required
    assert tags.classifier_tags is not None
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
