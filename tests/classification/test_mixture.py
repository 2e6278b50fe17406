import pickle
import warnings

import pytest
from sklearn.linear_model import LogisticRegression

from sam_bloodcell import CellClassifier, NeighborSmoothedClassifier
from sam_bloodcell.classification.mixture import warn_of_unusual_mixture
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells

CLASSES = ["eosinophil", "lymphocyte", "neutrophil"]
SAID = r"'lab_c' is new, and only \d+% of its 24 cells get the same answer with it and without it.* Fix: if so, pass"


def frame_of(folder, n, classes, domains):
    cells = make_blood_cells(n, classes=classes, domains=domains, random_state=0)
    return load_cells(save_cells(cells, folder)).frame


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return frame_of(tmp_path_factory.mktemp("known"), 14, CLASSES, ["lab_a", "lab_b"])


@pytest.fixture(
    scope="module", params=[None, NeighborSmoothedClassifier(LogisticRegression())], ids=["plain", "smoothed"]
)
def fitted(request, known):
    return CellClassifier(classifier=request.param, random_state=0, verbose=0).fit(known, known["label"])


@pytest.fixture(scope="module")
def of_one_class(tmp_path_factory):
    return frame_of(tmp_path_factory.mktemp("one"), 24, ["lymphocyte"], ["lab_c"])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_table", "cells_to_label"])
def test_cells_of_one_class_get_one_warning_at_the_line_of_the_call(fitted, of_one_class, method):
    with pytest.warns(UserWarning, match=SAID) as said:
        getattr(fitted, method)(of_one_class, *[5] * (method == "cells_to_label"))
    assert [each.filename for each in said] == [__file__]


def test_a_laboratory_learned_from_one_class_gets_a_warning_once(fitted, of_one_class):
    classifier = pickle.loads(pickle.dumps(fitted))
    with pytest.warns(UserWarning, match=SAID + ".* or predict these cells without a domain"):
        classifier.adapt(of_one_class, "lab_c")
    classifier.predict(of_one_class)


def test_the_advice_of_the_warning_helps(fitted, of_one_class):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named, nameless = fitted.predict(of_one_class), fitted.predict(of_one_class.drop(columns="domain"))
    assert (nameless == "lymphocyte").mean() > (named == "lymphocyte").mean() + 0.3


def test_the_usual_mixture_and_known_laboratories_get_no_warning(fitted, known, tmp_path):
    fitted.predict(frame_of(tmp_path, 14, CLASSES, ["lab_c"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got 14 cells .* too few to be smoothed")
        fitted.predict(known[(known["domain"] == "lab_a") & (known["label"] == "lymphocyte")])


def test_without_an_alignment_there_is_nothing_to_compare(known, of_one_class):
    classifier = CellClassifier(autoencoder=None, random_state=0, verbose=0).fit(known, known["label"])
    embeddings = classifier.pipeline_[0].transform(of_one_class)
    warn_of_unusual_mixture(classifier.pipeline_, embeddings, embeddings.domain)
