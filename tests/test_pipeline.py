"""The public promise: two transformers in front of any classifier."""

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells

# Images alone bring no domain; pipelines that know it are tested in tests/test_domain_travels.py.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The domain of .* cells is unknown", "ignore:fit_transform used domain only in fit"
)

FOLDS = StratifiedKFold(2, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    drawn = make_blood_cells(4, classes=("eosinophil", "lymphocyte"), random_state=0)
    return load_cells(save_cells(drawn, tmp_path_factory.mktemp("cells")))


def line():
    return make_pipeline(
        SAMLoRAEmbedder("vit_tiny"), CrossDomainAutoencoder(8, epochs=1, batch_size=8, random_state=0), SVC()
    )


def test_fit_predict_on_paths(cells):
    pipe = line().fit(cells.paths, cells.target, crossdomainautoencoder__domain=cells.domain)
    assert pipe.predict(cells.paths).shape == cells.target.shape
    assert pipe[1].domains_.tolist() == ["lab_a", "lab_b"]


def test_domain_by_parameter_in_grid_search(cells):
    search = GridSearchCV(line(), {"svc__C": [1, 10]}, cv=FOLDS, error_score="raise")
    search.fit(cells.paths, cells.target, crossdomainautoencoder__domain=cells.domain)
    assert search.best_estimator_[1].domains_.tolist() == ["lab_a", "lab_b"]


def test_domain_by_metadata_routing_in_grid_search(cells):
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(line(), {"svc__C": [1, 10]}, cv=FOLDS, error_score="raise")
        search.fit(cells.paths, cells.target, domain=cells.domain)
    assert search.best_estimator_[1].domains_.tolist() == ["lab_a", "lab_b"]


@pytest.mark.filterwarnings("ignore:Got no domain")
def test_cross_val_score(cells):
    assert np.isfinite(cross_val_score(line(), cells.paths, cells.target, cv=2, error_score="raise")).all()


def test_without_the_autoencoder(cells):
    pipe = make_pipeline(SAMLoRAEmbedder("vit_tiny"), SVC(C=10))
    assert cross_val_score(pipe, cells.paths, cells.target, cv=4, error_score="raise").mean() > 0.8


def test_dump_and_load_after_clone(cells, tmp_path):
    pipe = clone(line()).fit(cells.paths, cells.target, crossdomainautoencoder__domain=cells.domain)
    joblib.dump(pipe, tmp_path / "pipe.joblib")
    back = joblib.load(tmp_path / "pipe.joblib")
    np.testing.assert_array_equal(back.decision_function(cells.paths), pipe.decision_function(cells.paths))


def test_unit_tests_leave_this_file_out(request):
    assert request.node.get_closest_marker("integration")
