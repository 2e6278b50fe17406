import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import (
    cross_domain_mean,
    cross_domain_scores,
    default_classifiers,
    domain_shift,
    run_benchmark,
    summarise_scores,
)


class Reader(ClassifierMixin, BaseEstimator):
    """Answers with the cell's only feature, whatever it was trained on; remembers each fit."""

    fits: list = []

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.fits.append((np.asarray(X).copy(), np.asarray(y).copy()))
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0].astype(int)


@pytest.fixture
def separable():
    """Two laboratories, three classes of ten cells each, easy to tell apart."""
    rng = np.random.default_rng(0)
    y = np.tile(["lymphocyte", "monocyte", "neutrophil"], 20)
    X = rng.normal(size=(60, 4)) + 8 * np.eye(4)[np.unique(y, return_inverse=True)[1]]
    return X, y, np.repeat(["a", "b"], 30)


def test_metrics_equal_a_hand_count():
    y = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1])
    X = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1])[:, None]  # two of the second lab's zeros are missed
    scores = cross_domain_scores(Reader(), X, y, domain=["a"] * 6 + ["b"] * 6, cv=2, random_state=0)
    a_to_b = scores.query("train_domain == 'a' and test_domain == 'b'").iloc[0]
    assert a_to_b["accuracy"] == pytest.approx(4 / 6)
    assert a_to_b["balanced_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert a_to_b["macro_f1"] == pytest.approx((2 / 4 + 6 / 8) / 2)
    assert a_to_b[["n_train", "n_test", "n_left_out", "n_classes"]].tolist() == [3, 6, 0, 2]


def test_a_row_per_classifier_pair_and_fold(separable):
    X, y, domain = separable
    classifiers = {"z": LogisticRegression(), "a": make_pipeline(StandardScaler(), LogisticRegression())}
    scores = cross_domain_scores(classifiers, X, y, domain=domain, random_state=0)
    assert len(scores) == 2 * 2 * 2 * 5
    assert scores["classifier"].unique().tolist() == ["z", "a"]
    within = scores["train_domain"] == scores["test_domain"]
    assert scores.loc[within, "n_test"].eq(6).all()
    assert scores.loc[~within, "n_test"].eq(30).all()
    assert scores["accuracy"].min() > 0.9
    again = cross_domain_scores(classifiers, X, y, domain=domain, random_state=0)
    pd.testing.assert_frame_equal(scores, again)


def test_no_label_of_the_tested_domain_reaches_a_fit(separable):
    X, y, domain = separable
    runs = []
    for labels in (y, np.where(domain == "b", np.roll(y, 1), y)):
        Reader.fits.clear()
        X[:, 0] = 0
        cross_domain_scores(Reader(), X, labels, domain=domain, random_state=0)
        runs.append(Reader.fits[:5])  # the fits on laboratory a
    for (X_1, y_1), (X_2, y_2) in zip(*runs, strict=True):
        np.testing.assert_array_equal(X_1, X_2)
        np.testing.assert_array_equal(y_1, y_2)
        assert np.isin(X_1[:, 1], X[domain == "a", 1]).all()


def test_rare_class_is_left_out_with_one_warning(separable):
    X, y, domain = separable
    y[:4] = "basophil"
    y[30] = "smudge"
    message = r"'basophil' of domain 'a' \(4 cells\), 'smudge' of domain 'b' \(1 cell\)"
    with pytest.warns(UserWarning, match=message) as caught:
        scores = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert scores.query("train_domain == 'b' and test_domain == 'a'")["n_test"].eq(26).all()


def test_class_unknown_to_the_training_domain_is_counted_not_scored(separable):
    X, y, domain = separable
    y[(domain == "b") & (y == "monocyte")] = "basophil"
    scores = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    across = scores.query("train_domain == 'a' and test_domain == 'b'")
    assert across["n_left_out"].eq(10).all()
    assert across["n_test"].eq(20).all()
    assert across["n_classes"].eq(2).all()


def test_pair_without_a_common_class_scores_nan(separable):
    X, y, domain = separable
    y = np.where(domain == "b", np.char.add(y, "_atypical"), y)
    scores = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    across = scores["train_domain"] != scores["test_domain"]
    assert scores.loc[across, "accuracy"].isna().all()
    assert summarise_scores(scores)["n"].tolist() == [5, 0, 0, 5]


def test_xgboost_takes_labels_with_gaps(separable):
    import xgboost

    X, y, domain = separable
    gaps = np.unique(y, return_inverse=True)[1] * 5 + 2
    estimator = xgboost.XGBClassifier(n_estimators=20, min_child_weight=0, n_jobs=1)
    scores = cross_domain_scores(estimator, X, gaps, domain=domain, cv=2, random_state=0)
    assert scores["accuracy"].mean() > 0.7


def test_paths_are_handed_to_a_pipeline(separable):
    X, y, domain = separable
    table = {f"{i}.png": row for i, row in enumerate(X)}
    read = FunctionTransformer(lambda paths: np.stack([table[path] for path in paths]))
    options = {"domain": domain, "random_state": 0}
    from_paths = cross_domain_scores(make_pipeline(read, LogisticRegression()), list(table), y, **options)
    pd.testing.assert_frame_equal(from_paths, cross_domain_scores(LogisticRegression(), X, y, **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 1]}, "Got 60 samples in X, 2 labels in y and 60 in domain"),
        ({"y": [0, None] * 30}, "Got y=None in row 1"),
        ({"domain": ["a", "a", np.nan] * 20}, "Got domain=nan in row 2"),
        ({"y": np.zeros((60, 2))}, r"Got y of shape \(60, 2\)"),
        ({"y": ["only"] * 60}, r"Got 1 class\(es\) of at least cv=5 cells in domain 'a'"),
        ({"cv": 1}, "Got cv=1 but expected at least 2"),
        ({"estimators": {}}, "Got no estimators"),
    ],
)
def test_bad_input_names_cause_and_fix(separable, change, message):
    X, y, domain = separable
    arguments = {"estimators": LogisticRegression(), "X": X, "y": y, "domain": domain, **change}
    with pytest.raises(ValueError, match=message):
        cross_domain_scores(**arguments)


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


def test_summary_and_mean_over_pairs():
    pairs = [("a", "a", 1.0), ("a", "b", 0.2), ("a", "b", 0.4), ("b", "a", 0.7)]
    scores = pd.DataFrame(pairs, columns=["train_domain", "test_domain", "accuracy"])
    scores = scores.assign(classifier="RF", balanced_accuracy=scores["accuracy"], macro_f1=scores["accuracy"])
    row = summarise_scores(scores).iloc[1]
    assert (row["accuracy_mean"], row["n"]) == (pytest.approx(0.3), 2)
    assert row["accuracy_std"] == pytest.approx(np.sqrt(0.02))
    assert cross_domain_mean(scores)["RF"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="Got metric='auc'"):
        cross_domain_mean(scores, "auc")
    with pytest.raises(ValueError, match="Got scores of one domain"):
        cross_domain_mean(scores[:1])


def test_benchmark_refuses_bad_targets_before_embedding():
    cells = Bunch(images=np.zeros((4, 2)), target=[0, 1, -1, 0], target_names=["x", "y"], domain=list("aabb"))
    with pytest.raises(ValueError, match="Got target=-1 in row 2"):
        run_benchmark(cells, embedder=None, autoencoder=None)


def test_evaluation_imports_no_pictures():
    code = "import sys, sam_bloodcell.evaluation; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_domain_shift_sees_laboratories_apart_and_together():
    rng = np.random.default_rng(0)
    lab = np.repeat(["a", "b", "c"], 60)
    same = rng.normal(size=(180, 4))
    together = domain_shift(same, lab, random_state=0)
    apart = domain_shift(same + 5 * np.unique(lab, return_inverse=True)[1][:, None], lab, random_state=0)
    assert together["chance"] == apart["chance"] == pytest.approx(1 / 3)
    assert together["domain_accuracy"] < 0.5
    assert apart["domain_accuracy"] > 0.99
    assert apart["mmd"] > 5 * together["mmd"]
    assert domain_shift(same, lab, random_state=0) == together


@pytest.mark.parametrize("lab", [["a"] * 20, ["a"] * 16 + ["b"] * 4])
def test_domain_shift_needs_two_laboratories(lab):
    with pytest.raises(ValueError, match="expected at least two domains of at least 5 cells each"):
        domain_shift(np.zeros((20, 2)), lab)


def test_benchmark_tells_the_autoencoder_each_cells_laboratory(separable):
    class Aligner(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None, *, domain):
            return self

        def transform(self, X, *, domain=None):
            self.domain_ = domain
            return np.asarray(X)

    X, y, lab = separable
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=lab)
    result = run_benchmark(cells, FunctionTransformer(), Aligner(), LogisticRegression(), cv=2, random_state=0)
    assert result.autoencoder.domain_.tolist() == lab.tolist()
    assert list(result.shift.index) == ["embeddings", "autoencoder"]
