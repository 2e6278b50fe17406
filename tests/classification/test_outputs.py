import pandas as pd
import pytest

from sam_bloodcell.classification.outputs import (
    check_model_folder,
    check_names,
    check_predictions_file,
    write_predictions,
)


@pytest.fixture
def table():
    return pd.DataFrame({
        "path": ["1.png", "2.png", "3.png", "4.png"],
        "predicted": ["lymphocyte", "lymphocyte", "monocyte", "lymphocyte"],
        "confidence": [0.9, 0.6, 0.8, 0.7],
        "unknown": [False, False, False, True],
        "copy_of": ["train/9.png", "", "", ""],
    })  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_file_comes_back(table, tmp_path, suffix):
    path, picture = check_predictions_file(tmp_path / "new" / f"answers{suffix}", overwrite=False)
    assert picture == tmp_path / "new" / "answers_mistakes.png"
    write_predictions(table, path)
    back = pd.read_csv(path, keep_default_na=False) if suffix == ".csv" else pd.read_parquet(path)
    pd.testing.assert_frame_equal(back, table)


@pytest.mark.parametrize("name", ["a.csv", "a_mistakes.png"])
def test_files_are_not_overwritten_unasked(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=rf"{name}' exists. Fix: overwrite=True"):
        check_predictions_file(tmp_path / "a.csv", overwrite=False)
    check_predictions_file(tmp_path / "a.csv", overwrite=True)
    assert (tmp_path / name).read_text() == "precious"


def test_no_file_is_written_among_the_images(tmp_path):
    (tmp_path / "lyon").mkdir()
    with pytest.raises(ValueError, match=r"inside the folder .* would be read as cells"):
        check_predictions_file(tmp_path / "lyon" / "a.csv", [tmp_path / "lyon"], overwrite=False)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in \.csv or \.parquet\. Fix: write to a\.csv\."):
        check_predictions_file(tmp_path / "a.xlsx", overwrite=False)


def test_names_that_no_format_can_hold_are_refused(table):
    check_names(table)
    with pytest.raises(ValueError, match=r"Row 1: the path b'\\xff.png' is not UTF-8"):
        check_names(table.assign(path=["1.png", "\udcff.png", "3.png", "4.png"]))


def test_a_model_replaces_nothing_unasked(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "model").mkdir()
    check_model_folder(tmp_path / "model", tmp_path / "cells", overwrite=False)
    (tmp_path / "model" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README\.md' exists in the place of the model card"):
        check_model_folder(tmp_path / "model", tmp_path / "cells", overwrite=True)
    (tmp_path / "model" / "pipeline.skops").write_text("")
    with pytest.raises(FileExistsError, match=r"pipeline\.skops' exists. Fix: overwrite=True"):
        check_model_folder(tmp_path / "model", tmp_path / "cells", overwrite=False)
    check_model_folder(tmp_path / "model", tmp_path / "cells", overwrite=True)
    with pytest.raises(ValueError, match="would be read as cells"):
        check_model_folder(tmp_path / "cells" / "model", tmp_path / "cells", overwrite=True)
