"""A new laboratory from the command line: cells to label, their labels, and the adapted model."""

import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from sam_bloodcell import CellClassifier
from sam_bloodcell.cli import app
from sam_bloodcell.datasets import make_blood_cells, save_cells

CLASSES = ["eosinophil", "lymphocyte", "neutrophil"]


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model of two laboratories, the images of a third one in lyon, and their labels in truth.csv."""
    home = tmp_path_factory.mktemp("adapt")
    made = make_blood_cells(14, classes=CLASSES, domains=["lab_a", "lab_b", "lab_c"], random_state=0)
    save_cells(made, home / "cells")
    (home / "cells" / "cells.csv").unlink()
    (home / "lyon").mkdir()
    rows = []
    for path in sorted((home / "cells" / "lab_c").rglob("*[0-9].png")):
        name = f"{path.parent.name}_{path.name}"
        shutil.copy(path, home / "lyon" / name)
        rows.append((f"lyon/{name}", path.parent.name))
    shutil.rmtree(home / "cells" / "lab_c")
    pd.DataFrame(rows, columns=["path", "label"]).to_csv(home / "truth.csv", index=False)
    result = run("train", home / "cells", "--out", home / "model", "--quiet", "--cache-dir", home / "cache")
    assert result.exit_code == 0, result.output
    return home


@pytest.fixture(autouse=True)
def _at_home(home, monkeypatch):
    monkeypatch.chdir(home)


def adapt(*args):
    return run("adapt", "model", *args, "--domain", "lyon", "--quiet", "--cache-dir", "cache")


def labelled(table, path, swapped=False):
    """Fill in a table, as a laboratory would that means other cells by two of the names."""
    truth = pd.read_csv("truth.csv").set_index("path")["label"]
    names = {"eosinophil": "neutrophil", "neutrophil": "eosinophil"} if swapped else {}
    table = pd.read_csv(table)
    table["label"] = [names.get(truth[one], truth[one]) for one in table["path"]]
    table.to_csv(path, index=False)
    return table


@pytest.mark.slow
def test_cells_are_suggested_labelled_and_learned(tmp_path):
    result = adapt("lyon", "--suggest", 32)
    assert result.exit_code == 0, result.output
    assert result.stdout == "to_label.csv\n"
    command = "sam-bloodcell adapt model lyon to_label.csv --domain lyon"
    assert result.stderr.splitlines()[-1] == f"Next: fill in the column label, then: {command}"
    asked = pd.read_csv("to_label.csv", keep_default_na=False)
    assert list(asked.columns) == ["path", "label"]
    assert asked["path"].nunique() == 32
    assert (asked["label"] == "").all()
    given = labelled("to_label.csv", "filled.csv", swapped=True)
    result = adapt("lyon", "filled.csv", "--out", tmp_path / "adapted")
    assert result.exit_code == 0, result.output
    counts = ", ".join(f"{n} {name}" for name, n in given["label"].value_counts().sort_index().items())
    assert "The stain of lyon was learned from 42 cells.\n" in result.stdout
    assert f"Labels used: 32 ({counts}).\n" in result.stdout
    model = CellClassifier.from_pretrained(tmp_path / "adapted")
    temperature = model.temperatures_["lyon"]
    assert f"Temperature of the probabilities of lyon: 1.00 before, {temperature:.2f} now.\n" in result.stdout
    assert result.stdout.endswith(f"{tmp_path / 'adapted'}\n")
    result = run("predict", tmp_path / "adapted", "lyon", "--domain", "lyon", "--out", tmp_path / "p.csv", "--quiet")
    assert result.exit_code == 0, result.output
    answers = pd.read_csv(tmp_path / "p.csv")
    assert answers.loc[answers["path"].str.contains("neutrophil_"), "predicted"].value_counts().idxmax() == "eosinophil"
    shutil.move("to_label.csv", tmp_path)


def test_cells_that_have_a_label_are_not_suggested_again():
    result = adapt("lyon", "--suggest", 5, "--out", "five.csv")
    assert result.exit_code == 0, result.output
    first = labelled("five.csv", "five_filled.csv")["path"].tolist()
    result = adapt("lyon", "five_filled.csv", "--suggest", 37, "--out", "others.csv")
    assert result.exit_code == 0, result.output
    assert not set(first) & set(pd.read_csv("others.csv")["path"])
    result = adapt("lyon", "five_filled.csv", "--suggest", 38, "--out", "more.csv")
    assert result.exit_code == 1
    assert "38 (--suggest) but 37 cells without a label. Fix: --suggest 37 or fewer." in result.stderr


def test_a_table_elsewhere_names_its_images_and_the_root_to_read_it(home, tmp_path):
    result = adapt("lyon", "--suggest", 2, "--out", tmp_path / "two.csv")
    assert result.exit_code == 0, result.output
    paths = pd.read_csv(tmp_path / "two.csv")["path"]
    assert all((tmp_path / path).exists() for path in paths)
    root = result.stderr.splitlines()[-1].rpartition("--root ")[2]
    table = pd.read_csv(tmp_path / "two.csv").assign(label=["neutrophil", ""])
    table.to_csv(tmp_path / "two.csv", index=False)
    result = adapt("lyon", tmp_path / "two.csv", "--root", root, "--out", tmp_path / "adapted")
    assert result.exit_code == 0, result.output
    assert "Labels used: 1 (1 neutrophil).\nClasses without a label: eosinophil, lymphocyte." in result.stdout
    assert "1.00 before, 1.00 now (it is fitted with 30 or more labels)." in result.stdout


def test_without_labels_the_stain_alone_is_learned(tmp_path):
    result = adapt("lyon", "--out", tmp_path / "adapted")
    assert result.exit_code == 0, result.output
    assert "learned from 42 cells.\nNo cell has a label, so the classifier is the same as before." in result.stdout
    assert CellClassifier.from_pretrained(tmp_path / "adapted").temperatures_ == {}


def test_folders_of_classes_are_labels(tmp_path):
    for path, label in pd.read_csv("truth.csv").itertuples(index=False):
        (tmp_path / "sorted" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "sorted" / label)
    result = adapt(tmp_path / "sorted", "--out", tmp_path / "adapted")
    assert result.exit_code == 0, result.output
    assert "Labels used: 42 (14 eosinophil, 14 lymphocyte, 14 neutrophil)." in result.stdout
    assert "Every cell has a label. If you have other cells of the laboratory, also pass them" in result.stdout
    shutil.move(tmp_path / "sorted" / "neutrophil", tmp_path / "sorted" / "blast")
    result = adapt(tmp_path / "sorted", "--out", tmp_path / "other")
    assert "got the label 'blast' but the model knows eosinophil, lymphocyte, neutrophil." in result.stderr


@pytest.mark.filterwarnings("default:1 of 4. images cannot be read")
def test_images_that_cannot_be_read_are_left_out_when_asked(tmp_path):
    shutil.copytree("lyon", tmp_path / "lyon")
    broken = sorted((tmp_path / "lyon").iterdir())[3]
    broken.write_bytes(b"no image")
    result = adapt(tmp_path / "lyon", "--out", tmp_path / "adapted")
    assert result.exit_code == 1
    assert broken.name in result.stderr
    result = adapt(tmp_path / "lyon", "--suggest", 41, "--out", tmp_path / "41.csv", "--on-error", "skip")
    assert result.exit_code == 0, result.output
    assert broken.name in result.stderr
    assert " --on-error skip" in result.stderr.split("Next: ")[1]
    suggested = pd.read_csv(tmp_path / "41.csv")["path"].tolist()
    assert len(suggested) == 41
    assert f"lyon/{broken.name}" not in suggested
    table = pd.DataFrame({"path": [f"lyon/{broken.name}", suggested[0]], "label": "neutrophil"})
    table.to_csv(tmp_path / "two.csv", index=False)
    sources = (tmp_path / "lyon", tmp_path / "two.csv")
    result = adapt(*sources, "--out", tmp_path / "adapted", "--on-error", "skip")
    assert result.exit_code == 0, result.output
    assert broken.name in result.stderr
    assert "learned from 41 cells.\nLabels used: 1 (1 neutrophil).\n" in result.stdout


@pytest.mark.parametrize(
    ("header", "labels", "message"),
    [
        ("label", ["neutrophil", "blast"], "row 1 ("),
        ("label", ["neutrophil", "blast"], "got the label 'blast' but the model knows eosinophil, lymphocyte"),
        ("label", ["Neutrophil", ""], "Fix: write neutrophil."),
        ("label", ["", " "], "without any label. Fix: fill in the column label"),
        ("Label", ["neutrophil", ""], "has the column 'Label'. Fix: write label."),
    ],
)
def test_a_table_that_cannot_be_learned_is_told_in_one_line(header, labels, message, tmp_path):
    paths = pd.read_csv("truth.csv")["path"][:2]
    pd.DataFrame({"path": paths, header: labels}).to_csv("bad.csv", index=False)
    result = adapt("lyon", "bad.csv", "--out", tmp_path / "adapted")
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "adapted" / "pipeline.skops").exists()


def test_two_labels_of_a_cell_are_told(tmp_path):
    path = pd.read_csv("truth.csv")["path"][0]
    pd.DataFrame({"path": [path, path], "label": ["neutrophil", "eosinophil"]}).to_csv("two.csv", index=False)
    result = adapt("two.csv", "--out", tmp_path / "adapted")
    assert "has the labels 'neutrophil' and 'eosinophil'. Fix: keep one of them." in result.stderr


def test_nothing_is_replaced_unasked(tmp_path):
    (tmp_path / "labels.csv").write_text("precious")
    result = adapt("lyon", "--suggest", 3, "--out", tmp_path / "labels.csv")
    assert "labels.csv' exists, perhaps with labels. Fix: --overwrite, or another name." in result.stderr
    assert (tmp_path / "labels.csv").read_text() == "precious"
    result = adapt("lyon", "--out", "model")
    assert "pipeline.skops' exists. Fix: --overwrite" in result.stderr
    result = adapt("truth.csv", "--suggest", 3, "--out", "truth.csv", "--overwrite")
    assert "as input and output" in result.stderr
    result = adapt("lyon", "--suggest", 3, "--out", "labels.xlsx")
    assert "expected a name that ends in .csv" in result.stderr


@pytest.mark.parametrize(
    ("name", "message"), [("lab_a", "a laboratory that the model was trained on"), (" lyon", "Fix:")]
)
def test_a_name_that_cannot_be_learned_is_told_before_cells_are_labelled(name, message, tmp_path):
    result = run(
        "adapt", "model", "lyon", "--domain", name, "--suggest", 3, "--out", tmp_path / "labels.csv", "--quiet"
    )
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "labels.csv").exists()
