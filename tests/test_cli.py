"""The command line, run as a user would."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.cli import app
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_demo_writes_table_and_report(tmp_path):
    result = run("demo", "--out", tmp_path, "--cells-per-class", 6, "--epochs", 1, "--cv", 2, "--quiet")
    assert result.exit_code == 0, result.output
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(scores["features"]) == {"embeddings", "autoencoder"}
    assert set(scores["train_domain"]) == set(scores["test_domain"]) == {"lab_a", "lab_b"}
    assert {"RF", "SVM rbf", "MLP", "XGBoost"} <= set(scores["classifier"])
    assert "<img" in (tmp_path / "report.html").read_text()
    assert "report.html" in result.output


def test_benchmark_keeps_the_classes_asked_for(tmp_path):
    table = save_cells(make_blood_cells(6, random_state=0), tmp_path / "cells")
    args = ("--classes", "lymphocyte,monocyte", "--cv", 2, "--epochs", 1, "--quiet")
    result = run("benchmark", table, "--out", tmp_path / "out", *args)
    assert result.exit_code == 0, result.output
    assert "left out: 12 cells of class neutrophil" in result.output
    assert (pd.read_csv(tmp_path / "out" / "scores.csv")["n_classes"] == 2).all()


@pytest.mark.filterwarnings("always")
def test_benchmark_leaves_unreadable_images_out_when_told_to(tmp_path):
    table = save_cells(make_blood_cells(4, random_state=0), tmp_path / "cells")
    bad = Path(load_cells(table).paths[5])
    bad.write_bytes(b"no image")
    args = ("benchmark", table, "--out", tmp_path / "out", "--cv", 2, "--epochs", 1, "--quiet")
    result = run(*args)
    assert result.exit_code == 1
    assert f"Error: Row 5: '{bad}' is no image that can be read here (8 bytes). Fix:" in result.output
    result = run(*args, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    assert "Warning: 1 of 40 images cannot be read and are left out (rows 5); the first: " in result.output
    result = run(*args, "--on-error", "nan")
    assert "Error: Got 'nan' but expected one of raise, skip." in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("benchmark", "nowhere.csv"), "'nowhere.csv' does not exist. Fix:"),
        (("download", "vit_x"), "Got backbone='vit_x' but expected one of vit_tiny, vit_b"),
    ],
)
def test_errors_are_one_line_and_exit_1(args, message):
    result = run(*args)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_help_shows_an_example_of_every_command():
    assert run("--help").exit_code == 0
    for command in ("demo", "benchmark", "download", "convert"):
        assert f"Example: sam-bloodcell {command}" in run(command, "--help").output


@pytest.mark.cells
@pytest.mark.filterwarnings("default:Left out classes")
def test_benchmark_on_real_cells(cells_root, tmp_path):
    """A few cells of each class from the three real laboratories: the 3x3 table, and rare classes said."""
    table = pd.read_csv(cells_root / "cells.csv", keep_default_na=False)
    table["path"] = [str(cells_root / path) for path in table["path"]]
    table["mask"] = ""
    few = table.groupby(["domain", "label"], sort=False).head(12)
    few.to_csv(tmp_path / "cells.csv", index=False)
    classes = "neutrophil,lymphocyte,monocyte,eosinophil,basophil"
    args = ("--root", cells_root, "--classes", classes, "--out", tmp_path / "out", "--epochs", 1, "--quiet")
    result = run("benchmark", tmp_path / "cells.csv", *args)
    assert result.exit_code == 0, result.output
    assert "Warning: Left out classes with fewer than cv=5 cells" in result.output
    assert "'basophil' of domain 'tecom' (1 cell)" in result.output
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"intervals.csv", "recall_by_class.csv", "provenance.json", "report.html", "figures"} <= made
    labs = {"acevedo", "cellavision", "tecom"}
    assert set(zip(scores["train_domain"], scores["test_domain"], strict=True)) == {(a, b) for a in labs for b in labs}
    assert (scores.groupby(["features", "classifier", "train_domain", "test_domain"]).size() == 5).all()
    # tecom has one basophil, cellavision three: too few for five folds.
    trained_on_tecom = scores[(scores["train_domain"] == "tecom") & (scores["test_domain"] == "acevedo")]
    assert (trained_on_tecom["n_left_out"] == 12).all()
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_download_fetches_for_later_offline_use(hub_server, in_subprocess):
    save_file({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 2)}, hub_server.folder("lab/sam") / "model.safetensors")
    code = "from sam_bloodcell.cli import app; app(['download', 'lab/sam'])"
    fetched = Path(in_subprocess(code, HF_ENDPOINT=hub_server.url).strip())
    assert fetched.is_file()
    assert in_subprocess(code, HF_ENDPOINT=hub_server.url, HF_HUB_OFFLINE="1").strip() == str(fetched)


def test_embed_writes_a_file_and_goes_on_only_when_asked(tmp_path):
    table = save_cells(make_blood_cells(1, random_state=0), tmp_path / "cells")
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "cells.parquet"
    args = ("embed", table, tmp_path / "bad.png", "--out", out, "--quiet")
    assert "Row 10: " in run(*args).output
    result = run(*args, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    written = pd.read_parquet(out)
    assert written.shape == (10, 4 + 5 + 192)
    assert written["domain"].value_counts().to_dict() == {"lab_a": 5, "lab_b": 5}
    assert len(pd.read_csv(f"{out}.errors.csv")) == 1
    again = run(*args, "--on-error", "skip")
    assert again.exit_code == 1
    assert "--overwrite" in again.output


def test_a_cache_is_shown_and_pruned(tmp_path):
    images = make_blood_cells(1, random_state=0).images
    SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache").fit(images).transform(images)
    shown = run("cache", "info", tmp_path / "cache").output
    assert "vit_tiny" in shown
    assert " 10 " in shown
    assert "expected a size" in run("cache", "prune", tmp_path / "cache", "--to", "much").output
    assert run("cache", "prune", tmp_path / "cache", "--to", "0").output.endswith("MB freed.\n")
    assert "empty" in run("cache", "info", tmp_path / "cache").output
