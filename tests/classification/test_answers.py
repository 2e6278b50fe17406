import pandas as pd
import pytest

from sam_bloodcell.classification.answers import describe_predictions, wrong_answers


@pytest.fixture
def table():
    return pd.DataFrame({
        "path": ["1.png", "2.png", "3.png", "4.png"],
        "label": ["lymphocyte", "monocyte", "monocyte", "platelet"],
        "predicted": ["lymphocyte", "lymphocyte", "monocyte", "lymphocyte"],
        "confidence": [0.9, 0.6, 0.8, 0.7],
        "probability_lymphocyte": [0.9, 0.6, 0.2, 0.7],
        "probability_monocyte": [0.1, 0.4, 0.8, 0.3],
        "unknown": [False, False, False, True],
        "quality_fallback": [False, False, True, False],
        "copy_of": ["train/9.png", "", "", ""],
    })  # fmt: skip


def test_the_answers_are_summed_up(table):
    told = list(describe_predictions(table))
    assert told[0] == "4 cells: 3 lymphocyte, 1 monocyte."
    assert told[1].startswith("Cells unlike the training cells (column unknown): 1.")
    assert told[2].startswith("Images in which no cell was found (column quality_fallback): 1.")
    assert told[3].startswith("Images that look like copies of training cells (column copy_of): 1.")
    assert told[4] == (
        "The balanced accuracy on the given labels is 0.75 on 3 cells whose class the model knows "
        "(recall: lymphocyte 1.00, monocyte 0.50)."
    )
    assert told[5] == "The model does not know the class platelet, so the 1 answer for its cells cannot be right."
    assert told[6] == "Answers that differ from the label: 2. The most confident ones are:"
    assert told[7] == "  4.png: labelled platelet, answered lymphocyte (0.70)"
    assert told[8] == "  2.png: labelled monocyte, answered lymphocyte (0.60)"


def test_cells_without_a_label_are_no_mistakes_of_a_class_that_is_not_known(table):
    some = table.assign(label=["lymphocyte", None, "", "platelet"])
    told = "\n".join(describe_predictions(some))
    assert "the given labels is 1.00 on 1 cell whose class the model knows" in told
    assert "the class platelet, so the 1 answer" in told
    assert "differ from the label: 1." in told


def test_classes_that_are_numbers_are_compared_with_labels_of_a_csv(table):
    numbers = table.assign(label=["0", "1", "1", "0"], predicted=[0, 0, 1, 0], probability_0=0.5, probability_1=0.5)
    numbers = numbers.drop(columns=["probability_lymphocyte", "probability_monocyte"])
    told = "\n".join(describe_predictions(numbers))
    assert "the given labels is 0.75" in told
    assert "differ from the label: 1." in told


def test_without_labels_and_doubts_there_is_one_sentence(table):
    plain = table.drop(columns="label").assign(unknown=False, quality_fallback=False, copy_of="")
    assert list(describe_predictions(plain)) == ["4 cells: 3 lymphocyte, 1 monocyte."]
    assert wrong_answers(plain).empty


def test_missing_labels_are_no_mistakes(table):
    assert wrong_answers(table.assign(label=[None, "", "monocyte", float("nan")])).empty
