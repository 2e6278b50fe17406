import pandas as pd
import pytest

from sam_bloodcell.classification.answers import (
    check_predictions_file,
    describe_predictions,
    write_predictions,
    wrong_answers,
)


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
    assert told[1].startswith("1 of them are unlike the training cells")
    assert told[2].startswith("In 1 no cell was found")
    assert told[3].startswith("1 look like copies of training cells")
    assert told[4].endswith("of the 3 cells whose class the model knows, the balanced accuracy is 0.75.")
    assert told[5] == "The model knows no class platelet: all 1 answers for these are wrong."
    assert told[6] == "2 answers differ from the label; the most confident ones are:"
    assert told[7:] == [
        "  4.png: platelet, answered lymphocyte (0.70)",
        "  2.png: monocyte, answered lymphocyte (0.60)",
    ]


def test_without_labels_and_doubts_there_is_one_sentence(table):
    plain = table.drop(columns="label").assign(unknown=False, quality_fallback=False, copy_of="")
    assert list(describe_predictions(plain)) == ["4 cells: 3 lymphocyte, 1 monocyte."]
    assert wrong_answers(plain).empty


def test_missing_labels_are_no_mistakes(table):
    assert wrong_answers(table.assign(label=[None, "", "monocyte", float("nan")])).empty


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_file_comes_back(table, tmp_path, suffix):
    path = check_predictions_file(tmp_path / "new" / f"answers{suffix}", overwrite=False)
    write_predictions(table, path)
    back = pd.read_csv(path, keep_default_na=False) if suffix == ".csv" else pd.read_parquet(path)
    pd.testing.assert_frame_equal(back, table)


def test_a_file_is_not_overwritten_unasked(tmp_path):
    (tmp_path / "a.csv").write_text("precious")
    with pytest.raises(FileExistsError, match=r"a\.csv' exists. Fix: overwrite=True"):
        check_predictions_file(tmp_path / "a.csv", overwrite=False)
    assert check_predictions_file(tmp_path / "a.csv", overwrite=True) == tmp_path / "a.csv"
    assert (tmp_path / "a.csv").read_text() == "precious"


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in \.csv or \.parquet"):
        check_predictions_file(tmp_path / "a.xlsx", overwrite=False)
