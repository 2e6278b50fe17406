"""The benchmark over laboratories chooses no setting by the tested laboratory, and tests exactly what it says."""

import importlib

import numpy as np
import pandas as pd
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sam_bloodcell import NeighborSmoothedClassifier

NAMES = ("laboratories_cells", "laboratories_methods", "laboratories_signs", "laboratories_tables", "laboratories")


@pytest.fixture(scope="module")
def modules():
    """Return the benchmark's modules by the last word of their name."""
    return {name.rpartition("_")[2]: importlib.import_module(name) for name in NAMES}


@pytest.fixture
def tasks(modules):
    found = modules["cells"].training_sets()
    rows = [(setting, "+".join(labs), lab) for setting, labs, tested in found for lab in tested]
    return pd.DataFrame(rows, columns=["setting", "train", "tested"])


def test_settings_are_never_chosen_by_the_tested_laboratory(modules, tasks):
    for task in tasks[tasks["setting"] != "four"].itertuples(index=False):
        inner = modules["tables"].inner_tasks(tasks, *task)
        seen = set(inner["tested"]) | {lab for labs in inner["train"] for lab in labs.split("+")}
        assert len(inner) == {"pair": 12, "two": 2, "three": 6, "left out": 5}[task.setting]
        assert task.tested not in seen
        if task.setting == "pair":
            assert task.train not in seen


def test_the_chosen_strength_is_the_best_elsewhere_and_not_here(modules, tasks):
    """C=1 is best in tecom alone: it is chosen everywhere but where tecom takes part."""
    rows = []
    for task in tasks.itertuples(index=False):
        for strength in ("0.1", "1"):
            value = 0.9 if strength == ("1" if task.tested == "tecom" else "0.1") else 0.1
            rows.append({**task._asdict(), "C": strength, "balanced_accuracy": value})
    table = pd.DataFrame(rows).assign(method="pooled", transductive=False, mixture="as it is", seed=0, draw=0)
    found = modules["tables"].with_choices(table)
    chosen = found[(found["C"] == "chosen") & (found["method"] == "pooled")]
    assert len(chosen) == (tasks["setting"] != "four").sum()
    left_out = chosen[chosen["setting"] == "left out"].set_index("tested")["picked"]
    assert left_out["tecom"] == "pooled C=0.1"
    assert chosen.loc[chosen["tested"] == "tecom", "balanced_accuracy"].eq(0.1).all()


def test_at_most_150_cells_of_a_class_and_laboratory_train_and_rare_classes_do_not(modules):
    label = np.repeat(["neutrophil", "basophil", "", "neutrophil", "monocyte"], [200, 4, 30, 20, 5])
    domain = np.repeat(["acevedo", "acevedo", "acevedo", "tecom", "tecom"], [200, 4, 30, 20, 5])
    rows = modules["cells"].draw_training(label, domain, ("acevedo", "tecom"), seed=0)
    assert len(set(rows)) == len(rows)
    counted = pd.Series(list(zip(domain[rows], label[rows], strict=True))).value_counts().to_dict()
    assert counted == {("acevedo", "neutrophil"): 150, ("tecom", "neutrophil"): 20, ("tecom", "monocyte"): 5}


def test_scored_classes_are_those_that_both_sides_have(modules):
    trained, tested = ["neutrophil", "monocyte"], ["neutrophil"] * 3 + ["monocyte"] * 2 + ["basophil"] * 9
    assert modules["cells"].scored_classes(trained, tested).tolist() == ["neutrophil"]


def test_mixtures_have_the_shares_that_they_are_named_after(modules):
    label = np.repeat(["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"], [120, 90, 40, 30, 3])

    def drawn(mixture, draw=0):
        rows = modules["cells"].draw_mixture(label, mixture, draw, "tecom")
        assert len(set(rows)) == len(rows)
        return pd.Series(label[rows]).value_counts().to_dict()

    assert sum(drawn("as it is").values()) == 283
    balanced = {"neutrophil": 30, "lymphocyte": 30, "monocyte": 30, "eosinophil": 30}
    assert drawn("balanced") == balanced
    healthy = {"neutrophil": 120, "lymphocyte": 60, "monocyte": 12, "eosinophil": 6, "basophil": 2}
    assert drawn("healthy") == healthy
    assert {frozenset(drawn("one class only", draw)) for draw in range(4)} == {frozenset([name]) for name in balanced}
    missing = [set(healthy) - set(drawn("one class missing", draw)) for draw in range(5)]
    assert sorted(name for names in missing for name in names) == sorted(healthy)


def test_a_draw_is_the_same_for_every_method_and_another_for_another_laboratory(modules):
    label = np.repeat(["neutrophil", "lymphocyte"], 60)
    first, again, other = (
        modules["cells"].draw_mixture(label, "one class only", 0, lab) for lab in ("tecom", "tecom", "jhu")
    )
    assert first.tolist() == again.tolist() != other.tolist()


def test_transductive_methods_see_exactly_the_drawn_cells(modules):
    rng = np.random.default_rng(0)
    train, label = rng.normal(size=(40, 3)), np.repeat(["lymphocyte", "monocyte"], 20)
    X, tested = rng.normal(size=(12, 3)), np.repeat(["lymphocyte", "monocyte"], 6)
    seen = []

    def transform(cells):
        seen.append(cells)
        return cells

    draws = [("as it is", 0, np.arange(12)), ("one class only", 0, np.arange(6))]
    for transductive, expected in ((True, [12, 6]), (False, [12])):
        seen.clear()
        features = modules["methods"].Features("pooled", transductive, train, label, transform)
        models = modules["methods"].fit_classifiers(features)
        list(modules["laboratories"].tests(features, models, None, X, tested, draws))
        assert [len(cells) for cells in seen] == expected


def test_cells_of_a_class_that_training_lacks_count_in_the_calibration_alone(modules):
    truth, classes = np.array(["a", "b", "c"]), np.array(["a", "b"])
    sure = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = modules["methods"].score(truth, sure, classes, scored=classes, answered=np.array([True, False, True]))
    assert found["balanced_accuracy"] == found["macro_f1"] == 1
    assert found["ece"] == pytest.approx(1 / 3)
    assert found["right_of_answered"] == 0.5


def test_smoothing_is_that_of_the_package(modules):
    rng = np.random.default_rng(0)
    features = np.repeat([[5.0, 0.0], [0.0, 5.0]], 50, axis=0) + rng.normal(size=(100, 2))
    label = np.repeat(["a", "b"], 50)
    classifier = LogisticRegression(C=0.001).fit(features, label)
    near = modules["methods"].neighbours_of(features)
    smoothed = modules["methods"].smooth(classifier.predict_proba(features), near)
    expected = NeighborSmoothedClassifier(FrozenEstimator(classifier)).fit(features, label).predict_proba(features)
    np.testing.assert_allclose(smoothed, expected)
    assert modules["methods"].neighbours_of(features[:19]) is None


def test_a_sign_that_tells_when_to_abstain_from_transduction_wins_on_other_laboratories(modules):
    rng = np.random.default_rng(0)
    draws = pd.DataFrame({"tested": np.repeat(list("abcdef"), 40), "sign": rng.uniform(size=240)})
    draws = draws.assign(a=0.6, b=np.where(draws["sign"] > 0.5, 0.3, 0.8), weight=1.0, noise=rng.uniform(size=240))
    telling, useless = modules["signs"]._judge(draws, "sign"), modules["signs"]._judge(draws, "noise")
    assert telling["auroc"] == 1
    assert telling["by rule"] > telling["by the better of both"] + 0.05
    assert telling["limit"] == pytest.approx(0.5, abs=0.05)
    assert useless["by rule"] < useless["by the better of both"] + 0.02
