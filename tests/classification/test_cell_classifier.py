import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import check_is_fitted
from xgboost import XGBClassifier

from sam_bloodcell import (
    CellClassifier,
    CrossDomainAutoencoder,
    SAMLoRAEmbedder,
    ViTEmbedder,
    from_pretrained,
    save_pretrained,
)
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import leave_one_domain_out_predictions

CLASSES = ["eosinophil", "lymphocyte", "neutrophil"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    made = make_blood_cells(8, classes=CLASSES, domains=["lab_a", "lab_b", "lab_c"], random_state=0)
    return load_cells(save_cells(made, tmp_path_factory.mktemp("cells")))


@pytest.fixture(scope="module")
def frame(cells):
    return cells.frame.drop(columns="mask")


@pytest.fixture(scope="module")
def known(frame):
    """Whether a cell is of the laboratories that train."""
    return (frame["domain"] != "lab_c").to_numpy()


@pytest.fixture(scope="module")
def fitted(frame, known):
    return CellClassifier(random_state=0, verbose=0).fit(frame[known], frame["label"][known])


def test_a_new_laboratory_is_classified(fitted, frame, known):
    assert fitted.score(frame[~known], frame["label"][~known]) > 0.9
    assert fitted.classes_.tolist() == CLASSES


@pytest.mark.slow
def test_it_is_the_pipeline_of_its_parts(fitted, frame, known):
    assert list(fitted.pipeline_.named_steps) == ["embedder", "autoencoder", "classifier"]
    again = clone(fitted.pipeline_).fit(frame[known], frame["label"][known])
    for pipeline in (fitted.pipeline_, again):
        np.testing.assert_array_equal(pipeline.predict(frame), fitted.predict(frame))
        np.testing.assert_allclose(pipeline.predict_proba(frame), fitted.predict_proba(frame), rtol=1e-6)


@pytest.mark.slow
def test_the_table_says_what_there_is_to_judge_an_answer(fitted, frame, known):
    table = fitted.predict_table(frame)
    assert table.columns[:3].tolist() == ["path", "domain", "label"]
    assert table["predicted"].tolist() == fitted.predict(frame).tolist()
    probabilities = table[[f"probability_{name}" for name in CLASSES]]
    np.testing.assert_array_equal(probabilities, fitted.predict_proba(frame))
    assert table["confidence"].tolist() == probabilities.max(axis=1).tolist()
    np.testing.assert_array_equal(table["unknown"], table["novelty"] > fitted.novelty_.threshold_)
    assert {"quality_area", "quality_confidence", "quality_fallback"} <= set(table)
    assert table["copy_of"].tolist() == np.where(known, frame["path"], "").tolist()


@pytest.mark.filterwarnings("ignore:No plausible cell", "ignore:20 of 20 images are of one colour")
def test_a_cell_of_no_known_type_is_unknown(fitted, frame):
    flat = pd.DataFrame({"path": [np.full((80, 80, 3), 250, np.uint8)] * 20, "domain": "lab_a"})
    table = fitted.predict_table(flat)
    assert table["unknown"].all()
    assert table["quality_flat"].all()
    assert not fitted.predict_table(frame[frame["domain"] == "lab_a"])["unknown"].all()


def test_the_table_follows_the_index_and_keeps_other_columns(fitted, frame):
    some = frame.iloc[[5, 2]].assign(slide=["x", "y"])
    table = fitted.predict_table(some)
    assert table.index.tolist() == [5, 2]
    assert table["slide"].tolist() == ["x", "y"]
    again = fitted.predict_table(table)  # a table of answers is answered anew
    pd.testing.assert_frame_equal(again, table)


@pytest.mark.parametrize("kind", ["list", "iterator", "series", "polars"])
def test_images_come_as_to_the_embedder(fitted, frame, kind):
    few = frame.iloc[:4]
    X = {
        "list": few["path"].tolist(),
        "iterator": iter(few["path"]),
        "series": few["path"],
        "polars": pl.from_pandas(few),
    }
    if kind == "polars":
        table = fitted.predict_table(X[kind])
    else:
        with pytest.warns(UserWarning, match="The domain of 4 of 4 cells is unknown"):
            table = fitted.predict_table(X[kind])
    assert table["path"].tolist() == few["path"].tolist()


def test_images_that_are_no_files_are_named_by_their_row(cells):
    made = make_blood_cells(6, classes=CLASSES[:2], random_state=0)
    X = pd.DataFrame({"path": list(made.images), "domain": made.domain})
    table = CellClassifier(random_state=0, verbose=0).fit(X, made.labels).predict_table(X)
    assert table["copy_of"].tolist() == [f"row {row}" for row in range(len(X))]


@pytest.mark.slow
def test_a_laboratory_is_learned_once(fitted, frame, known):
    adapted = pickle.loads(pickle.dumps(fitted))
    new = frame[~known]
    assert adapted.adapt(new.drop(columns="domain"), "lab_c") is adapted
    whole = adapted.predict_proba(new)
    np.testing.assert_allclose(adapted.predict_proba(new.iloc[:1]), whole[:1], atol=1e-5)
    np.testing.assert_allclose(whole, fitted.predict_proba(new), atol=1e-5)
    with pytest.raises(ValueError, match="whose stain the classifier knows already, and no labels"):
        adapted.adapt(new, "lab_c")


@pytest.mark.slow
def test_without_an_autoencoder_there_is_nothing_to_adapt(frame, known):
    plain = CellClassifier(autoencoder=None, verbose=0).fit(frame[known], frame["label"][known])
    assert list(plain.pipeline_.named_steps) == ["embedder", "classifier"]
    with pytest.raises(ValueError, match="Got autoencoder=None, which cannot learn a laboratory"):
        plain.adapt(frame[~known], "lab_c")


@pytest.mark.slow
@pytest.mark.parametrize("classifier", [SVC(), XGBClassifier(n_estimators=5, n_jobs=1)], ids=["svc", "xgboost"])
def test_any_classifier_answers_with_names_and_comes_back(frame, known, classifier, tmp_path):
    model = CellClassifier(classifier=classifier, random_state=0, verbose=0).fit(frame[known], frame["label"][known])
    assert set(model.predict(frame)) <= set(CLASSES)
    assert model.pipeline_.predict(frame)[0] in CLASSES
    model.save_pretrained(tmp_path)
    trusted = ["xgboost.core.Booster", "xgboost.sklearn.XGBClassifier"] if "XGB" in repr(classifier) else []
    back = CellClassifier.from_pretrained(tmp_path, trusted=trusted)
    np.testing.assert_array_equal(back.predict_proba(frame), model.predict_proba(frame))
    if trusted:  # a manipulated file can crash XGBoost's reader
        with pytest.raises(ValueError, match=r"types that are not trusted: xgboost\.core\.Booster, xgboost\.sklearn"):
            CellClassifier.from_pretrained(tmp_path)


@pytest.mark.slow
def test_integer_labels_stay_integers(frame, known):
    codes = np.unique(frame["label"], return_inverse=True)[1] + 3
    model = CellClassifier(random_state=0, verbose=0).fit(frame[known], codes[known])
    assert model.predict(frame).dtype.kind == "i"
    assert {"probability_3", "probability_5"} <= set(model.predict_table(frame))


@pytest.mark.slow
def test_a_saved_model_answers_alike_and_keeps_nothing_of_the_machine(frame, known, fitted, tmp_path):
    model = CellClassifier(random_state=0, verbose=0, cache_dir=tmp_path / "cache", batch_size=3, device="cpu")
    model.fit(frame[known], frame["label"][known])
    assert model.save_pretrained(tmp_path / "model", data="synthetic cells") == tmp_path / "model"
    for back in (CellClassifier.from_pretrained(tmp_path / "model"), from_pretrained(tmp_path / "model")):
        pd.testing.assert_frame_equal(back.predict_table(frame), model.predict_table(frame))
        for parameters in (back.get_params(), back.pipeline_[0].get_params()):
            assert parameters["cache_dir"] is None
            assert parameters["batch_size"] == "auto"
    assert model.cache_dir == tmp_path / "cache"
    assert model.pipeline_[0].cache_dir == tmp_path / "cache"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "CellClassifier.from_pretrained" in card
    assert "SAMLoRAEmbedder -> CrossDomainAutoencoder" in card
    assert "synthetic cells" in card


def test_another_kind_of_estimator_is_refused(fitted, tmp_path):
    save_pretrained(fitted.pipeline_, tmp_path / "pipeline")
    with pytest.raises(ValueError, match="contains a Pipeline, but expected a CellClassifier"):
        CellClassifier.from_pretrained(tmp_path / "pipeline")


@pytest.mark.slow
def test_scores_across_laboratories_fit_its_pipeline(frame):
    model = CellClassifier(classifier=LogisticRegression(max_iter=2000), random_state=0, verbose=0)
    for mode in ("inductive", "transductive"):
        by_model, by_pipeline = (
            leave_one_domain_out_predictions({"it": estimator}, frame, frame["label"], mode=mode, random_state=0)
            for estimator in (model, model.make_pipeline())
        )
        pd.testing.assert_frame_equal(by_model, by_pipeline)


@pytest.mark.slow
def test_it_is_searched_and_scored_like_any_classifier(frame):
    model = CellClassifier(classifier=LogisticRegression(max_iter=2000), random_state=0, verbose=0)
    assert cross_val_score(model, frame, frame["label"], cv=2, scoring="balanced_accuracy").min() > 0.9
    assert model.set_params(classifier__C=0.5).classifier.C == 0.5


@pytest.mark.slow
def test_a_class_may_be_called_unknown(frame, known):
    labels = frame["label"].replace("neutrophil", "unknown")
    model = CellClassifier(random_state=0, verbose=0).fit(frame[known], labels[known])
    assert "unknown" in set(model.predict(frame))


@pytest.mark.slow
def test_tables_of_pandas_as_output_of_all_transformers_change_nothing(fitted, frame):
    with config_context(transform_output="pandas"):
        table = fitted.predict_table(frame)
    pd.testing.assert_frame_equal(table, fitted.predict_table(frame))


@pytest.mark.slow
def test_a_model_that_was_made_on_a_gpu_is_read_without_one(frame, known, tmp_path):
    autoencoder = CrossDomainAutoencoder(architecture="conv", epochs=1, random_state=0)
    model = CellClassifier(autoencoder=autoencoder, random_state=0, verbose=0).fit(frame[known], frame["label"][known])
    for part in (model.autoencoder, model.pipeline_[1]):
        part.device = "cuda"  # as it would be there
    model.save_pretrained(tmp_path)
    back = CellClassifier.from_pretrained(tmp_path)
    assert back.autoencoder.device == back.pipeline_[1].device == "auto"
    assert back.set_params(device="cpu").predict(frame).shape == (len(frame),)
    assert back.pipeline_[1].device == "cpu"
    assert model.pipeline_[1].device == "cuda"


def test_weights_may_be_named_by_a_path(frame, known, tmp_path):
    model = CellClassifier(Path("vit_tiny"), random_state=0, verbose=0).fit(frame[known], frame["label"][known])
    model.save_pretrained(tmp_path)
    assert CellClassifier.from_pretrained(tmp_path).backbone == "vit_tiny"
    assert model.backbone == Path("vit_tiny")


def test_a_calibration_has_as_many_folds_as_the_rarest_class_has_cells(frame, known):
    few = frame[known].groupby("label").head(3)
    with pytest.warns(UserWarning, match=r"Classes of fewer than 5 cells: 'eosinophil' \(3\), 'lymphocyte' \(3\)"):
        model = CellClassifier(classifier=SVC(), autoencoder=None, verbose=0).fit(few, few["label"])
    assert model.pipeline_[-1].cv == 3
    with (
        pytest.warns(UserWarning, match="Classes of fewer than 5 cells"),
        pytest.raises(ValueError, match="Got one cell of class 'eosinophil' and a classifier without predict_proba"),
    ):
        CellClassifier(classifier=SVC(), verbose=0).fit(few.iloc[[0, 1, 2]], ["lymphocyte", "lymphocyte", "eosinophil"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "classifier",
    [
        StackingClassifier([("tree", DecisionTreeClassifier())], cv=2),
        GridSearchCV(XGBClassifier(n_estimators=2, n_jobs=1), {"max_depth": [2]}, cv=2),
        CalibratedClassifierCV(XGBClassifier(n_estimators=2, n_jobs=1), cv=2),
    ],
    ids=["stacking", "search", "calibrated"],
)
def test_classifiers_that_hold_others_are_taken(frame, known, classifier):
    model = CellClassifier(classifier=classifier, autoencoder=None, random_state=0, verbose=0)
    model.fit(frame[known], frame["label"][known])
    assert set(model.predict(frame)) <= set(CLASSES)
    assert model.predict_proba(frame).shape == (len(frame), 3)


def test_a_classifier_that_gives_no_probabilities_is_refused_before_any_image_is_read():
    votes = VotingClassifier([("tree", DecisionTreeClassifier())])
    said = (
        r"Got classifier=Voting.* but expected one with predict_proba or decision_function. Fix: LogisticRegression\(\)"
    )
    with pytest.raises(ValueError, match=said):
        CellClassifier(classifier=votes, verbose=0).fit(["no.png", "other.png"], ["a", "b"])


def test_a_search_may_choose_a_classifier_with_probabilities(frame, known):
    votes = VotingClassifier([("regression", LogisticRegression(max_iter=500))])
    search = GridSearchCV(votes, {"voting": ["soft"]}, cv=2)
    fitted = CellClassifier(classifier=search, random_state=0, verbose=0).fit(frame[known], frame["label"][known])
    assert fitted.predict_proba(frame).shape == (len(frame), len(fitted.classes_))


@pytest.mark.parametrize("classifier", [LinearRegression(), SVC], ids=["regressor", "class"])
def test_what_is_no_classifier_is_refused_before_any_image_is_read(classifier):
    with pytest.raises(ValueError, match=r"Got classifier=.* but expected a scikit-learn classifier"):
        CellClassifier(classifier=classifier, verbose=0).fit(["no.png", "other.png"], ["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": 3}, "The 'backbone' parameter of CellClassifier must be"),
        ({"classifier": "LR"}, "The 'classifier' parameter of CellClassifier must be"),
        ({"coverage": 1.0}, "The 'coverage' parameter of CellClassifier must be"),
        ({"autoencoder": "none"}, "The 'autoencoder' parameter of CellClassifier must be"),
    ],
)
def test_bad_parameters_are_named_before_any_image_is_read(change, message):
    with pytest.raises(ValueError, match=message):
        CellClassifier(verbose=0, **change).fit(["no.png", "other.png"], ["a", "b"])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"], "Got 2 cells and 1 labels"),
        (["a", None], "Row 1: y is missing"),
        (["a", "a"], "Got one class, 'a', but expected two or more"),
        ([0.1, 0.7], "Unknown label type"),
    ],
)
def test_bad_labels_are_named_before_any_image_is_read(y, message):
    with pytest.raises(ValueError, match=message):
        CellClassifier(verbose=0).fit(["no.png", "other.png"], y)


def test_it_keeps_the_contract_of_estimators(fitted):
    fresh = CellClassifier()
    assert set(vars(fresh)) == set(fresh.get_params())
    assert clone(fitted).get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(fitted))
    for method in (fresh.predict, fresh.predict_proba, fresh.predict_table):
        with pytest.raises(NotFittedError):
            method(["no.png"])


@pytest.mark.slow
def test_a_pickle_holds_no_base_weights_and_answers_alike(fitted, frame):
    pickled = pickle.dumps(fitted)
    assert len(pickled) < 20e6
    np.testing.assert_array_equal(pickle.loads(pickled).predict_proba(frame), fitted.predict_proba(frame))


@pytest.mark.slow
def test_another_embedder_takes_the_place_of_the_backbone(frame, known, vit_file, tmp_path):
    embedder = ViTEmbedder(vit_file, pooling="both", cache_dir=tmp_path / "elsewhere", keep=("crops",))
    classifier = CellClassifier(embedder=embedder, cache_dir=tmp_path / "cache", random_state=0, verbose=0)
    classifier.fit(frame[known], frame["label"][known])
    fitted = classifier.pipeline_[0]
    assert (type(fitted), fitted.pooling, fitted.keep) == (ViTEmbedder, "both", ("crops",))
    assert fitted.cache_dir == tmp_path / "cache"
    assert not (tmp_path / "elsewhere").exists()
    answers = classifier.predict_proba(frame)
    classifier.save_pretrained(tmp_path / "model")
    loaded = CellClassifier.from_pretrained(tmp_path / "model")
    assert loaded.embedder.cache_dir is loaded.pipeline_[0].cache_dir is None
    np.testing.assert_allclose(loaded.predict_proba(frame), answers, atol=0.02)
    assert "ViTEmbedder -> CrossDomainAutoencoder" in (tmp_path / "model" / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_views_in_other_stains_go_through_another_embedder_too(frame, known, vit_file):
    classifier = CellClassifier(embedder=ViTEmbedder(vit_file), n_stain_views=1, random_state=0, verbose=0)
    classifier.fit(frame[known][::2], frame["label"][known][::2])
    assert classifier.predict_proba(frame[:2]).shape == (2, 3)


@pytest.mark.parametrize(
    ("params", "said"),
    [({"backbone": "vit_b"}, "backbone='vit_b'"), ({"adapter": "my-adapter"}, "adapter='my-adapter'")],
)
def test_an_embedder_and_a_backbone_are_one_too_many(params, said):
    expected = rf"Got an embedder and {said} but expected only one of them\. Fix: set this parameter"
    with pytest.raises(ValueError, match=expected):
        CellClassifier(embedder=SAMLoRAEmbedder(), verbose=0, **params).fit(["a.png", "b.png"], ["x", "y"])
