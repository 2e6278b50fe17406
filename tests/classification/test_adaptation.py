import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from sam_bloodcell import CellClassifier, NeighborSmoothedClassifier
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells

CLASSES = ["eosinophil", "lymphocyte", "neutrophil"]


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    made = make_blood_cells(14, classes=CLASSES, domains=["lab_a", "lab_b", "lab_c"], random_state=0)
    return load_cells(save_cells(made, tmp_path_factory.mktemp("cells"))).frame.drop(columns="mask")


@pytest.fixture(scope="module")
def known(frame):
    return frame[frame["domain"] != "lab_c"]


@pytest.fixture(scope="module")
def new(frame):
    return frame[frame["domain"] == "lab_c"].reset_index(drop=True)


@pytest.fixture(scope="module")
def trained(known):
    return CellClassifier(random_state=0, verbose=0).fit(known, known["label"])


@pytest.fixture
def classifier(trained):
    return pickle.loads(pickle.dumps(trained))


def renamed(labels):
    """Labels as a laboratory would give them that means other cells by two of the names."""
    return labels.map({"eosinophil": "neutrophil", "neutrophil": "eosinophil", "lymphocyte": "lymphocyte"})


def test_labels_change_the_answers_of_the_other_cells(classifier, new):
    y = renamed(new["label"]).to_numpy(dtype=object)
    others = np.arange(len(new)) >= 30
    given = np.where(others, None, y)
    before = (classifier.predict(new)[others] == y[others]).mean()
    assert classifier.adapt(new.drop(columns="domain"), "lab_c", given) is classifier
    assert (classifier.predict(new)[others] == y[others]).mean() > before + 0.3
    assert 0.25 <= classifier.temperatures_["lab_c"] <= 4


def test_labelled_cells_become_training_cells(classifier, known, new):
    given = new["label"].where(new.index < 6)
    classifier.adapt(new, "lab_c", given)
    assert classifier.predict_table(new)["copy_of"].tolist() == new["path"].where(new.index < 6, "").tolist()
    assert classifier.training_labels_.tolist() == [*known["label"], *new["label"][:6]]
    assert classifier.training_domains_.tolist() == [*known["domain"], *["lab_c"] * 6]
    assert len(classifier.training_features_) == len(classifier.training_embeddings_) == len(known) + 6
    assert classifier.training_embeddings_.dtype == np.float16
    assert classifier.temperatures_ == {"lab_c": 1.0}  # too few to fit one


def test_a_laboratory_that_was_learned_gets_labels_later_and_new_ones_replace_them(classifier, known, new):
    classifier.adapt(new, "lab_c")
    for n in (3, 9):
        classifier.adapt(new, "lab_c", new["label"].where(new.index < n))
        assert len(classifier.training_labels_) == len(known) + n
    at_once = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(at_once.predict_proba(new), classifier.predict_proba(new))


def test_labels_of_some_are_the_same_in_one_step_or_two(trained, new):
    one, two = (pickle.loads(pickle.dumps(trained)) for _ in range(2))
    given = new["label"].where(new.index < 9)
    one.adapt(new, "lab_c", given)
    two.adapt(new, "lab_c").adapt(new.iloc[:9], "lab_c", given[:9].tolist())
    np.testing.assert_allclose(one.predict_proba(new), two.predict_proba(new), atol=1e-4)


@pytest.mark.slow
def test_the_temperature_is_that_of_its_laboratory_alone(classifier, known, new):
    classifier.adapt(new, "lab_c", new["label"])
    cold = classifier.predict_proba(new), classifier.predict_proba(known)
    classifier.temperatures_["lab_c"] = 3.0
    assert (classifier.predict_proba(new).max(1) < cold[0].max(1)).all()
    np.testing.assert_array_equal(classifier.predict_proba(known), cold[1])
    np.testing.assert_array_equal(classifier.predict_table(new)["confidence"], classifier.predict_proba(new).max(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Got .* cells:UserWarning")
def test_a_smoothing_classifier_has_the_temperature_of_the_one_it_wraps(trained, known, new):
    plain = trained.pipeline_[-1]
    smoothing = CellClassifier(classifier=NeighborSmoothedClassifier(plain), random_state=0, verbose=0)
    smoothing.fit(known, known["label"])
    given = renamed(new["label"]).where(new.index < 36)
    wrapped = pickle.loads(pickle.dumps(trained)).adapt(new, "lab_c", given)
    smoothing.adapt(new, "lab_c", given)
    assert wrapped.temperatures_["lab_c"] != 1
    assert smoothing.temperatures_ == pytest.approx(wrapped.temperatures_)


def test_a_saved_model_learns_labels_as_the_first_one_does(classifier, new, tmp_path):
    loaded = CellClassifier.from_pretrained(classifier.save_pretrained(tmp_path)).set_params(verbose=0)
    given = new["label"].where(new.index < 32)
    for model in (classifier, loaded):
        model.adapt(new, "lab_c", given)
    np.testing.assert_array_equal(loaded.predict_proba(new), classifier.predict_proba(new))
    again = CellClassifier.from_pretrained(loaded.save_pretrained(tmp_path)).set_params(verbose=0)
    np.testing.assert_array_equal(again.predict_proba(new), classifier.predict_proba(new))
    assert again.temperatures_ == classifier.temperatures_


@pytest.mark.slow
def test_without_an_autoencoder_labels_are_learned_all_the_same(known, new):
    plain = CellClassifier(classifier=KNN, autoencoder=None, verbose=0).fit(known, known["label"])
    y = renamed(new["label"])
    plain.adapt(new, "lab_c", y)
    assert (plain.predict(new) == y).mean() > 0.9


KNN = KNeighborsClassifier(1)
KNN_OF_INTS = {"eosinophil": 3, "lymphocyte": 5, "neutrophil": 7}


@pytest.mark.slow
def test_labels_that_are_numbers_have_gaps_too(known, new):
    numbers = known["label"].map(KNN_OF_INTS)
    model = CellClassifier(classifier=KNN, autoencoder=None, verbose=0).fit(known, numbers)
    given = new["label"].map(KNN_OF_INTS).where(new.index < 6)  # 3.0, 5.0, NaN
    model.adapt(new, "lab_c", given)
    assert model.training_labels_.dtype == numbers.dtype
    assert model.predict(new[:6]).tolist() == given[:6].tolist()


def test_cells_to_label_are_rows_of_the_table(classifier, new):
    rows = classifier.cells_to_label(new, 5)
    assert len(set(rows.tolist())) == 5
    assert set(rows.tolist()) <= set(range(len(new)))
    with pytest.warns(UserWarning, match="is unknown"):
        assert classifier.cells_to_label(iter(new["path"].tolist()), 1).shape == (1,)
    with pytest.raises(ValueError, match="Got n=43 for 42 cells but expected a number from 1 to 42"):
        classifier.cells_to_label(new, 43)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": ["lymphocyte"]}, r"Got 42 cells and labels of shape \(1,\). Fix: pass one label, or None, per cell."),
        ({"y": [None] * 42}, "Got y without any label but expected some"),
        ({"y": [None, "blast", *[""] * 40]}, r"Row 1: got y='blast' but the fit has 'eosinophil', 'lymphocyte', 'neu"),
        ({"y": "lymphocyte"}, "Got y='lymphocyte' but expected one label per cell"),
        ({"domain": "lab_a"}, "Got labels of domain='lab_a', which was in the fit"),
        ({"domain": 3}, "Got name=3 but the fit has 'lab_a'. Fix: pass a name of the same type"),
    ],
)
def test_what_cannot_be_learned_is_named_and_changes_nothing(classifier, new, change, message):
    before = classifier.predict_proba(new)
    arguments = {"X": new.drop(columns="domain"), "domain": "lab_c", "y": new["label"].tolist()} | change
    with pytest.raises((ValueError, TypeError), match=message):
        classifier.adapt(**arguments)
    assert "lab_c" not in classifier.pipeline_["autoencoder"].domains_.tolist()
    np.testing.assert_array_equal(classifier.predict_proba(new), before)


@pytest.mark.parametrize(
    "labels", [lambda new: new["label"].to_numpy(), lambda new: new["label"].tolist(), lambda new: new["label"]]
)
def test_labels_in_the_place_of_the_domain_are_refused_before_any_image_is_read(classifier, new, labels):
    said = r"Got domain of type \w+ but expected a string or an int. Fix: adapt\(X, domain='name of the laboratory', y="
    with pytest.raises(TypeError, match=said):
        classifier.adapt(["no.png"] * len(new), labels(new))


def test_a_model_of_an_earlier_version_answers_but_learns_no_labels(classifier, new):
    answers = classifier.predict(new)
    for name in ("training_features_", "training_labels_", "training_domains_", "temperatures_"):
        delattr(classifier, name)
    assert classifier.predict(new).tolist() == answers.tolist()
    with pytest.raises(ValueError, match="Got a model of an earlier version"):
        classifier.adapt(new, "lab_c", new["label"])
    assert pd.Series(classifier.adapt(new, "lab_c").predict(new)).isin(CLASSES).all()
