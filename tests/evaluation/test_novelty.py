import numpy as np
import pytest
from sklearn.base import clone
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
        ({"unknown": "monocyte"}, "Got unknown='monocyte', which is a class too"),
    ],
)
def test_bad_parameters(blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        AbstainingClassifier(**parameters).fit(*blobs)


@parametrize_with_checks([AbstainingClassifier(coverage=0.999)])
def test_scikit_learn_contract(estimator, check):
    check(clone(estimator))
