import sys

import numpy as np

from sam_bloodcell.evaluation import cross_domain_scores, default_classifiers


def test_default_classifiers_all_run_on_the_fewest_cells():
    y = np.tile(np.arange(5), 10)
    X = np.random.default_rng(0).normal(size=(50, 5)) + 6 * np.eye(5)[y]
    classifiers = default_classifiers(random_state=0)
    assert {"RF", "SVM poly", "SVM rbf", "SVM linear", "MLP", "LR"} <= set(classifiers)
    del classifiers["RF"]  # slow, and not in question
    scores = cross_domain_scores(classifiers, X, y, domain=np.repeat([0, 1], 25), random_state=0)
    assert scores["accuracy"].notna().all()


def test_default_classifiers_without_xgboost(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    assert "XGBoost" not in default_classifiers()
