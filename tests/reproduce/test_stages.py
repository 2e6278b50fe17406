from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from sam_bloodcell.reproduce import stages
from sam_bloodcell.reproduce.stages import MaskedCells, RememberedClassifier, paper_classifiers, paper_pixel_stats


def test_pixel_statistics_are_means_of_each_images_own():
    images = [np.zeros((4, 4, 3), np.uint8), np.full((9, 9, 3), 100, np.uint8)]
    images[1][..., 2] = np.where(np.arange(9) % 3, 90, 60)
    means, stds = paper_pixel_stats(images)
    assert means == pytest.approx((50, 50, 40))  # whatever the images' sizes
    assert stds == pytest.approx((0, 0, np.sqrt(200) / 2))


def test_the_mlp_is_that_of_the_notebooks():
    network = paper_classifiers(["RF", "MLP"], 3)["MLP"][-1]
    assert (network.early_stopping, network.validation_fraction, network.max_iter) == (True, 0.1, 1000)
    assert network.random_state == 3


def test_stain_masks_are_for_some_cells_of_each_laboratory(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "MOST_STAINED", 3)
    paths = [str(tmp_path / f"{i}.png") for i in range(10)]
    for path in paths:
        Path(path).write_text(path)
    domain = np.array(["a"] * 8 + ["b"] * 2)
    drawn = MaskedCells("auto", paths, domain, 0)
    assert len(drawn) == 5
    assert set(drawn.images) <= set(paths)
    assert set(paths[8:]) <= set(drawn.images)
    assert MaskedCells("auto", paths, domain, 0).digest == drawn.digest != MaskedCells("auto", paths, domain, 1).digest


def test_masks_of_the_authors_are_read(archive):
    cells = MaskedCells(archive, [], np.array([]), 0)
    assert len(cells) == len(cells.masks) == 6
    assert cells.masks[0].shape == cells.images[0].shape[:2]


@pytest.fixture
def fits(monkeypatch):
    """Count the fits of forests."""
    counted, fit = [], RandomForestClassifier.fit
    monkeypatch.setattr(RandomForestClassifier, "fit", lambda *args: counted.append(1) or fit(*args))
    return counted


def test_a_remembered_classifier_answers_as_the_classifier_and_is_fitted_once(tmp_path, fits):
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    y = np.arange(30) % 3
    forest = RandomForestClassifier(5, random_state=0)
    remembered = RememberedClassifier(forest, str(tmp_path))
    answers = clone(remembered).fit(X, y).predict(X), clone(remembered).fit(X, y).predict_proba(X)
    assert len(fits) == 2
    again = clone(remembered).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), answers[0])
    np.testing.assert_array_equal(again.predict_proba(X), answers[1])
    assert len(fits) == 2
    plain = clone(forest).fit(X, y)
    np.testing.assert_array_equal(plain.predict(X), answers[0])
    np.testing.assert_array_equal(plain.predict_proba(X), answers[1])


def test_other_cells_labels_or_parameters_are_another_question(tmp_path, fits):
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = np.arange(30) % 3
    forest = RandomForestClassifier(5, random_state=0)
    for estimator, train, labels, asked in [
        (forest, X, y, X), (forest, X, y, X[:9]), (forest, X + 1, y, X), (forest, X, y[::-1], X),
        (clone(forest).set_params(random_state=1), X, y, X),
    ]:  # fmt: skip
        RememberedClassifier(estimator, str(tmp_path)).fit(train, labels).predict(asked)
    assert len(fits) == len(list(tmp_path.iterdir())) == 5


def test_a_remembered_svm_has_no_probabilities_as_the_svm_has_none(tmp_path):
    assert not hasattr(RememberedClassifier(SVC(), str(tmp_path)), "predict_proba")
