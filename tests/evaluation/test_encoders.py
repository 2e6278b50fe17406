from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import compare_encoders, run_benchmark
from sam_bloodcell.evaluation.encoders import settings_of_encoders


def cells_of(n, **params):
    return make_blood_cells(n, classes=["lymphocyte", "eosinophil"], random_state=0, **params)


def benchmark_of(cells, shift, classifiers=None, random_state=0):
    """Benchmark an encoder that has seen the classes, the more of them the larger the shift."""
    features = np.random.default_rng(0).normal(size=(len(cells.target), 3)) + shift * cells.target[:, None]
    classifiers = {"LR": LogisticRegression(max_iter=1000)} if classifiers is None else classifiers
    return run_benchmark(
        cells, FunctionTransformer(lambda _: features), None, classifiers, cv=2, random_state=random_state
    )


@pytest.fixture(scope="module")
def results():
    return {"seeing": benchmark_of(cells_of(8), 3), "blind": benchmark_of(cells_of(8), 0)}


@pytest.mark.filterwarnings("error")
def test_encoders_are_compared_with_the_first_on_the_same_cells(results):
    table = compare_encoders(results).set_index("encoder")
    assert table.index.tolist() == ["seeing", "blind"]
    assert set(table["features"]) == {"embeddings"}
    assert table.loc["seeing", "balanced_accuracy"] > table.loc["blind", "balanced_accuracy"] + 0.2
    gap = table.loc["blind", "balanced_accuracy"] - table.loc["seeing", "balanced_accuracy"]
    assert table.loc["blind", "difference"] == pytest.approx(gap)
    assert table.loc["blind", "difference_low"] <= gap <= table.loc["blind", "difference_high"] < 0
    assert table.loc["blind", "p_holm"] < 0.05
    assert table.loc["seeing", ["difference", "difference_low", "difference_high", "p_holm"]].isna().all()


def test_the_default_classifier_is_compared_where_it_was_scored(results):
    classifiers = {"LR": LogisticRegression(max_iter=1000), "LR balanced": LogisticRegression(C=0.1, max_iter=1000)}
    two = {"a": benchmark_of(cells_of(8), 3, classifiers), "b": benchmark_of(cells_of(8), 0, classifiers)}
    assert set(compare_encoders(two)["classifier"]) == {"LR balanced"}
    assert set(compare_encoders(results)["classifier"]) == {"LR"}


def test_the_settings_name_all_encoders(results):
    other = replace(results["blind"], settings={**results["blind"].settings, "embedder": "Blind()", "segmenter": "s"})
    found = settings_of_encoders({"seeing": results["seeing"], "blind": other})
    added = {"encoders": "seeing, blind", "blind: embedder": "Blind()", "blind: segmenter": "s"}
    assert {key: found[key] for key in added} == added
    assert found["embedder"] == results["seeing"].settings["embedder"]
    assert "blind: cv" not in found


def test_one_encoder_or_one_laboratory_cannot_be_compared(results):
    with pytest.raises(ValueError, match="Got 1 encoders but expected two or more"):
        compare_encoders({"seeing": results["seeing"]})
    cells = cells_of(8, domains=["lab_a"])
    with pytest.raises(ValueError, match="Got one laboratory but expected two or more"):
        compare_encoders({"seeing": benchmark_of(cells, 3), "blind": benchmark_of(cells, 0)})


def test_other_cells_are_refused(results):
    with pytest.raises(ValueError, match="Got cells SHA-256"):
        compare_encoders({"seeing": results["seeing"], "blind": benchmark_of(cells_of(6), 0)})


def test_runs_that_are_not_alike_are_refused(results):
    other_seed = benchmark_of(cells_of(8), 3, random_state=1)
    with pytest.raises(ValueError, match=r"Got random_state: 1 for 'other' but 0 for 'seeing'"):
        compare_encoders({"seeing": results["seeing"], "other": other_seed})
    named = benchmark_of(cells_of(8), 0, {"another": LogisticRegression()})
    with pytest.raises(ValueError, match="Got results without a common classifier"):
        compare_encoders({"seeing": results["seeing"], "named": named})
