"""`CellClassifier` with stain views: its classifier is trained on them, and all else is as without."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from tests.classification.test_stain_augmented import Recorder

from sam_bloodcell import CellClassifier, StainAugmentedClassifier
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import leave_one_domain_out_predictions


class ProbableRecorder(Recorder):
    """Remembers what it was fitted to, and gives each class the same probability."""

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    made = make_blood_cells(5, classes=["eosinophil", "lymphocyte"], random_state=0)
    return load_cells(save_cells(made, tmp_path_factory.mktemp("cells"))).frame


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Make a classifier; embeddings are computed once."""
    return partial(CellClassifier, random_state=0, verbose=0, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(model, frame):
    return model().fit(frame, frame["label"])


@pytest.fixture(scope="module")
def viewed(model, frame):
    return model(n_stain_views=2).fit(frame, frame["label"])


def test_the_classifier_sees_each_cell_and_its_views_with_their_label(model, frame, plain):
    seen = model(classifier=ProbableRecorder(), n_stain_views=2).fit(frame, frame["label"]).pipeline_[-1]
    n = len(frame)
    np.testing.assert_array_equal(seen.X_[:n], plain.training_features_)
    assert len(np.unique(seen.X_, axis=0)) == 3 * n
    assert seen.y_.tolist() == frame["label"].tolist() * 3


def test_views_go_through_the_fitted_autoencoder_as_cells_of_no_known_laboratory(model, frame):
    fitted = model(classifier=ProbableRecorder(), n_stain_views=1).fit(frame, frame["label"])
    whole = StainAugmentedClassifier(make_pipeline(fitted.pipeline_[0], ProbableRecorder()), 1, random_state=0)
    views = whole.fit(frame, frame["label"]).pipeline_[-1].X_.pooled[len(frame) :]
    with pytest.warns(UserWarning, match=r"The domain of .* is unknown"):
        expected = fitted.pipeline_[1].transform(views)
    np.testing.assert_allclose(fitted.pipeline_[-1].X_[len(frame) :], expected, atol=1e-5)


@pytest.mark.parametrize("form", ["paths", "iterator", "polars"])
def test_images_come_in_every_form(form, model, frame):
    forms = {
        "paths": lambda: frame["path"].tolist(),
        "iterator": lambda: iter(frame["path"]),
        "polars": lambda: pytest.importorskip("polars").from_pandas(frame),
    }
    unfitted = model(classifier=ProbableRecorder(), autoencoder=None, n_stain_views=1)
    assert len(unfitted.fit(forms[form](), frame["label"]).pipeline_[-1].X_) == 2 * len(frame)


def test_no_views_change_nothing(model, frame, plain):
    without = model(n_stain_views=0).fit(frame, frame["label"])
    whole = plain.make_pipeline().fit(frame, frame["label"])
    for found in (without.predict_proba(frame), whole.predict_proba(frame)):
        np.testing.assert_array_equal(found, plain.predict_proba(frame))


def test_views_change_the_answers_but_not_what_is_like_a_training_cell(frame, plain, viewed):
    assert not np.allclose(viewed.predict_proba(frame), plain.predict_proba(frame))
    assert viewed.novelty_.threshold_ == plain.novelty_.threshold_
    others = ["novelty", "unknown", "copy_of"]
    pd.testing.assert_frame_equal(viewed.predict_table(frame)[others], plain.predict_table(frame)[others])
    for name in ("features_", "embeddings_", "labels_", "domains_", "paths_"):
        np.testing.assert_array_equal(getattr(viewed, f"training_{name}"), getattr(plain, f"training_{name}"))


def test_the_seed_decides_the_views(model, frame, viewed):
    again = model(n_stain_views=2).fit(frame, frame["label"])
    np.testing.assert_array_equal(again.predict_proba(frame), viewed.predict_proba(frame))
    recorders = [
        model(classifier=ProbableRecorder(), autoencoder=None, n_stain_views=1, random_state=seed)
        .fit(frame, frame["label"])
        .pipeline_[-1]
        for seed in (0, 1)
    ]
    first, second = (np.asarray(recorder.X_)[len(frame) :] for recorder in recorders)
    assert not np.allclose(first, second)


def test_a_saved_model_answers_alike(frame, viewed, tmp_path):
    viewed.save_pretrained(tmp_path)
    back = CellClassifier.from_pretrained(tmp_path)
    assert back.n_stain_views == 2
    np.testing.assert_array_equal(back.predict_proba(frame), viewed.predict_proba(frame))


def test_a_model_that_was_saved_before_there_were_views_still_answers(frame, plain):
    old = pickle.loads(pickle.dumps(plain))
    del vars(old)["n_stain_views"]
    np.testing.assert_array_equal(old.predict_proba(frame), plain.predict_proba(frame))


def test_the_evaluation_trains_on_views_too(model, frame):
    unfitted = model(autoencoder=None, n_stain_views=1, random_state=0)
    pipeline = model(autoencoder=None).make_pipeline()
    by_model, by_hand, without = (
        leave_one_domain_out_predictions({"it": estimator}, frame, frame["label"], random_state=0)
        for estimator in (unfitted, StainAugmentedClassifier(pipeline, 1, random_state=0), pipeline)
    )
    pd.testing.assert_frame_equal(by_model, by_hand)
    assert not np.allclose(by_model["confidence"], without["confidence"])


def test_the_evaluation_refuses_views_with_an_autoencoder(model, frame):
    with pytest.raises(ValueError, match="Got n_stain_views=2 and an autoencoder, which an evaluation cannot combine"):
        leave_one_domain_out_predictions(model(n_stain_views=2), frame, frame["label"])


@pytest.mark.parametrize(
    "classifier",
    [
        SVC(),
        SVC(probability=True),
        GridSearchCV(LogisticRegression(max_iter=2000), {"C": [0.1, 1]}, cv=2),
        make_pipeline(CalibratedClassifierCV(LogisticRegression(max_iter=2000), cv=2)),
    ],
    ids=["calibrated svc", "svc with probabilities", "search", "calibration in a pipeline"],
)
def test_a_classifier_that_divides_a_cell_from_its_views_is_refused_before_any_image_is_read(classifier):
    with pytest.raises(
        ValueError, match=r"(?s)Got n_stain_views=1 and classifier=.*whose folds split cells from their views"
    ):
        CellClassifier(classifier=classifier, n_stain_views=1, verbose=0).fit(["no.png", "other.png"], ["a", "b"])


@pytest.mark.parametrize("n", [-1, 1.5, "two"])
def test_a_number_of_views_that_is_none_is_named_before_any_image_is_read(n):
    with pytest.raises(ValueError, match="The 'n_stain_views' parameter of CellClassifier must be"):
        CellClassifier(n_stain_views=n, verbose=0).fit(["no.png", "other.png"], ["a", "b"])
