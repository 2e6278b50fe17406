import numpy as np
import pandas as pd
import pytest

from sam_bloodcell.reproduce.published import compare_with_published, published_results


def test_published_numbers_average_as_published():
    averages = {"RF": 58.86, "SVM poly": 59.85, "XGBoost": 63.00, "SVM rbf": 63.20, "MLP": 63.54}
    means = published_results("bc-sam").groupby("classifier")["published"].mean()
    for name, average in averages.items():
        assert means[name] == pytest.approx(average, abs=0.02)
    means = published_results("dorl").groupby("classifier")["published"].mean()
    assert means["SVM linear"] == pytest.approx(75.23, abs=0.02)
    assert means["MLP"] == pytest.approx(73.97, abs=0.02)
    with pytest.raises(ValueError, match=r"Got paper='third' but expected one of bc-sam, dorl\. Fix: paper="):
        published_results("third")


def test_the_notebook_of_dorl_prints_other_numbers_than_the_paper():
    printed = published_results("dorl").set_index("classifier")["notebook"]
    assert printed["SVM linear"].mean() == pytest.approx(71.6, abs=0.03)
    assert printed["MLP"].isna().all()
    assert published_results("bc-sam")["notebook"].isna().all()


def scores_of(paper, accuracies):
    """Scores of two folds with these accuracies, of all classifiers and pairs."""
    rows = published_results(paper)[["classifier", "train_domain", "test_domain"]]
    return pd.concat([rows.assign(fold=fold, accuracy_all=value) for fold, value in enumerate(accuracies)])


def test_ours_stand_beside_the_published_ones_in_standard_deviations_of_folds():
    table = compare_with_published(published_results("dorl"), scores_of("dorl", [0.60, 0.70]))
    row = table.set_index(["classifier", "train_domain", "test_domain"]).loc["SVM linear", "matek-19", "acevedo-20"]
    assert row["ours"] == pytest.approx(65)
    assert row["spread"] == pytest.approx(5)  # ddof 0, as in the notebooks
    assert row["difference"] == pytest.approx(65 - 63.18)
    assert row["in_spreads"] == pytest.approx((65 - 63.18) / 5)
    assert row["notebook_difference"] == pytest.approx(65 - 61.25)
    assert row["notebook_in_spreads"] == pytest.approx((65 - 61.25) / 5)


def test_without_a_spread_a_difference_has_no_unit():
    table = compare_with_published(published_results("bc-sam"), scores_of("bc-sam", [0.5, 0.5]))
    assert np.isfinite(table["difference"]).all()
    assert table["in_spreads"].isna().all()
    assert "notebook" not in table
