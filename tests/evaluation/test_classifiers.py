import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sam_bloodcell.evaluation import cross_domain_scores, default_classifiers
from sam_bloodcell.evaluation.classifiers import check_early_stopping


def test_default_classifiers_all_run_on_the_fewest_cells():
    y = np.tile(np.arange(5), 10)
    X = np.random.default_rng(0).normal(size=(50, 5)) + 6 * np.eye(5)[y]
    classifiers = default_classifiers(random_state=0)
    assert set(classifiers) == {"RF", "SVM poly", "SVM rbf", "SVM linear", "MLP", "LR", "LR balanced", "XGBoost"}
    del classifiers["RF"]  # slow, and not in question
    scores = cross_domain_scores(classifiers, X, y, domain=np.repeat([0, 1], 25), random_state=0)
    assert scores["accuracy"].notna().all()


@pytest.mark.parametrize(
    "counts", [(1, 1), (1, 9), (2, 2), (3, 3), (4, 4), (2, 4), (1, 1, 1), (2, 2, 3), (1, 9, 9)], ids=str
)
@pytest.mark.parametrize("kind", [MLPClassifier, SGDClassifier, HistGradientBoostingClassifier])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:Only one sample available")
def test_too_few_cells_to_stop_early_are_told_as_a_fit_would_tell(kind, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    network = make_pipeline(StandardScaler(), kind(early_stopping=True, validation_fraction=0.25, max_iter=3))
    try:
        network.fit(np.random.default_rng(0).normal(size=(len(labels), 3)), labels)
    except ValueError:
        with pytest.raises(ValueError, match="'net' needs more to stop early"):
            check_early_stopping("net", network, labels, "a fold")
    else:
        check_early_stopping("net", network, labels, "a fold")
