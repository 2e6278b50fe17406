"""A model from the command line: trained on two laboratories, asked about a third."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from sam_bloodcell import CellClassifier
from sam_bloodcell.cli import app
from sam_bloodcell.datasets import make_blood_cells, save_cells

CLASSES = ["eosinophil", "lymphocyte", "neutrophil"]


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two laboratories in the folder cells, a third one in lyon, and a model of the two."""
    folder = tmp_path_factory.mktemp("newcomer")
    made = make_blood_cells(8, classes=CLASSES, domains=["lab_a", "lab_b", "lab_c"], random_state=0)
    save_cells(made, folder / "cells")
    (folder / "cells" / "cells.csv").unlink()
    shutil.move(folder / "cells" / "lab_c", folder / "lyon")
    # Two cells lie in the wrong class.
    for number, name in enumerate(
        sorted(path.name for path in (folder / "lyon" / "eosinophil").glob("*[0-9].png"))[:2]
    ):
        shutil.move(folder / "lyon" / "eosinophil" / name, folder / "lyon" / "lymphocyte" / f"wrong{number}.png")
    result = run("train", folder / "cells", "--out", folder / "model", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'model'}\n"
    return folder


def test_a_third_laboratory_is_predicted_and_the_wrong_ones_are_named_and_drawn(folder, tmp_path):
    out = tmp_path / "predictions.csv"
    result = run("predict", folder / "model", folder / "lyon", "--domain", "lyon", "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    assert table["domain"].unique().tolist() == ["lyon"]
    wrong = table[table["label"] != table["predicted"]]
    assert {"wrong0.png", "wrong1.png"} <= {path.rsplit("/")[-1] for path in wrong["path"]}
    assert (table["label"] == table["predicted"]).mean() > 0.8
    assert f"Answers that differ from the label: {len(wrong)}." in result.stdout
    assert "wrong0.png: labelled lymphocyte, answered eosinophil" in result.stdout
    with Image.open(tmp_path / "predictions_mistakes.png") as picture:
        assert picture.width > 300


@pytest.mark.slow
def test_a_model_is_trained_on_stain_views(folder, tmp_path):
    result = run("train", folder / "cells", "--out", tmp_path / "model", "--stain-views", 1, "--quiet")
    assert result.exit_code == 0, result.output
    model = CellClassifier.from_pretrained(tmp_path / "model")
    assert model.n_stain_views == 1
    assert model.pipeline_[-1][0].n_samples_seen_ == 2 * len(model.training_labels_) == 96
    result = run("predict", tmp_path / "model", folder / "lyon", "--domain", "lyon", "--out", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "p.csv")) == 24
    assert run("train", folder / "cells", "--out", tmp_path / "no", "--stain-views", -1).exit_code == 2


def test_images_without_labels_are_predicted_to_parquet(folder, tmp_path):
    (tmp_path / "flat").mkdir()
    for path in (folder / "lyon").rglob("*[0-9].png"):
        shutil.copy(path, tmp_path / "flat")
    result = run("predict", folder / "model", tmp_path / "flat", "--domain", "lyon", "--out", tmp_path / "p.parquet")
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert "label" not in table
    assert len(table) == 24
    assert not (tmp_path / "p_mistakes.png").exists()


@pytest.mark.slow
def test_laboratories_of_the_folders_are_those_of_the_training(folder, tmp_path):
    result = run("predict", folder / "model", folder / "cells", "--out", tmp_path / "p.csv", "--quiet")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["domain"].unique().tolist() == ["lab_a", "lab_b"]
    assert (table["copy_of"] == table["path"]).all()
    assert "Images that look like copies of training cells (column copy_of): 48." in result.stdout


def test_the_model_and_python_agree(folder, tmp_path):
    out = tmp_path / "p.csv"
    run("predict", folder / "model", folder / "lyon", "--domain", "lyon", "--out", out, "--quiet")
    table = pd.read_csv(out)
    classifier = CellClassifier.from_pretrained(folder / "model")
    again = classifier.predict_table(table[["path", "label", "domain"]])
    np.testing.assert_allclose(again["confidence"], table["confidence"], atol=1e-6)
    assert again["predicted"].tolist() == table["predicted"].tolist()


def test_options_reach_the_embedder(folder, tmp_path):
    args = ("--domain", "lyon", "--device", "cpu", "--batch-size", 3, "--n-jobs", 1, "--cache-dir", tmp_path / "cache")
    result = run("predict", folder / "model", folder / "lyon", "--out", tmp_path / "p.csv", "--quiet", *args)
    assert result.exit_code == 0, result.output
    assert any((tmp_path / "cache").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("default:1 of 25 images cannot be read")
def test_an_unreadable_image_stops_or_is_skipped(folder, tmp_path):
    shutil.copytree(folder / "lyon", tmp_path / "lyon")
    (tmp_path / "lyon" / "lymphocyte" / "broken.png").write_bytes(b"no image")
    args = ("predict", folder / "model", tmp_path / "lyon", "--domain", "lyon", "--out", tmp_path / "p.csv", "--quiet")
    result = run(*args)
    assert result.exit_code == 1
    assert "broken.png" in result.output
    assert not (tmp_path / "p.csv").exists()
    result = run(*args, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    assert "Warning: 1 of 25 images cannot be read" in result.output
    assert len(pd.read_csv(tmp_path / "p.csv")) == 24


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("predict", "no_model", "lyon"), "Got 'no_model', which is neither a folder nor a repo id"),
        (("predict", "model", "nowhere"), "'nowhere' does not exist"),
        (("predict", "cells", "lyon"), "'cells' is not the folder of a saved pipeline: it lacks pipeline.skops"),
        (("predict", "model", "lyon", "--out", "p.xlsx"), "expected a name that ends in .csv or .parquet"),
        (("predict", "model", "lyon", "--out", "model/README.md"), "expected a name that ends in .csv or .parquet"),
        (("train", "nowhere"), "'nowhere' does not exist"),
        (
            ("train", "cells", "--classes", "lymphocyte", "--out", "other"),
            "Got one class, 'lymphocyte', but expected two or more",
        ),
        (("train", "cells", "--out", "model/README.md"), "README.md"),
        (("train", "cells", "--out", "model"), "pipeline.skops' exists. Fix: --overwrite"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(folder, monkeypatch, args, message):
    monkeypatch.chdir(folder)
    result = run(*args)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]


def test_predictions_are_not_overwritten_unasked(folder, tmp_path):
    (tmp_path / "p.csv").write_text("precious")
    result = run("predict", folder / "model", folder / "lyon", "--out", tmp_path / "p.csv")
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert "overwrite=True" not in result.output
    assert (tmp_path / "p.csv").read_text() == "precious"
