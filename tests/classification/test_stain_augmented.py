import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    LeaveOneGroupOut,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import estimator_html_repr, get_tags
from tests.counting import CountingEmbedder, passes

from sam_bloodcell import (
    CrossDomainAutoencoder,
    ImageReadError,
    SAMLoRAEmbedder,
    StainAugmentedClassifier,
    from_pretrained,
    save_pretrained,
)
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import leave_one_domain_out_predictions
from sam_bloodcell.images.stain_views import StainView

SIZE = 64  # pixels that the network sees: tests are about the classifier
# At so few pixels, the network does not find every cell.
pytestmark = pytest.mark.filterwarnings("ignore:No plausible cell was found")


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers what it was fitted to."""

    def fit(self, X, y, sample_weight=None, groups=None):
        self.X_, self.y_, self.sample_weight_, self.groups_ = X, y, sample_weight, groups
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


@pytest.fixture(scope="module")
def made():
    return make_blood_cells(6, classes=["eosinophil", "lymphocyte"], image_size=48, random_state=0)


@pytest.fixture(scope="module")
def frame(made, tmp_path_factory):
    return load_cells(save_cells(made, tmp_path_factory.mktemp("cells"))).frame


@pytest.fixture(scope="module")
def labels(frame):
    return frame["label"].to_numpy()


@pytest.fixture(autouse=True)
def _log(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARD_LOG", str(tmp_path / "forwards.log"))


def augmented(classifier=None, n_views=2, **params):
    embedder = CountingEmbedder("vit_tiny", image_size=SIZE)
    last = LogisticRegression(max_iter=2000) if classifier is None else classifier
    return StainAugmentedClassifier(make_pipeline(embedder, last), n_views, **{"random_state": 0, **params})


def test_the_classifier_sees_each_cell_and_its_views_with_their_label_and_laboratory(frame, labels):
    n = len(frame)
    seen = augmented(Recorder(), n_views=3).fit(frame, labels).pipeline_[-1]
    assert len(seen.X_) == 4 * n
    plain = SAMLoRAEmbedder("vit_tiny", image_size=SIZE).fit_transform(frame)
    np.testing.assert_array_equal(seen.X_[:n].pooled, plain.pooled)
    assert len(np.unique(seen.X_.pooled, axis=0)) == 4 * n
    assert seen.y_.tolist() == labels.tolist() * 4
    assert seen.X_.domain.tolist() == frame["domain"].tolist() * 4


def test_prediction_is_that_of_the_pipeline_from_the_cell_alone(frame, labels):
    fitted = augmented().fit(frame, labels)
    for method in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(fitted, method)(frame), getattr(fitted.pipeline_, method)(frame))
    assert fitted.classes_.tolist() == ["eosinophil", "lymphocyte"]
    assert fitted.score(frame, labels) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(frame[:1]), fitted.predict_proba(frame)[:1], atol=0.02)


@pytest.mark.parametrize("form", ["paths", "Series", "PIL", "array", "iterator", "polars", "one column"])
def test_images_come_in_every_form_that_the_embedder_takes(form, made, frame, labels):
    forms = {
        "paths": lambda: frame["path"].tolist(),
        "Series": lambda: frame["path"],
        "PIL": lambda: [Image.open(path) for path in frame["path"]],
        "array": lambda: np.stack([np.asarray(Image.open(path)) for path in frame["path"]]),
        "iterator": lambda: iter(frame["path"]),
        "polars": lambda: pytest.importorskip("polars").from_pandas(frame),
        "one column": lambda: frame[["path"]].rename(columns={"path": "file"}),
    }
    fitted = augmented(Recorder()).fit(forms[form](), labels)
    assert len(fitted.pipeline_[-1].X_) == 3 * len(labels)
    assert (fitted.pipeline_[-1].X_.domain is not None) == (form == "polars")


def test_a_table_keeps_its_other_columns_and_is_not_changed(frame, labels):
    before = frame.copy()
    seen = StainAugmentedClassifier(make_pipeline(Images(), Recorder()), 1, random_state=0).fit(frame, labels)
    pd.testing.assert_frame_equal(frame, before)
    table = seen.pipeline_[-1].X_
    assert list(table) == list(frame)
    assert table["label"].tolist() == labels.tolist() * 2
    assert [isinstance(image, StainView) for image in table["path"]] == [False] * len(frame) + [True] * len(frame)


class Images(BaseEstimator):
    """A first step that hands its images on."""

    image_size = 32

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def test_views_have_the_size_that_the_network_sees(frame, labels):
    table = StainAugmentedClassifier(make_pipeline(Images(), Recorder()), 1).fit(frame, labels).pipeline_[-1].X_
    assert table["path"].iloc[-1].rgb().shape == (32, 32, 3)


def test_the_same_seed_embeds_nothing_anew_and_gives_the_same_classifier(frame, labels):
    first = augmented().fit(frame, labels)
    assert sum(passes()) == 3 * len(frame)
    again = augmented(LogisticRegression(C=0.1, max_iter=2000)).fit(frame[::-1], labels[::-1])
    assert sum(passes()) == 3 * len(frame)
    twice = augmented().fit(frame, labels)
    np.testing.assert_array_equal(twice.predict_proba(frame), first.predict_proba(frame))
    assert not np.array_equal(again.predict_proba(frame), first.predict_proba(frame))
    augmented(random_state=1).fit(frame, labels)
    assert sum(passes()) == 5 * len(frame)


def test_a_search_over_the_pipeline_embeds_little_more_than_one_fit(frame, labels):
    grid = {"pipeline__logisticregression__C": [0.01, 0.1, 1.0]}
    search = GridSearchCV(augmented(n_views=3), grid, cv=3, scoring="balanced_accuracy").fit(frame, labels)
    assert search.best_params_["pipeline__logisticregression__C"] == search.best_estimator_.pipeline_[-1].C
    # Ten fits would be 10 x (n + 3 n) x 2 / 3.
    assert sum(passes()) < 2 * 4 * len(frame)


def test_views_are_of_training_cells_alone_and_so_are_their_donors(frame, labels):
    train = np.arange(len(frame)) % 3 > 0
    model = StainAugmentedClassifier(make_pipeline(Images(), Recorder()), 4, random_state=0)
    views = model.fit(frame[train], labels[train]).pipeline_[-1].X_["path"].iloc[train.sum() :]
    used = {view.image for view in views} | {view.donor for view in views} - {None}
    assert used == set(frame["path"][train])


def test_cross_validation_answers_each_cell_and_no_view(frame, labels):
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    found = cross_val_predict(augmented(), frame, labels, cv=folds)
    assert found.shape == labels.shape
    assert (found == labels).mean() > 0.6


def test_the_evaluation_takes_it_as_any_pipeline(frame, labels):
    found = leave_one_domain_out_predictions(augmented(), frame, labels, domain=frame["domain"], random_state=0)
    assert len(found) == len(frame)
    views = 2 * len(frame)
    assert len(frame) + views <= sum(passes()) <= len(frame) + 2 * views


def test_weights_and_groups_are_repeated(frame, labels):
    n = len(frame)
    weights, groups = np.arange(n), frame["domain"].tolist()
    seen = augmented(Recorder()).fit(frame, labels, sample_weight=weights, recorder__groups=groups).pipeline_[-1]
    assert seen.sample_weight_.tolist() == [*range(n)] * 3
    assert seen.groups_.tolist() == groups * 3


def test_with_metadata_routing_the_steps_get_what_they_ask_for(frame, labels):
    with sklearn.config_context(enable_metadata_routing=True):
        last = Recorder().set_fit_request(sample_weight=True, groups=True)
        weights = np.arange(len(frame))
        seen = augmented(last).fit(frame, labels, sample_weight=weights, groups=labels).pipeline_[-1]
        assert seen.sample_weight_.tolist() == weights.tolist() * 3
        assert seen.groups_.tolist() == labels.tolist() * 3
        cross_val_score(
            augmented(LogisticRegression(max_iter=2000).set_fit_request(sample_weight=True)),
            frame, labels, cv=2, params={"sample_weight": weights + 1}, error_score="raise",
        )  # fmt: skip


def test_a_transductive_step_gets_each_view_with_the_laboratory_of_its_cell(frame, labels):
    aligned = CrossDomainAutoencoder(4, epochs=1, random_state=0)
    model = StainAugmentedClassifier(
        make_pipeline(SAMLoRAEmbedder("vit_tiny", image_size=SIZE), aligned, LogisticRegression(max_iter=2000)),
        1,
        random_state=0,
    )
    fitted = model.fit(frame, labels)
    counts = {part["domain"]: part["count"] for part in fitted.pipeline_[1].scaler_.to_plain()}
    assert counts == {name: 2 * count for name, count in frame["domain"].value_counts().items()}
    assert fitted.predict(frame).shape == (len(frame),)


@pytest.mark.parametrize(
    "last",
    [
        GridSearchCV(LogisticRegression(max_iter=2000), {"C": [0.1, 1]}, cv=2),
        make_pipeline(StandardScaler(), CalibratedClassifierCV(LogisticRegression(max_iter=2000), cv=2)),
    ],
    ids=["search", "calibration"],
)
def test_folds_inside_the_pipeline_would_divide_a_cell_from_its_views_and_warn(last, frame, labels):
    with pytest.warns(UserWarning, match=r"splits its training cells into folds.*around StainAugmentedClassifier"):
        augmented(last).fit(frame, labels)


def test_a_search_by_laboratory_inside_the_pipeline_keeps_views_with_their_cell(frame, labels):
    search = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": [0.1, 1]}, cv=LeaveOneGroupOut(), error_score="raise"
    )
    fitted = augmented(search).fit(frame, labels, gridsearchcv__groups=frame["domain"])
    assert fitted.pipeline_[-1].n_splits_ == 2


def test_methods_are_those_of_the_pipeline(frame, labels):
    assert not hasattr(augmented(SVC()), "predict_proba")
    assert not hasattr(augmented(Recorder()), "decision_function")
    assert augmented(SVC()).fit(frame, labels).decision_function(frame).shape == (len(frame),)


def test_a_damaged_image_is_named_by_its_row(frame, labels, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no image")
    paths = [*frame["path"][:5], tmp_path / "damaged.png"]
    with pytest.raises(ImageReadError, match=r"Row 5: '.*damaged.png'"):
        augmented().fit(paths, labels[:6])
    with pytest.raises(ImageReadError, match=r"Row 5: '.*missing.png'"):
        augmented().fit([*paths[:5], tmp_path / "missing.png"], labels[:6])


@pytest.mark.bad_argument
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_views": 0}, "The 'n_views' parameter of StainAugmentedClassifier"),
        ({"n_views": "four"}, "The 'n_views' parameter of StainAugmentedClassifier"),
        ({"random_state": "seed"}, "The 'random_state' parameter of StainAugmentedClassifier"),
        ({"pipeline": None}, "The 'pipeline' parameter of StainAugmentedClassifier"),
        ({"pipeline": LogisticRegression()}, r"Got pipeline=LogisticRegression\(\) but expected a Pipeline"),
        (
            {"pipeline": make_pipeline(LogisticRegression(max_iter=2000))},
            "expected a Pipeline that begins with a transformer of images",
        ),
    ],
)
def test_bad_parameters_are_named(params, message, frame, labels):
    with pytest.raises((ValueError, TypeError), match=message):
        augmented().set_params(**params).fit(frame, labels)


@pytest.mark.bad_argument
def test_bad_data_is_named(frame, labels):
    with pytest.raises(ValueError, match=f"Got {len(frame)} cells and 3 labels"):
        augmented().fit(frame, labels[:3])
    with pytest.raises(ValueError, match="Row 0: y is missing"):
        augmented().fit(frame, [None, *labels[1:]])
    with pytest.raises(TypeError, match="y"):
        augmented().fit(frame, None)
    with pytest.raises(ValueError, match=r"Got sample_weight of shape \(3,\) but expected"):
        augmented().fit(frame, labels, sample_weight=[1, 2, 3])
    with pytest.raises(ValueError, match="Got X as an array of shape"):
        augmented().fit(np.eye(len(labels)), labels)
    with pytest.raises(ValueError, match="the masks of cells do not fit their rotated views"):
        augmented().fit(frame, labels, countingembedder__masks="auto")


def test_a_fitted_classifier_is_saved_without_unpickling_and_read_again(frame, labels, tmp_path):
    embedder = SAMLoRAEmbedder("vit_tiny", image_size=SIZE)
    fitted = StainAugmentedClassifier(make_pipeline(embedder, LogisticRegression(max_iter=2000)), 1, random_state=0)
    fitted.fit(frame, labels)
    card = (save_pretrained(fitted, tmp_path / "model") / "README.md").read_text()
    assert "SAMLoRAEmbedder -> LogisticRegression" in card
    np.testing.assert_array_equal(from_pretrained(tmp_path / "model").predict_proba(frame), fitted.predict_proba(frame))
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.predict_proba(frame), fitted.predict_proba(frame))


# scikit-learn's contract; each test stands for the check of scikit-learn's that it is named after.


def test_check_no_attributes_set_in_init():
    model = augmented()
    assert set(vars(model)) == set(model.get_params(deep=False)) == {"pipeline", "n_views", "random_state"}


def test_check_estimator_cloneable_and_set_params(frame, labels):
    model = augmented().set_params(pipeline__logisticregression__C=0.5, n_views=1)
    fitted = clone(model).fit(frame, labels)
    fresh = clone(fitted)
    assert fresh.pipeline[-1].C == 0.5
    assert not hasattr(fresh, "pipeline_")
    assert not hasattr(fitted.pipeline[-1], "coef_")  # the pipeline that was passed stays unfitted


def test_check_estimators_unfitted(frame):
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(augmented(), method)(frame)


def test_check_dict_unchanged_and_dont_overwrite_attributes(frame, labels):
    model = augmented()
    before = dict(vars(model))
    assert model.fit(frame, labels) is model
    assert {name: vars(model)[name] for name in before} == before
    assert set(vars(model)) - set(before) == {"pipeline_", "classes_"}
    fitted = dict(vars(model))
    model.predict(frame)
    assert vars(model) == fitted


def test_check_estimator_tags_and_repr():
    tags = get_tags(augmented())
    assert is_classifier(augmented())
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.target_tags.required
    assert "n_views=2" in repr(augmented())
    assert "StainAugmentedClassifier" in estimator_html_repr(augmented())
