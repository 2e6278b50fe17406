"""`sam-bloodcell check`, run as a user would."""

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from sam_bloodcell.cli import app
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells


def check(*args):
    return CliRunner().invoke(app, ["check", *map(str, args)])


@pytest.fixture
def table(tmp_path):
    return save_cells(make_blood_cells(6, image_size=32, random_state=0), tmp_path / "cells")


@pytest.mark.parametrize("source", ["cells", "cells/cells.csv"])
def test_good_cells_are_ready(table, tmp_path, source):
    result = check(tmp_path / source)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Cells by laboratory and class:"
    assert "lymphocyte      6      6" in lines
    assert "all            30     30" in lines
    assert lines[-1] == "Ready for benchmark and train."
    assert "reading: 100%" in result.stderr
    assert "\x1b" not in result.stdout


def test_problems_are_listed_counted_and_exit_1(table):
    cells = load_cells(table)
    Path(cells.paths[0]).write_bytes(b"")
    Path(cells.paths[2]).write_bytes(Path(cells.paths[1]).read_bytes())
    result = check(table, "--quiet", "--cv", 7)
    assert result.exit_code == 1
    told = " ".join(result.stdout.split())
    assert "Images that cannot be read: 1 '" in told
    assert f"Images with the same pixels: 2 in 1 set {cells.paths[1]} = {cells.paths[2]} " in told
    assert "or skip them with --on-error skip (in Python: drop_unreadable(cells))." in told
    assert "The laboratory 'lab_a' has 0 classes of at least 7 (--cv) cells, but a benchmark needs two." in told
    assert "lower --cv, or leave the laboratory out." in told
    assert told.endswith("Not ready: 4 problems have to be solved first.")
    assert "cv=" not in told
    assert result.stderr == ""


def test_a_folder_without_laboratories_gets_a_clear_word(table, tmp_path):
    result = check(tmp_path / "cells" / "lab_a", "--quiet")
    assert result.exit_code == 1
    told = " ".join(result.stdout.split())
    assert "Problems: - Got 30 images in " in told
    assert "but one level too high: 'basophil/" in told
    assert "Cells by laboratory and class" not in told


def test_patients_are_shown(table):
    pd.read_csv(table).assign(group=[f"p{row % 6}" for row in range(60)]).to_csv(table, index=False)
    assert "patients  cells_min  cells_median  cells_max  shared" in check(table, "--quiet").stdout


def test_of_many_files_the_first_are_named(table):
    for path in load_cells(table).paths[:15]:
        Path(path).write_bytes(b"")
    assert "\n  and 5 more\n" in check(table, "--quiet").stdout


def test_many_classes_and_laboratories_stay_within_the_width(tmp_path, monkeypatch):
    table = save_cells(make_blood_cells(1, image_size=16, random_state=0), tmp_path)
    rows = pd.read_csv(table, nrows=1)
    pairs = [(f"laboratory {lab:02d}", f"class of cells {code:02d}") for lab in range(30) for code in range(13)]
    every = pd.DataFrame(pairs, columns=["domain", "label"]).assign(path=rows["path"][0])
    every.to_csv(table, index=False)
    monkeypatch.setenv("COLUMNS", "90")
    result = check(table, "--quiet")
    assert result.exit_code == 1
    named = [line for line in result.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, named)) <= 100


def test_what_is_too_little_for_the_default_network_is_no_surprise_of_the_benchmark(tmp_path):
    cells = make_blood_cells(3, classes=["lymphocyte", "monocyte"], image_size=32, random_state=0)
    result = check(save_cells(cells, tmp_path), "--cv", 2, "--quiet")
    assert result.exit_code == 1
    told = " ".join(result.stdout.split())
    assert "the default classifier 'MLP' needs more to stop early" in told
    assert "leave rare classes out, or raise --cv." in told


def test_of_a_large_set_of_copies_the_first_are_named(table):
    paths = load_cells(table).paths[:30]
    for path in paths[1:]:
        Path(path).write_bytes(Path(paths[0]).read_bytes())
    told = check(table, "--quiet").stdout
    assert f"{paths[0]} = {paths[1]} = {paths[2]} and 27 more" in told
    assert paths[20] not in told


def test_a_path_that_is_listed_twice_is_named_with_its_rows(table):
    rows = pd.read_csv(table)
    pd.concat([rows, rows.head(1)]).to_csv(table, index=False)
    told = " ".join(check(table, "--quiet").stdout.split())
    assert f"such as '{load_cells(table).paths[0]}' in the rows 0 and 60." in told
