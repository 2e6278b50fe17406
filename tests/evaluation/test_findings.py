"""What a benchmark finds, on results made by hand, where the right answer is known by counting."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import BenchmarkResult, compare_pipelines, confidence_intervals, score_predictions
from sam_bloodcell.evaluation import verdict as verdict_module
from sam_bloodcell.evaluation.findings import (
    Verdict,
    advice,
    clashing_labels,
    mistakes,
    recall_by_direction,
    recommended,
    suspected_labels,
    verdict,
)
from sam_bloodcell.evaluation.verdict import recommended_predictions, verdict_lines
from sam_bloodcell.segmentation.cell import QUALITY

FOLDS = 2


def right(label, **_):
    return label


def make_result(
    labels, domains, answer=right, *, classifiers=("LR",), features=("embeddings",), confidence=0.9, groups=None,
    paths=False, least=2, **parts,
):  # fmt: skip
    """Return the result of two folds whose answer about each cell is that of `answer`, called with all that is known.

    Classes with fewer than `least` cells in a laboratory are left out there, as a benchmark does.
    """
    labels, domains = np.asarray(labels), np.asarray(domains)
    names = np.unique(domains).tolist()
    counts = {name: pd.Series(labels[domains == name]).value_counts() for name in names}
    classes = {name: set(counts[name].index[counts[name] >= least]) for name in names}
    rows = []
    for feature in features:
        for classifier in classifiers:
            for train in names:
                for row, (label, test) in enumerate(zip(labels.tolist(), domains.tolist(), strict=True)):
                    if label not in classes[test]:
                        continue
                    for fold in [row % FOLDS] if train == test else range(FOLDS):
                        told = {"features": feature, "classifier": classifier, "train": train, "test": test}
                        predicted = answer(label=label, row=row, fold=fold, **told)
                        sure = confidence(predicted=predicted, row=row, **told) if callable(confidence) else confidence
                        group = row if groups is None else groups[row]
                        rows.append(
                            (feature, classifier, train, test, fold, row, group, label, predicted, sure,
                             label in classes[train], 9)
                        )  # fmt: skip
    columns = ["features", "classifier", "train_domain", "test_domain", "fold", "row", "group", "label", "predicted"]
    table = pd.DataFrame(rows, columns=[*columns, "confidence", "known", "n_train"])
    codes, target = np.unique(labels, return_inverse=True)
    cells = Bunch(
        paths=np.array([f"cells/{row}.png" for row in range(len(labels))]) if paths else None,
        target=target, target_names=codes, domain=domains, group=groups,
    )  # fmt: skip
    several = len(names) > 1 and table["known"][table["train_domain"] != table["test_domain"]].any()
    parts = {
        "duplicates": pd.DataFrame({"a": [], "b": []}, dtype=int),
        "embeddings": np.zeros((len(labels), 2)),
    } | parts
    return BenchmarkResult(
        predictions=table, scores=score_predictions(table), cells=cells, features=dict.fromkeys(features),
        intervals=confidence_intervals(table, random_state=0) if several else None, autoencoder=None,
        reconstructions=None, shown=np.array([0]), shift_by_class=pd.DataFrame(),
        settings={"random_state": "0"}, **parts,
    )  # fmt: skip


def two_laboratories(n=8, classes="xy"):
    """Labels and domains: n cells of each class in a, and in b."""
    return np.tile(np.repeat(list(classes), n), 2), np.repeat(["a", "b"], n * len(classes))


def from_a_one_y_in_two_is_found(label, train, test, row, **_):
    return "x" if (train, test, label) == ("a", "b", "y") and row % 2 else label


def test_the_verdict_counts():
    result = make_result(*two_laboratories(), from_a_one_y_in_two_is_found)
    found = verdict(result)
    assert (found.features, found.classifier) == ("embeddings", "LR") == recommended(result)
    assert (found.within.value, found.within.low, found.within.high) == (1, 1, 1)
    assert (found.within.chance, found.within.n) == (0.5, 2)
    assert found.across.value == (0.75 + 1) / 2
    assert found.across.low < found.across.value < found.across.high
    assert (found.across.chance, found.across.n) == (0.5, 2)
    assert found.weakest_pair == ("a", "b", 0.75, 16)
    assert found.weakest_class == ("y", (0.5 + 1) / 2, 16)
    assert found.autoencoder is None
    # Confidences are 0.9: all are right at home, and from b; from a, 12 of 16 are.
    assert found.calibration == pytest.approx({"within": 0.1, "across": (abs(0.9 - 12 / 16) + 0.1) / 2})


def test_the_interval_across_is_that_of_the_tables():
    result = make_result(*two_laboratories(), from_a_one_y_in_two_is_found, classifiers=("LR", "RF"))
    row = result.intervals.iloc[0]
    across = verdict(result).across
    assert (across.value, across.low, across.high, across.chance) == tuple(row[["score", "low", "high", "chance"]])


def test_predictions_are_those_of_the_recommended_classifier():
    cells = two_laboratories(2)

    def rf_is_wrong(label, classifier, **_):
        return "x" if classifier == "RF" else label

    columns = ["path", "domain", "label", "train_domain", "fold", "predicted", "confidence", "known"]
    rows = recommended_predictions(make_result(*cells, rf_is_wrong, classifiers=("RF", "LR")))
    assert list(rows.columns) == columns
    assert len(rows) == 8 + 2 * 8  # each cell once at home, and in two folds elsewhere
    assert (rows["label"] == rows["predicted"]).all()
    assert rows["path"].value_counts().to_dict() == dict.fromkeys(range(8), 3)
    assert rows.loc[rows["path"] < 4, "domain"].eq("a").all()
    named = recommended_predictions(make_result(*cells, rf_is_wrong, paths=True, groups=np.arange(8) // 2))
    assert list(named.columns) == [*columns[:3], "group", *columns[3:]]
    assert set(named["path"]) == {f"cells/{row}.png" for row in range(8)}
    assert (named["group"] == named["path"].str.extract(r"(\d)")[0].astype(int) // 2).all()


def test_the_lines_say_what_the_verdict_holds():
    answer = by_features("yes")
    text = "\n".join(verdict_lines(make_result(*two_laboratories(10), answer, features=("embeddings", "autoencoder"))))
    for part in (
        "Recommended: LR on the features 'autoencoder', the best of 2",
        "Within laboratories: balanced accuracy 1.000",
        "Across laboratories: balanced accuracy 1.000 (95% interval 1.000 to 1.000; chance 0.500), mean over 2 pairs.",
        "Weakest direction: 1.000 when trained in a and tested in b (20 cells).",
        "No class is weak: each has a recall of 1.000 across laboratories.",
        "Autoencoder: it helps LR across laboratories: +0.125",
    ):
        assert part in text
    one = [column[:16] for column in two_laboratories()]
    assert "mean over 1 laboratory." in "\n".join(verdict_lines(make_result(*one)))
    assert verdict_lines(make_result(list("xxyyvvww"), list("aaaabbbb"))) == [
        "No two laboratories share a class, so nothing was scored."
    ]


def test_the_interval_within_draws_patients_where_there_are_some():
    def wrong_in_every_other_cell(label, train, test, row, **_):
        return "x" if train == test and row % 4 == 1 else label

    cells = two_laboratories(12)
    single = verdict(make_result(*cells, wrong_in_every_other_cell)).within
    grouped = verdict(make_result(*cells, wrong_in_every_other_cell, groups=np.arange(48) // 12)).within
    assert single.low < single.value < single.high
    assert grouped.value == single.value
    assert (grouped.low, grouped.high) != (single.low, single.high)


def test_the_recommended_classifier_is_the_best_across_laboratories():
    def better_at_home(label, classifier, train, test, **_):
        return label if (classifier == "home") == (train == test) else "x"

    cells = two_laboratories()
    assert recommended(make_result(*cells, better_at_home, classifiers=("home", "away"))) == ("embeddings", "away")
    one = [column[:16] for column in cells]
    assert recommended(make_result(*one, better_at_home, classifiers=("home", "away"))) == ("embeddings", "home")


def test_one_laboratory_has_a_verdict_within_alone():
    labels, domains = (column[:16] for column in two_laboratories())
    result = make_result(labels, domains, lambda label, row, **_: "x" if row % 4 == 0 else label)
    found = verdict(result)
    assert (found.within.value, found.within.n) == ((0.75 + 1) / 2, 1)  # both wrong cells are in the first fold
    assert (found.across, found.weakest_pair, found.autoencoder) == (None, None, None)
    assert found.weakest_class == ("y", 0.75, 8)
    assert np.isnan(found.calibration["across"])
    assert clashing_labels(result).empty
    wrong = mistakes(result)
    assert wrong["row"].tolist() == [8, 12]
    assert (wrong["train_domain"] == wrong["test_domain"]).all()
    assert "All cells come from one laboratory" in next(one for one in advice(result) if one.topic == "cells").text


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 30])
def test_many_laboratories(n):
    names = [f"lab {i:02}" for i in range(n)]
    labels, domains = np.tile(list("xxyy"), n), np.repeat(names, 4)

    def first_knows_no_y(label, train, test, **_):
        return "x" if train == names[0] != test else label

    found = verdict(make_result(labels, domains, first_knows_no_y))
    assert (found.within.n, found.across.n) == (n, n * (n - 1))
    assert found.across.value == pytest.approx(1 - 0.5 / n)  # of the n (n - 1) pairs, n - 1 score 0.5
    assert found.weakest_pair[0] == names[0]
    assert found.weakest_class[0] == "y"


def test_nothing_scored_finds_nothing():
    result = make_result(list("xxyyvvww"), list("aaaabbbb"))  # no class in common
    assert recommended(result) is None
    found = verdict(result)
    assert (found.features, found.classifier, found.within, found.across) == (None, None, None, None)
    assert isinstance(found, Verdict)
    assert all(np.isnan(list(found.calibration.values())))
    for table in (recall_by_direction(result), suspected_labels(result), mistakes(result), clashing_labels(result)):
        assert table.empty
    assert {one.topic for one in advice(result)} == {"patients"}


def by_features(help_or_harm):
    """Answers of which the embeddings get one y in two wrong after training in a, or the autoencoder's features do."""

    def answer(features, **told):
        worse = "embeddings" if help_or_harm == "yes" else "autoencoder"
        return from_a_one_y_in_two_is_found(**told) if features == worse else told["label"]

    return answer


@pytest.mark.parametrize("helps", ["yes", "no"])
def test_the_autoencoder_is_compared_on_the_same_cells(helps):
    result = make_result(*two_laboratories(10), by_features(helps), features=("embeddings", "autoencoder"))
    found = verdict(result).autoencoder
    assert found.helps == helps
    assert found.difference == (0.125 if helps == "yes" else -0.125)
    assert found.low <= found.difference <= found.high
    assert found.p < 0.05
    told = [one.text for one in advice(result) if one.topic == "autoencoder"]
    assert len(told) == (helps == "no")
    assert all("by 0.12" in text for text in told)


def test_it_is_unclear_whether_an_autoencoder_helps_with_few_cells_or_no_difference():
    few = make_result(*two_laboratories(6), by_features("yes"), features=("embeddings", "autoencoder"))
    same = make_result(*two_laboratories(10), features=("embeddings", "autoencoder"))
    assert verdict(few).autoencoder.low > 0
    assert verdict(few).autoencoder.helps == "unclear"
    assert verdict(same).autoencoder.helps == "unclear"


def test_classifiers_without_probabilities_have_no_calibration_and_all_else():
    result = make_result(*two_laboratories(), from_a_one_y_in_two_is_found, confidence=np.nan)
    found = verdict(result)
    assert np.isnan([found.calibration["within"], found.calibration["across"]]).all()
    assert found.across.value == 0.875
    assert mistakes(result)["row"].tolist() == [25, 27, 29, 31]
    assert mistakes(result)["confidence"].isna().all()
    assert "calibration" not in {one.topic for one in advice(result)}


def test_recall_by_direction_is_of_known_classes():
    labels, domains = list("xxyyzzxxyy"), list("aaaaaabbbb")
    table = recall_by_direction(make_result(labels, domains, lambda label, **_: "x"))
    assert list(table.columns) == ["label", "train_domain", "test_domain", "recall", "n"]
    recall = table.set_index(["train_domain", "test_domain", "label"])["recall"]
    assert recall["a", "b"].to_dict() == {"x": 1, "y": 0}
    assert ("b", "a", "z") not in recall.index  # b was never taught z
    assert recall["a", "a"].to_dict() == {"x": 1, "y": 0, "z": 0}


def test_a_cell_is_one_mistake_with_the_answer_of_most_folds():
    labels, domains = np.tile(list("xxyy"), 3), np.repeat(list("abc"), 4)

    def answer(label, row, train, fold, **_):
        if row == 0:
            return {"b": "y", "c": "y"}.get(train, label)  # wrong from both, more surely from c
        if row == 5:
            return "y" if train == "a" and fold == 0 else label  # of one fold in two, and the less confident one
        if row == 9:
            return "unknown" if train == "a" else label
        return label

    def confidence(predicted, row, train, **_):
        return {("c", 0): 0.95, ("b", 0): 0.7}.get((train, row), 0.6 if predicted == "y" else 0.8)

    table = mistakes(make_result(labels, domains, answer, confidence=confidence, paths=True))
    assert table.to_dict("records") == [
        {
            "row": 0, "path": "cells/0.png", "train_domain": "c", "test_domain": "a", "label": "x", "predicted": "y",
            "confidence": 0.95,
        }
    ]  # fmt: skip


def doubted(*rows, by=("LR", "RF"), trained_in=("a", "b")):
    def answer(label, row, classifier, train, **_):
        doubts = row in rows and classifier in by and train in trained_in
        return ("y" if label == "x" else "x") if doubts else label

    return answer


def test_labels_are_suspected_where_home_and_elsewhere_agree():
    options = {"classifiers": ("LR", "RF"), "paths": True}
    cells = two_laboratories()
    found = suspected_labels(make_result(*cells, doubted(3, 20), **options))
    assert found["row"].tolist() == [3, 20]
    assert found.loc[0].drop("row").to_dict() == {
        "path": "cells/3.png", "domain": "a", "label": "x", "predicted": "y", "confidence": 0.9, "agreement": 1,
    }  # fmt: skip
    assert suspected_labels(make_result(*cells, doubted(3, trained_in=("a",)), **options)).empty
    assert suspected_labels(make_result(*cells, doubted(3, trained_in=("b",)), **options)).empty
    assert suspected_labels(make_result(*cells, doubted(3, by=("LR",)), **options)).empty  # RF keeps to the label


def test_labels_are_suspected_without_probabilities():
    result = make_result(*two_laboratories(), doubted(3), classifiers=("LR", "RF"), confidence=np.nan)
    found = suspected_labels(result)
    assert found["row"].tolist() == [3]
    assert found["confidence"].isna().all()
    assert "path" not in found


def test_classifiers_that_do_not_carry_over_suspect_nobody():
    def nonsense_elsewhere(train, test, row, **told):
        if train != test:
            return "xy"[row // 2 % 2]
        return doubted(3)(train=train, row=row, **told)

    assert suspected_labels(make_result(*two_laboratories(), nonsense_elsewhere, classifiers=("LR", "RF"))).empty


def test_one_laboratory_suspects_only_what_is_beyond_doubt():
    labels, domains = (column[:16] for column in two_laboratories())

    def sure(sureness):
        return lambda predicted, row, **_: sureness if row == 3 else 0.8

    one = {"classifiers": ("LR",)}
    assert suspected_labels(make_result(labels, domains, doubted(3), confidence=sure(0.9), **one))["row"].tolist() == [
        3
    ]
    assert suspected_labels(make_result(labels, domains, doubted(3), confidence=sure(0.7), **one)).empty
    # Without probabilities, one classifier is not enough, and three are.
    assert suspected_labels(make_result(labels, domains, doubted(3), confidence=np.nan, **one)).empty
    three = ("LR", "RF", "SVM")
    found = make_result(labels, domains, doubted(3, by=three), classifiers=three, confidence=np.nan)
    assert suspected_labels(found)["row"].tolist() == [3]
    # Of 10 cells called y, 3 are labelled otherwise: the classifier is not good enough to doubt them.
    assert suspected_labels(make_result(labels, domains, doubted(3, 4, 5), confidence=sure(0.9), **one)).empty


def test_exchanged_names_are_found():
    def exchanged(label, train, test, **_):
        return label if train == test else {"x": "y", "y": "x"}.get(label, label)

    result = make_result(*two_laboratories(classes="xyz"), exchanged)
    found = clashing_labels(result)
    assert len(found) == 1  # one pair of names of one pair of laboratories
    assert {found["domain"][0], found["other_domain"][0]} == {"a", "b"}
    assert found["label"][0] in ("x", "y")
    assert "Check whether the two names are exchanged" in found["finding"][0]
    (told,) = [one for one in advice(result) if one.topic == "labels"]
    assert told.text == found["finding"][0]
    assert len(told.rows) == 8
    assert told == advice(result)[0]


def test_a_line_drawn_elsewhere_is_found():
    """b calls x some of what a calls y, and a calls y all of what b calls x."""

    def answer(label, train, test, row, **_):
        if (train, test, label) == ("a", "b", "x"):
            return "y"
        return "x" if (train, test, label) == ("b", "a", "y") and row % 2 else label

    found = clashing_labels(make_result(*two_laboratories(classes="xyz"), answer))
    assert found[["label", "domain", "other_domain"]].to_numpy().tolist() == [["x", "b", "a"]]
    start = "Most 'x' cells of b are called 'y' by classifiers trained in a, though other classes transfer well."
    assert found["finding"][0] == f"{start} Check whether both laboratories use the same definition."


def test_a_class_that_does_not_carry_over_is_no_clash():
    def one_way(label, train, test, **_):
        return "y" if (train, test, label) == ("a", "b", "x") else label

    def nothing_carries_over(label, train, test, **_):
        return label if train == test else "y"

    cells = two_laboratories(classes="xyz")
    assert clashing_labels(make_result(*cells, one_way)).empty
    assert clashing_labels(make_result(*cells, nothing_carries_over)).empty


def test_one_class_under_two_names_is_found():
    labels, domains = [*"xxxxuuuu", *"xxxxvvvv"], np.repeat(["a", "b"], 8)

    def answer(label, train, **_):
        return {"u": "u" if train == "a" else "v", "v": "u" if train == "a" else "v"}.get(label, label)

    result = make_result(labels, domains, answer)
    found = clashing_labels(result)
    assert "If both names mean the same class, give them one name." in found["finding"][0]
    lonely = found[found["other_domain"] == ""]
    assert sorted(zip(lonely["label"], lonely["domain"], strict=True)) == [("u", "a"), ("v", "b")]


def test_a_class_of_one_laboratory_is_told_with_its_number():
    result = make_result([*"xxyyzzz", *"xxyy"], [*"aaaaaaa", *"bbbb"])
    found = clashing_labels(result)
    assert found[["label", "domain", "other_domain"]].to_numpy().tolist() == [["z", "a", ""]]
    assert "Only a has cells of class 'z' (3)" in found["finding"][0]
    (told,) = [one for one in advice(result) if one.topic == "labels"]
    assert told.text.startswith("Only one laboratory has cells of 'z' (a), so it is not known")
    assert told.rows == [4, 5, 6]


def test_advice_names_classes_with_few_cells():
    labels, domains = [*"xxxyyyz", *"xxxyyy"], [*"aaaaaaa", *"bbbbbb"]

    def no_y_after_b(label, train, test, **_):
        return "x" if train == "b" != test else label

    first, second = [one for one in advice(make_result(labels, domains, no_y_after_b)) if one.topic == "cells"]
    assert first.text.startswith("These classes have too few cells to train or test on: 'z' in a (1).")
    assert first.text.endswith("Add cells until each has at least 30.")
    assert first.rows == [6]
    assert second.text.startswith(
        "These classes have few cells and a low recall: 'y' after training on 3 cells of b (0%)."
    )
    assert second.text.endswith("Add cells until each has at least 30.")
    assert second.rows == [10, 11, 12]


def test_advice_names_copies_suspects_and_doubtful_masks():
    quality = np.zeros(32, QUALITY)
    quality["confidence"], quality["fallback"][16] = 0.95, True
    quality["confidence"][17] = 0.5
    result = make_result(
        *two_laboratories(), doubted(3), classifiers=("LR", "RF"), paths=True,
        duplicates=pd.DataFrame({"a": [5, 5], "b": [7, 9]}), embeddings=Bunch(quality=quality),
    )  # fmt: skip
    told = {one.topic: one for one in advice(result)}
    assert list(told) == ["mislabelled", "copies", "masks", "patients"]
    assert told["mislabelled"].text.startswith("The label of 1 cell looks wrong: 3.png ('x', called 'y').")
    assert told["mislabelled"].rows == [3]
    assert told["copies"].text.startswith("2 pairs of images look duplicated.")
    assert told["copies"].rows == [5, 7, 9]
    assert told["masks"].text.startswith("In b, 12% of the masks are doubtful")
    assert told["masks"].rows == [16, 17]


def test_advice_on_calibration_says_how_often_answers_are_right():
    told = advice(make_result(*two_laboratories(), from_a_one_y_in_two_is_found, confidence=1.0))
    (text,) = [one.text for one in told if one.topic == "calibration"]
    assert text.startswith(
        "Confidences across laboratories are too high: their mean is 100%, while 88% of the answers are right ("
    )


def test_advice_on_patients_is_for_cells_without_and_laboratories_with_few():
    labels, domains = two_laboratories(12)
    told = {one.topic: one.text for one in advice(make_result(labels, domains))}
    assert "Add a column group" in told["patients"]
    assert not [one for one in advice(make_result(labels, domains, groups=np.arange(48))) if one.topic == "patients"]
    few = make_result(labels, domains, groups=np.r_[np.arange(24), np.repeat([30, 31], 12)])
    (text,) = [one.text for one in advice(few) if one.topic == "patients"]
    assert text.startswith("These laboratories have few patients or slides: b (2).")


def test_advice_names_laboratories_that_a_few_labels_would_help():
    scores = {"none": {"a": 0.7, "b": 0.5, "c": 0.9}, "informative": {"a": 0.76, "b": 0.8, "c": 0.92}}
    curve = pd.DataFrame(
        [
            {"test_domain": name, "chosen": chosen, "n_labels": n, "draw": 0, "balanced_accuracy": score, "ece": 0.1}
            for chosen, n in (("none", 0), ("informative", 32))
            for name, score in scores[chosen].items()
        ]
    )
    labels, domains = np.tile(["x", "y"], 24), np.repeat(["a", "b", "c"], 16)
    result = make_result(labels, domains)
    assert "few labels" not in {one.topic for one in advice(result)}
    (told,) = [one for one in advice(replace(result, label_curve=curve)) if one.topic == "few labels"]
    assert told.text == (
        "Labels of 32 cells would raise the balanced accuracy on the other cells of a new laboratory, when all others "
        "train: b from 0.50 to 0.80, a from 0.70 to 0.76. CellClassifier.cells_to_label says which cells to label, and "
        "CellClassifier.adapt learns from them."
    )
    few = replace(result, label_curve=curve[curve["n_labels"] == 0])
    assert "few labels" not in {one.topic for one in advice(few)}


def test_a_good_benchmark_needs_no_advice():
    labels, domains = two_laboratories(12)
    assert advice(make_result(labels, domains, groups=np.arange(48), confidence=0.99)) == []


def test_many_clashes_are_cut_short():
    names = [f"lab {i}" for i in range(4)]
    labels, domains = np.tile(list("xxyyzz"), 4), np.repeat(names, 6)

    def exchanged(label, train, test, **_):
        return label if train == test else {"x": "y", "y": "x"}.get(label, label)

    told = [one for one in advice(make_result(labels, domains, exchanged)) if one.topic == "labels"]
    assert len(told) == 5
    assert told[-1].text.startswith("2 more such findings about pairs of laboratories")


def test_a_gain_that_depends_on_the_training_cells_is_unclear():
    def better_in_one_fold_alone(features, fold, label, row, **_):
        missed = features == "embeddings" and fold == 0 and label == "y" and row % 4 < 2
        return "x" if missed else label

    labels, domains = two_laboratories(30)
    patients = [row // 2 for row in range(len(labels))]
    features = ("embeddings", "autoencoder")
    result = make_result(labels, domains, better_in_one_fold_alone, features=features, groups=np.array(patients))
    test_cells_alone = compare_pipelines(result.predictions, ("embeddings", "LR"), random_state=0).iloc[0]
    found = verdict(result).autoencoder
    assert test_cells_alone["low"] > 0
    assert found.helps == "unclear"
    assert found.low < 0 < found.high
    assert found.p > 0.05


def test_the_bootstraps_of_a_verdict_are_drawn_once(monkeypatch):
    result = make_result(*two_laboratories(10), by_features("no"), features=("embeddings", "autoencoder"))
    verdict_lines(result)
    monkeypatch.setattr(verdict_module, "bootstrap_scores", lambda *args, **_: pytest.fail("drawn again"))
    assert advice(result)


@pytest.mark.parametrize(
    ("confidence", "told"),
    [
        (0.99, "too high: their mean is 99%, while 75% of the answers are right"),
        (0.5, "too low: their mean is 50%, while 75% of the answers are right"),
    ],
)
def test_the_advice_says_whether_confidences_are_too_high_or_too_low(confidence, told):
    def half_of_y(label, row, **_):
        return "x" if label == "y" and row % 4 < 2 else label

    labels = ["x"] * 20 + ["y"] * 20
    result = make_result(labels, ["a"] * 40, half_of_y, confidence=confidence)
    (found,) = [one.text for one in advice(result) if one.topic == "calibration"]
    assert told in found
    assert found.startswith("Confidences in held-out cells are")
    assert "that laboratory" not in found
