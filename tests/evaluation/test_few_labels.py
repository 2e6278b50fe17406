import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from xgboost import XGBClassifier

from sam_bloodcell import CellClassifier, CellEmbeddings
from sam_bloodcell.evaluation import label_curve
from sam_bloodcell.evaluation.few_labels import Labelled, cells_to_label, fit_with_few, summarise_curve, tempered


def shifted(n, shift, seed):
    """Cells of two classes, 4 apart, of a laboratory whose features are shifted."""
    rng = np.random.default_rng(seed)
    y = np.tile(["lymphocyte", "monocyte"], n // 2)
    return rng.normal(size=(n, 3)) + [4, 0, 0] * (y == "monocyte")[:, None] + shift, y


@pytest.fixture(scope="module")
def laboratories():
    """Three laboratories, of which one is far away from the others, and its classes are answered as one."""
    parts = [shifted(160, shift, seed) for seed, shift in enumerate([[0, 0, 0], [0, 1, 0], [4, 0, 6]])]
    X, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return X, y, np.repeat(["a", "b", "c"], 160)


def means(curve):
    return curve.groupby(["test_domain", "chosen", "n_labels"])[["balanced_accuracy", "ece"]].mean()


@pytest.mark.slow
def test_the_curve_rises_where_labels_help(laboratories):
    X, y, domain = laboratories
    curve = label_curve(X, y, domain=domain, random_state=0)
    found = means(curve)["balanced_accuracy"]
    assert found["c", "none", 0] < 0.7
    assert found["c", "random", 100] > 0.9
    assert found["c", "informative", 32] > 0.9
    assert set(curve["n_labels"]) == {0, 8, 16, 32, 100}
    assert (curve["n_test"] == 160 - curve["n_labels"]).all()  # a labelled cell is never tested
    draws = curve.groupby(["test_domain", "chosen", "n_labels"])["draw"].nunique()
    assert draws.xs("none", level="chosen").eq(1).all()
    assert draws.xs("random", level="chosen").eq(3).all()
    again = label_curve(X, y, domain=domain, random_state=0)
    assert again.equals(curve)


def test_a_labelled_cell_is_never_tested():
    """Of classes that the features do not tell, the labelled cells alone could be answered rightly."""
    X, domain = np.arange(400.0)[:, None], np.repeat(["a", "b"], 200)
    y = np.random.default_rng(0).integers(2, size=400)
    curve = label_curve(X, y, domain=domain, classifier=KNeighborsClassifier(1), n_labels=[100], random_state=0)
    assert curve["balanced_accuracy"].mean() == pytest.approx(0.5, abs=0.06)


def test_no_cell_of_a_labelled_patient_is_tested():
    """Each patient's cells look alike and have a label by chance, so that cells of labelled patients are easy."""
    rng = np.random.default_rng(0)
    patients, domain = np.repeat(np.arange(80), 10), np.repeat(["a", "b"], 400)
    X, y = patients[:, None] + 0.01 * rng.normal(size=(800, 1)), rng.permutation(np.tile([0, 1], 40))[patients]
    given = {"domain": domain, "classifier": KNeighborsClassifier(1), "n_labels": [0, 100], "random_state": 0}
    known, unknown = label_curve(X, y, groups=patients, **given), label_curve(X, y, **given)
    assert means(unknown)["balanced_accuracy"].xs(100, level="n_labels").min() > 0.8
    assert means(known)["balanced_accuracy"].xs(100, level="n_labels").mean() < 0.65
    assert known.loc[known["n_labels"] == 0, "n_test"].tolist() == [400, 400]
    assert known.loc[known["n_labels"] == 100, "n_test"].between(200, 250).all()  # half of the patients, or a few more
    assert label_curve(X, y, groups=patients, **given).equals(known)


def test_labels_of_all_patients_leave_none_to_test():
    X, y = shifted(160, [0, 0, 0], 0)
    domain = np.repeat(["a", "b"], 80)
    one_each = label_curve(X, y, domain=domain, groups=domain, n_labels=[0, 8], random_state=0)
    assert set(one_each["n_labels"]) == {0}
    unequal = np.where(np.arange(160) % 80 < 50, "big", "small")
    curve = label_curve(X, y, domain=domain, groups=unequal, n_labels=[8, 32], random_state=0)
    assert set(curve.loc[curve["n_labels"] == 8, "n_test"]) == {30, 50}
    assert set(curve.loc[curve["n_labels"] == 32, "n_test"]) == {30}  # 32 of the 30 cells of one cannot be had


def test_a_laboratory_too_small_to_label_is_left_out_of_that_number(laboratories):
    X, y, domain = laboratories
    kept = np.r_[0:320, 320:356]
    curve = label_curve(X[kept], y[kept], domain=domain[kept], random_state=0)
    assert sorted(set(curve.loc[curve["test_domain"] == "c", "n_labels"])) == [0, 8, 16]
    few = np.r_[0:160, 160:170]
    assert set(label_curve(X[few], y[few], domain=domain[few], random_state=0)["test_domain"]) == {"a"}
    assert label_curve(X[:160], y[:160], domain=domain[:160]).empty


def test_laboratories_are_taken_from_embeddings(laboratories):
    X, y, domain = laboratories
    given = {"new": ["b"], "n_labels": (8,), "n_draws": 1, "random_state": 0}
    curve = label_curve(CellEmbeddings.from_arrays(X, domain=domain), y, **given)
    pd.testing.assert_frame_equal(curve, label_curve(X, y, domain=domain, **given))
    pd.testing.assert_frame_equal(curve, label_curve(pd.DataFrame(X).assign(domain=domain), y, **given))
    with pytest.raises(ValueError, match=r"Got no domain\. Fix: pass domain=\.\.\."):
        label_curve(X, y, **given)


def test_the_default_classifier_does_not_need_xgboost(laboratories, monkeypatch):
    X, y, domain = laboratories
    monkeypatch.setitem(sys.modules, "xgboost", None)  # an import raises
    assert len(label_curve(X, y, domain=domain, new=["b"], n_labels=(0,), n_draws=1, random_state=0)) == 1
    assert CellClassifier().make_pipeline()


def test_only_the_named_laboratories_are_tested(laboratories):
    X, y, domain = laboratories
    curve = label_curve(X, y, domain=domain, new=["b"], n_labels=(8,), n_draws=1, random_state=0)
    assert set(curve["test_domain"]) == {"b"}


def test_a_class_that_others_lack_takes_no_part(laboratories):
    X, y, domain = laboratories
    y = np.where((domain == "a") & (np.arange(len(y)) < 30), "basophil", y)
    curve = label_curve(X, y, domain=domain, n_labels=[8], n_draws=1, random_state=0)
    assert dict(zip(curve["test_domain"], curve["n_test"], strict=True)) == {"a": 122, "b": 152, "c": 152}


def test_a_class_that_the_new_laboratory_lacks_can_still_be_answered(laboratories):
    X, y, domain = laboratories
    lymphocytes = np.flatnonzero((domain == "a") & (y == "lymphocyte"))
    # Two thirds of the monocytes of "a" look like the eosinophils that only "b" and "c" have.
    y = np.where((domain != "a") & (y == "monocyte") & (np.arange(len(y)) % 3 > 0), "eosinophil", y)
    plain = label_curve(X, y, domain=domain, new=["a"], n_labels=[0], random_state=0)
    without = label_curve(X, np.where(y == "eosinophil", "monocyte", y), domain=domain, new=["a"], n_labels=[0])
    assert plain["n_test"].tolist() == without["n_test"].tolist() == [2 * len(lymphocytes)]
    assert plain["balanced_accuracy"].item() < without["balanced_accuracy"].item() - 0.2


def test_any_classifier_has_a_curve(laboratories):
    X, y, domain = laboratories
    classifier = XGBClassifier(n_estimators=5, n_jobs=1)
    curve = label_curve(X, y, domain=domain, classifier=classifier, n_labels=[0, 32], n_draws=1, random_state=0)
    assert means(curve).loc[("c", "random", 32), "balanced_accuracy"] > 0.7


def test_chosen_cells_are_doubtful_and_of_many_kinds():
    rng = np.random.default_rng(0)
    places = np.repeat([[0, 0], [30, 0], [0, 30], [30, 30]], 50, axis=0)
    features = rng.normal(size=(200, 2)) + places
    sure = np.repeat([0.55, 0.6, 0.65, 0.999], 50)  # the last place is known
    rows = cells_to_label(features, np.column_stack([sure, 1 - sure]), 6, random_state=0)
    assert len(set(rows.tolist())) == 6
    assert set((rows // 50).tolist()) >= {0, 1, 2}
    assert np.isin(rows // 50, [0, 1, 2]).sum() >= 5
    assert (np.diff(sure[rows]) >= 0).all()  # the most doubtful first
    everyone = cells_to_label(features, np.column_stack([sure, 1 - sure]), 200)
    assert sorted(everyone.tolist()) == list(range(200))


def test_copies_of_one_cell_are_chosen_too_where_there_is_nothing_else():
    rows = cells_to_label(np.zeros((10, 2)), np.full((10, 2), 0.5), 4, random_state=0)
    assert len(set(rows.tolist())) == 4


@pytest.mark.parametrize("n", [0, 11, -1, 2.5, True, "3"])
def test_a_number_of_cells_that_cannot_be_chosen_is_named(n):
    with pytest.raises(ValueError, match=r"Got n=.* for 10 cells but expected a number from 1 to 10\. Fix: n=10\."):
        cells_to_label(np.zeros((10, 2)), np.full((10, 2), 0.5), n)


def test_labelled_cells_count_as_many_as_a_laboratory_but_as_ten_each_at_least():
    class Counting(LogisticRegression):
        def fit(self, X, y):
            self.n_new_ = int((X[:, 0] == 1).sum())
            return super().fit(X, y)

    def counted(n_training, n_laboratories, n_few):
        training = Labelled(np.zeros((n_training, 1)), np.tile([0, 1], n_training // 2))
        few = Labelled(np.ones((n_few, 1)), np.tile([0, 1], n_few // 2))
        return fit_with_few(Counting(), training, n_laboratories, [few])[0].n_new_

    assert counted(1000, 2, 10) == 500
    assert counted(1000, 2, 100) == 1000
    assert counted(40, 0, 8) == 80


def test_too_sure_probabilities_become_less_sure_and_few_labels_leave_them():
    rng = np.random.default_rng(0)
    X, y = shifted(400, [0, 0, 0], 0)
    noisy = np.where(rng.random(400) < 0.3, rng.permutation(y), y)  # a laboratory where many labels differ
    training = Labelled(X, y)
    _, (few, many) = fit_with_few(
        LogisticRegression(C=100), training, 1, [Labelled(X[:16], noisy[:16]), Labelled(X[:100], noisy[:100])]
    )
    assert few == 1
    assert many > 1
    found = tempered(np.array([[0.9, 0.1], [0.2, 0.8]]), many)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found.max(1) < [0.9, 0.8]).all()
    assert found.argmax(1).tolist() == [0, 1]
    np.testing.assert_allclose(tempered(np.array([[0.9, 0.1]]), 0.5), [[0.81 / 0.82, 0.01 / 0.82]])


def test_a_few_easy_labels_do_not_make_probabilities_nearly_certain():
    X, y = shifted(1000, [0, 0, 0], 0)
    training, new = Labelled(X, y), shifted(1000, [0, 0, 0], 1)
    unsure = LogisticRegression(C=0.0002)
    _, (few, many) = fit_with_few(unsure, training, 1, [Labelled(new[0][:n], new[1][:n]) for n in (32, 1000)])
    assert 0.5 < few < 1
    assert many < 0.4


def test_the_temperature_is_fitted_on_patients_that_were_left_out():
    class OfOthers(LogisticRegression):
        def fit(self, X, y):
            self.patients_ = set(X[:, 0])
            return super().fit(X, y)

        def predict_proba(self, X):
            asked.append(set(X[:, 0]))
            assert not self.patients_ & asked[-1]
            return super().predict_proba(X)

    asked = []
    X, y = shifted(80, [0, 0, 0], 0)
    X[:40, 0] = -1  # of the training
    for n_patients in (8, 3, 1):
        X[40:, 0] = patients = np.arange(40) % n_patients
        few = Labelled(X[40:], y[40:], patients)
        _, (temperature,) = fit_with_few(OfOthers(), Labelled(X[:40], y[:40]), 1, [few])
        assert (temperature == 1) == (n_patients == 1)
        assert len(asked) == {8: 5, 3: 3, 1: 0}[n_patients]
        asked.clear()


@pytest.mark.parametrize("n_labels", [[-1], "8", [2.5], None, [True]])
def test_numbers_of_labels_that_are_none_are_named(laboratories, n_labels):
    X, y, domain = laboratories
    with pytest.raises(ValueError, match="n_labels"):
        label_curve(X, y, domain=domain, n_labels=n_labels)


@pytest.mark.parametrize("new", ["a", ["x"], 3])
def test_laboratories_that_are_not_there_are_named(laboratories, new):
    X, y, domain = laboratories
    with pytest.raises(ValueError, match=r"Got new=.* but expected some of \['a', 'b', 'c'\]"):
        label_curve(X, y, domain=domain, new=new)


def test_a_summary_has_the_mean_and_the_spread_over_draws(laboratories):
    X, y, domain = laboratories
    curve = label_curve(X, y, domain=domain, new=["c"], n_labels=[0, 8], random_state=0)
    table = summarise_curve(curve).set_index(["n_labels", "chosen"])
    assert set(table.index) == {(0, "none"), (8, "random"), (8, "informative")}
    draws = curve.loc[curve["chosen"] == "random", "ece"]
    assert table.loc[(8, "random"), ["ece", "ece_std"]].tolist() == pytest.approx([draws.mean(), draws.std()])
    assert np.isnan(table.loc[(0, "none"), "ece_std"])
    assert summarise_curve(curve.iloc[:0]).empty
