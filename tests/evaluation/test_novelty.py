import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from sam_bloodcell.evaluation import AbstainingClassifier

CRITERIA = ("neighbours", "mahalanobis", "confidence")


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(["lymphocyte", "monocyte"], 150)
    return rng.normal(size=(300, 4)) + 5 * (y == "monocyte")[:, None], y


@pytest.mark.parametrize("criterion", CRITERIA)
def test_about_the_asked_share_of_like_cells_is_answered(blobs, criterion):
    X, y = blobs
    fitted = AbstainingClassifier(criterion=criterion, coverage=0.9, random_state=0).fit(X, y)
    fresh = np.random.default_rng(1).normal(size=(1000, 4)) + 5 * np.repeat([0, 1], 500)[:, None]
    answers = fitted.predict(fresh)
    assert (answers != "unknown").mean() == pytest.approx(0.9, abs=0.06)
    assert (answers[answers != "unknown"] == np.repeat(["lymphocyte", "monocyte"], 500)[answers != "unknown"]).all()


@pytest.mark.parametrize("criterion", ["neighbours", "mahalanobis"])
def test_a_new_kind_of_cell_is_unknown(blobs, criterion):
    X, y = blobs
    new = np.random.default_rng(1).normal(size=(50, 4)) + np.array([20, -20, 0, 0])
    fitted = AbstainingClassifier(criterion=criterion, random_state=0).fit(X, y)
    assert (fitted.predict(new) == "unknown").all()
    assert fitted.novelty(new).min() > fitted.novelty(X).max()
    assert fitted.predict_proba(new).shape == (50, 2)


def test_numbers_answer_minus_one(blobs):
    X, y = blobs
    fitted = AbstainingClassifier(random_state=0).fit(X, (y == "monocyte").astype(int))
    assert fitted.predict(np.full((1, 4), 99.0)).tolist() == [-1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"criterion": "magic"}, "Got criterion='magic' but expected one of neighbours"),
        ({"coverage": 1.0}, "The 'coverage' parameter of AbstainingClassifier"),
        ({"unknown": "monocyte"}, "Got unknown='monocyte', which is a class, but expected another answer"),
    ],
)
def test_bad_parameters(blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        AbstainingClassifier(**parameters).fit(*blobs)


@parametrize_with_checks([AbstainingClassifier(coverage=0.999)])
def test_scikit_learn_contract(estimator, check):
    check(clone(estimator))


TYPES = {
    "uint8": lambda codes: codes.astype(np.uint8),
    "uint64": lambda codes: codes.astype(np.uint64),
    "int8": lambda codes: codes.astype(np.int8),
    "bool": lambda codes: codes.astype(bool),
    "float": lambda codes: codes.astype(float),
    "category": lambda codes: pd.Categorical(codes),
    "Int64": lambda codes: pd.array(codes, dtype="Int64"),
    "boolean": lambda codes: pd.array(codes.astype(bool), dtype="boolean"),
    "object": lambda codes: codes.astype(object),
}


@pytest.mark.parametrize("kind", TYPES)
def test_labels_of_any_type_of_numbers_answer_minus_one(blobs, kind):
    X, y = blobs
    codes = (y == "monocyte").astype(int)
    answers = AbstainingClassifier(coverage=0.999, random_state=0).fit(X, TYPES[kind](codes))
    assert answers.predict(np.vstack([X[:1], X[-1:], np.full((1, 4), 99.0)])).tolist() == [0, 1, -1]


def test_the_answer_is_below_the_smallest_of_its_type(blobs):
    X, y = blobs
    labels = np.where(y == "monocyte", 3, -128).astype(np.int8)
    assert AbstainingClassifier(random_state=0).fit(X, labels).predict(np.full((1, 4), 99.0)).tolist() == [-129]


@pytest.mark.parametrize("labels", ["text", "numbers"])
@pytest.mark.parametrize("unknown", ["none of these", -7, None])
def test_any_answer_for_unknown_cells_comes_out_as_it_was_given(blobs, labels, unknown):
    X, y = blobs
    y = y if labels == "text" else (y == "monocyte").astype(int)
    fitted = AbstainingClassifier(unknown=unknown, coverage=0.999, random_state=0).fit(X, y)
    assert fitted.predict(np.vstack([X[:1], np.full((1, 4), 99.0)])).tolist() == [y[0], unknown]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pd.array([None, *["x", "y"] * 10], dtype="string"), "Row 0: y is missing"),
        (pd.array([1, None, *[1, 2] * 10], dtype="Int64"), "Row 1: y is missing"),
        (["x", *[1, 2] * 10], "Row 1: got y=1 of type int among text"),
    ],
    ids=["string", "Int64", "mixed"],
)
def test_labels_with_gaps_or_of_two_types_name_the_row(labels, message):
    with pytest.raises(ValueError, match=message):
        AbstainingClassifier().fit(np.zeros((len(labels), 2)), labels)


def test_a_classifier_without_probabilities_has_none_here_either(blobs):
    assert not hasattr(AbstainingClassifier(SVC()), "predict_proba")
    assert not hasattr(AbstainingClassifier(SVC()).fit(*blobs), "predict_proba")
    with pytest.raises(ValueError, match=r"Got criterion='confidence' with SVC\(\), which has no predict_proba"):
        AbstainingClassifier(SVC(), criterion="confidence").fit(*blobs)


def test_probabilities_are_in_the_order_of_the_classes(blobs):
    class Reversed(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.model_ = LogisticRegression().fit(X, y)
            self.classes_ = self.model_.classes_[::-1]
            return self

        def predict(self, X):
            return self.model_.predict(X)

        def predict_proba(self, X):
            return self.model_.predict_proba(X)[:, ::-1]

    X, y = blobs
    fitted = AbstainingClassifier(Reversed(), random_state=0).fit(X, y)
    right = fitted.predict_proba(X)[np.arange(len(y)), np.searchsorted(fitted.classes_, y)]
    assert np.median(right) > 0.9


@pytest.mark.slow
def test_distance_to_the_centres_by_hand_and_without_an_array_of_all_offsets(blobs):
    X, y = blobs
    fitted = AbstainingClassifier(criterion="mahalanobis", random_state=0).fit(X, y)
    _, centres, precision = fitted._fitted_measure
    expected = [min(mahalanobis(cell, centre, precision) ** 2 for centre in centres) for cell in X[:20]]
    np.testing.assert_allclose(fitted.novelty(X[:20]), expected)
    wide = np.zeros((3000, 64))
    labels = np.arange(3000) % 100
    wide[np.arange(3000), labels % 64] = 1 + labels // 64
    fitted = AbstainingClassifier(criterion="mahalanobis", random_state=0).fit(wide, labels)
    tracemalloc.start()
    fitted.novelty(wide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # bytes: 3000 x 100 x 64 numbers are 154e6
