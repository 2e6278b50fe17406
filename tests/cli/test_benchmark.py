"""What `sam-bloodcell benchmark` writes and prints: tables, the verdict in words, advice, and the list of files."""

import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch
from typer.testing import CliRunner

from sam_bloodcell import report
from sam_bloodcell.cli import app
from sam_bloodcell.cli.benchmark import TABLES, print_headlines
from sam_bloodcell.cli.predict import predict
from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.evaluation import benchmark, run_benchmark


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of cells, the output folder and the printed text of one benchmark."""
    folder = tmp_path_factory.mktemp("benchmark")
    drawn = make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0)
    table = save_cells(drawn, folder / "cells")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "default_classifiers", lambda seed: {"LR": LogisticRegression()})
        args = ["benchmark", table, "--out", folder / "out", "--cv", 2, "--quiet"]
        result = CliRunner().invoke(app, list(map(str, args)))
    assert result.exit_code == 0, result.output
    return table, folder / "out", result.stdout


def test_every_answer_of_the_recommended_classifier_is_written(written):
    table, out, _ = written
    cells = pd.read_csv(table)
    found = pd.read_csv(out / "benchmark_predictions.csv")
    assert list(found.columns) == [
        "path", "domain", "label", "train_domain", "fold", "predicted", "confidence", "known"
    ]  # fmt: skip
    n_domains = cells["domain"].nunique()
    assert len(found) == len(cells) * (1 + 2 * (n_domains - 1))
    truth = {(table.parent / path).resolve(): label for path, label in zip(cells["path"], cells["label"], strict=True)}
    assert all(truth[(table.parent / path).resolve()] == label for path, label in found[["path", "label"]].to_numpy())
    assert found["confidence"].between(0, 1).all()
    assert found["known"].all()


def test_the_verdict_is_printed_in_words_behind_the_numbers(written):
    text = " ".join(written[2].split())
    weakest = "Weakest class: " if "Weakest class: " in text else "No class is weak: "  # if each has a recall of 1
    parts = (
        "Mean scores over", "Recall of each class", "Verdict - Recommended: LR on the ", "Within laboratories:",
        "Across laboratories:", "Weakest direction: ", weakest, "Autoencoder:", "What to do - ",
        "Add a column group", "Files ",
    )  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_every_file_is_listed(written):
    _, out, text = written
    listed = {line.split("  ")[0] for line in text.partition("\nFiles\n")[2].splitlines()}
    assert listed == {str(path) for path in out.iterdir()}
    not_there = {"label_curve.csv", "encoders.csv"}  # too few cells, and one encoder
    assert {str(out / name) for name in TABLES.keys() - not_there} < listed


def test_the_tables_are_named_as_in_the_report_and_not_as_the_file_of_predict():
    templates = "".join(path.read_text("utf-8") for path in Path(report.__file__).parent.glob("*.j2"))
    named = set(re.findall(r"\w+\.csv", templates))
    assert "benchmark_predictions.csv" in named
    assert named <= TABLES.keys()
    assert inspect.signature(predict).parameters["out"].default.name not in TABLES


def test_a_table_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    (tmp_path / "out" / "benchmark_predictions.csv").mkdir(parents=True)
    monkeypatch.setattr(benchmark, "check_plan", lambda *args: pytest.fail("the work began"))
    result = CliRunner().invoke(app, ["benchmark", str(table), "--out", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 1
    assert "benchmark_predictions.csv" in result.output


@pytest.mark.slow
def test_the_numbers_fit_on_a_screen_with_many_classes_and_classifiers(capsys):
    rng = np.random.default_rng(0)
    target = np.tile(np.arange(20), 20)
    X = rng.normal(size=(400, 20)) + 9 * np.eye(20)[target]
    cells = Bunch(images=X, target=target, target_names=[f"class {i}" for i in range(20)], domain=list("abcd") * 100)
    cells.domain = np.repeat(list("abcd"), 100)
    named = {f"LR {i}": LogisticRegression(max_iter=50) for i in range(8)}
    print_headlines(run_benchmark(cells, FunctionTransformer(), None, named, cv=2, random_state=0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert "(2 more in intervals.csv)" in lines
    assert "(14 more in recall_by_class.csv)" in lines
