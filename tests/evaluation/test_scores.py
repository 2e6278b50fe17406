import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from sam_bloodcell.evaluation import (
    METRICS,
    compare_pipelines,
    confidence_intervals,
    confusion_shares,
    cross_domain_mean,
    cross_domain_predictions,
    per_class_recall,
    score_predictions,
    summarise_scores,
)


def predictions(classifier="LR", right=0.7, n=120, seed=0, folds=1, confidence=0.8, classes=("x", "y", "z")):
    """Trained on a, tested on b, right as often as asked for."""
    rng = np.random.default_rng(seed)
    label = np.random.default_rng(1).choice(classes, n)
    parts = []
    for fold in range(folds):
        predicted = np.where(rng.random(n) < right, label, rng.choice(classes, n))
        parts.append(
            pd.DataFrame(
                {"classifier": classifier, "train_domain": "a", "test_domain": "b", "fold": fold, "row": np.arange(n),
                 "group": np.arange(n) // 2, "label": label, "predicted": predicted, "confidence": confidence,
                 "known": True, "n_train": 9}
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_summary_and_mean_over_pairs():
    pairs = [("a", "a", 1.0), ("a", "b", 0.2), ("a", "b", 0.4), ("b", "a", 0.7)]
    scores = pd.DataFrame(pairs, columns=["train_domain", "test_domain", "accuracy"])
    scores = scores.assign(classifier="RF", balanced_accuracy=scores["accuracy"], macro_f1=scores["accuracy"])
    row = summarise_scores(scores).iloc[1]
    assert (row["accuracy_mean"], row["n"]) == (pytest.approx(0.3), 2)
    assert row["accuracy_std"] == pytest.approx(np.sqrt(0.02))
    assert cross_domain_mean(scores)["RF"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="The 'metric' parameter of cross_domain_mean"):
        cross_domain_mean(scores, "auc")
    with pytest.raises(ValueError, match="Got scores of one domain"):
        cross_domain_mean(scores[:1])


def test_calibration_error_by_hand():
    cells = predictions(n=10, confidence=0.85)
    cells["predicted"] = np.where(np.arange(10) < 6, cells["label"], "wrong")
    assert score_predictions(cells)["ece"].item() == pytest.approx(0.25)
    cells["confidence"] = [0.95] * 6 + [0.05] * 4
    assert score_predictions(cells)["ece"].item() == pytest.approx(0.05)
    cells["confidence"] = np.nan
    assert np.isnan(score_predictions(cells)["ece"].item())


def test_recall_by_class_and_confusion():
    cells = predictions(folds=2)
    table = per_class_recall(cells).set_index("label")
    for name in ("x", "y", "z"):
        own = cells[cells["label"] == name]
        assert table.loc[name, "recall"] == pytest.approx((own["predicted"] == name).mean())
        assert table.loc[name, "n"] == len(own) / 2
    shares = confusion_shares(cells)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(np.diag(shares), table["recall"].sort_index())


@pytest.mark.parametrize("metric", METRICS)
def test_interval_is_around_the_score_itself(metric):
    cells = predictions(folds=3)
    found = confidence_intervals(cells, metric=metric, random_state=0).iloc[0]
    assert found["score"] == pytest.approx(score_predictions(cells)[metric].mean(), abs=1e-6)
    assert found["low"] < found["score"] < found["high"]


@pytest.mark.parametrize(
    ("metric", "score"),
    [("balanced_accuracy", balanced_accuracy_score), ("macro_f1", lambda a, b: f1_score(a, b, average="macro"))],
)
def test_bootstrap_equals_scikit_learn_on_drawn_cells(metric, score):
    cells = predictions(n=60)
    rng = np.random.default_rng(3)
    draws = []
    for _ in range(400):
        groups = rng.integers(0, 30, 30)
        drawn = cells.iloc[np.concatenate([[2 * group, 2 * group + 1] for group in groups])]
        draws.append(score(drawn["label"], drawn["predicted"]))
    found = confidence_intervals(cells, metric=metric, n_bootstrap=4000, random_state=0).iloc[0]
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(draws, [0.025, 0.975]), atol=0.03)


def test_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cells = predictions(n=200, classes=("x", "y")).assign(group=np.arange(200))
        cells["predicted"] = np.where(rng.random(200) < 0.8, cells["label"], "other")
        found = confidence_intervals(cells, metric="accuracy", n_bootstrap=300, random_state=seed).iloc[0]
        covered += found["low"] <= 0.8 <= found["high"]
    assert covered >= 51


def test_groups_widen_the_interval():
    label = np.repeat(np.array(["x", "y"] * 10), 20)
    wrong = np.repeat(np.random.default_rng(0).random(20) < 0.3, 20)  # whole patients go wrong
    cells = predictions(n=400).assign(label=label, predicted=np.where(wrong, "z", label))
    widths = []
    for group in (np.arange(400), np.repeat(np.arange(20), 20)):
        found = confidence_intervals(cells.assign(group=group), metric="accuracy", random_state=0).iloc[0]
        widths.append(found["high"] - found["low"])
    assert widths[1] > 2 * widths[0]


def test_by_pair_also_at_home():
    home = predictions(n=30).assign(test_domain="a")
    found = confidence_intervals(pd.concat([predictions(), home]), by_pair=True, random_state=0)
    assert found["test_domain"].tolist() == ["b", "a"]
    with pytest.raises(ValueError, match="Got scores of one domain"):
        confidence_intervals(home)


def test_comparison_sees_a_difference_and_none():
    cells = pd.concat([predictions("good", 0.9), predictions("poor", 0.5, seed=1), predictions("same", 0.9, seed=0)])
    table = compare_pipelines(cells, random_state=0).set_index(["a", "b"])
    assert table.loc[("good", "poor"), "p_holm"] < 0.05
    assert table.loc[("good", "poor"), "low"] > 0
    assert table.loc[("good", "same"), "difference"] == 0
    assert table.loc[("good", "same"), "p"] == 1
    assert (table["p_holm"] >= table["p"]).all()
    against = compare_pipelines(cells, "poor", random_state=0)
    assert against["b"].unique().tolist() == ["poor"]
    with pytest.raises(ValueError, match="Got baseline='none' but expected one of 'good'"):
        compare_pipelines(cells, "none")
    with pytest.raises(ValueError, match="Got one classifier"):
        compare_pipelines(predictions())


def test_benchmarks_compare_feature_sets():
    cells = pd.concat(
        [predictions("LR", 0.9).assign(features="autoencoder"), predictions("LR", 0.5, seed=1).assign(features="raw")]
    )
    assert compare_pipelines(cells, ("raw", "LR"), random_state=0)["a"].tolist() == [("autoencoder", "LR")]


def test_cells_of_classes_that_training_lacks_are_wrong_in_the_scores_over_all_cells():
    cells = predictions(n=10, confidence=0.95, classes=("x", "y"))
    cells["label"], cells["predicted"] = list("xxxxxxyyzz"), list("xxxxxyyyxx")
    cells["known"] = cells["label"] != "z"
    row = score_predictions(cells).iloc[0]
    assert (row["n_test"], row["n_left_out"], row["n_classes"]) == (8, 2, 2)
    assert (row["accuracy"], row["accuracy_all"]) == (pytest.approx(7 / 8), pytest.approx(0.7))
    assert row["balanced_accuracy_all"] == pytest.approx(balanced_accuracy_score(cells["label"], cells["predicted"]))
    assert row["macro_f1_all"] == pytest.approx(f1_score(cells["label"], cells["predicted"], average="macro"))
    assert (row["ece"], row["ece_all"]) == (pytest.approx(0.95 - 7 / 8), pytest.approx(0.95 - 0.7))
    assert (row["chance"], row["majority"]) == (0.5, 0.75)
    summary = summarise_scores(score_predictions(cells)).iloc[0]
    assert (summary["accuracy_all_mean"], summary["chance"]) == (pytest.approx(0.7), 0.5)
    assert summary[["majority", "ece_all_mean"]].tolist() == pytest.approx([0.75, 0.25])
    recall = per_class_recall(cells).set_index("label")
    assert recall["recall"].to_dict() == {"x": pytest.approx(5 / 6), "y": 1, "z": pytest.approx(np.nan, nan_ok=True)}
    assert recall["recall_all"].to_dict() == {"x": pytest.approx(5 / 6), "y": 1, "z": 0}
    assert recall["n_all"].to_dict() == {"x": 6, "y": 2, "z": 2}


def test_recall_over_all_folds_counts_those_whose_training_lacks_the_class():
    cells = predictions(folds=2, right=1.0)
    cells.loc[(cells["fold"] == 1) & (cells["label"] == "x"), "known"] = False
    recall = per_class_recall(cells).set_index("label").loc["x"]
    assert (recall["recall"], recall["recall_all"]) == (1, 0.5)


def test_abstentions_have_no_part_in_the_calibration_error():
    cells = predictions(n=10, confidence=0.85)
    cells["predicted"] = np.where(np.arange(10) < 6, cells["label"], "unknown")
    cells.loc[6:, "confidence"] = np.nan
    assert score_predictions(cells)["ece"].item() == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("metric", "chance"), [("accuracy", 0.5), ("balanced_accuracy", 1 / 3), ("macro_f1", 2 * 0.5 / 1.5 / 3)]
)
def test_interval_stands_beside_the_best_constant_answer(metric, chance):
    cells = predictions(n=40)
    cells["label"] = [*"xxyz"] * 10
    for by_pair in (False, True):
        found = confidence_intervals(cells, metric=metric, by_pair=by_pair, random_state=0)
        assert found["chance"].item() == pytest.approx(chance)


def test_p_counts_the_data_as_a_draw():
    cells = pd.concat([predictions("good", 0.95), predictions("poor", 0.1, seed=1)])
    assert compare_pipelines(cells, n_bootstrap=99, random_state=0)["p"].item() == pytest.approx(2 / 100)
    assert compare_pipelines(cells, n_bootstrap=999, random_state=0)["p"].item() == pytest.approx(2 / 1000)


def test_cells_without_groups_are_warned_of_in_comparisons():
    cells = pd.concat([predictions("good", 0.9), predictions("poor", 0.5, seed=1)])
    with pytest.warns(UserWarning, match="p-values are too small and intervals too narrow") as caught:
        compare_pipelines(cells.assign(group=cells["row"]), random_state=0)
    assert caught[0].filename == __file__


def test_draws_that_leave_a_pair_without_cells_do_not_spoil_the_rest():
    parts = []
    for name, seed in (("good", 0), ("poor", 1)):
        cells = predictions(name, 0.9 - 0.4 * seed, seed=seed, classes=("x", "y"))
        other = cells.assign(
            train_domain="c", known=cells["group"] == 7
        )  # one patient of eighty has a class that c knows
        parts += [cells, other]
    cells = pd.concat(parts)
    row = compare_pipelines(cells, random_state=0).iloc[0]
    assert np.isfinite(row[["low", "high", "p", "p_holm"]].astype(float)).all()
    assert row["low"] <= row["difference"] <= row["high"]
    assert np.isfinite(confidence_intervals(cells, by_pair=True, random_state=0)[["low", "high"]]).all(axis=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: cells[cells["row"] != 3], "Got row 3 of 'b' after 'a' of good, but expected the same cells"),
        (lambda cells: cells.assign(label="x"), "but expected the same cells of each classifier"),
        (lambda cells: cells.assign(group=cells["row"]), "but expected the same cells of each classifier"),
        (lambda cells: cells.assign(train_domain="c"), "but expected the same cells of each classifier"),
        (lambda cells: cells.assign(classifier="good"), "Got good twice for row 0 of one fold"),
    ],
    ids=["fewer", "other labels", "other groups", "other training", "one name"],
)
def test_only_predictions_of_the_same_cells_are_compared(change, message):
    cells = pd.concat([predictions("good", 0.9), predictions("third", 0.9), change(predictions("poor", 0.5, seed=1))])
    with pytest.raises(ValueError, match=message):
        compare_pipelines(cells, random_state=0)


@pytest.mark.parametrize("kind", ["category", "file"])
def test_tables_of_categories_and_from_files_score_alike(kind, tmp_path):
    cells = predictions(folds=2)
    cells.loc[:5, "predicted"] = "unknown"
    if kind == "file":
        cells.to_csv(tmp_path / "predictions.csv", index=False)
        read = pd.read_csv(tmp_path / "predictions.csv")
    else:
        read = cells.astype(dict.fromkeys(("train_domain", "test_domain", "label", "predicted", "group"), "category"))
    for made in (score_predictions, per_class_recall, lambda table: confidence_intervals(table, random_state=0)):
        pd.testing.assert_frame_equal(made(read), made(cells), check_dtype=False, check_categorical=False)


@pytest.mark.parametrize("score", [score_predictions, confidence_intervals, per_class_recall])
def test_two_classifiers_of_one_name_are_not_mixed(separable, score):
    X, y, domain = separable
    tables = [
        cross_domain_predictions({"m": LogisticRegression()}, features, y, domain=domain, random_state=0)
        for features in (X, np.random.default_rng(0).normal(size=X.shape))
    ]
    with pytest.raises(ValueError, match=r"Got m twice for row .* Fix: name each classifier differently"):
        score(pd.concat(tables))


def test_an_empty_table_lacks_rows_and_no_columns():
    scores = score_predictions(predictions())[:0]
    with pytest.raises(ValueError, match=r"Got scores without rows but .* Fix: pass .* that is not empty\."):
        summarise_scores(scores)
    with pytest.raises(ValueError, match=r"Got scores without the column\(s\) macro_f1 but"):
        summarise_scores(scores.drop(columns="macro_f1"))
