"""Cells examined before anything is embedded."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.utils import Bunch

from sam_bloodcell.datasets import COMMON_CLASSES, Cells, examine_cells, load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import default_classifiers
from sam_bloodcell.evaluation.protocol import check_plan


def cells_of(numbers, groups=None):
    """Cells of one pixel, each of another colour: {(domain, label): number}."""
    rows = [pair for pair, n in numbers.items() for _ in range(n)]
    names = sorted({label for _, label in rows})
    return Cells(
        images=[np.array([[[row // 250, row % 250, 7]]], np.uint8) for row in range(len(rows))],
        target=np.array([names.index(label) for _, label in rows]),
        target_names=names,
        domain=np.array([domain for domain, _ in rows]),
        group=None if groups is None else np.asarray(groups),
    )


def texts(found):
    return "\n".join(finding.text for finding in found.findings)


@pytest.fixture
def table(tmp_path):
    drawn = make_blood_cells(20, classes=["lymphocyte", "monocyte"], image_size=32, random_state=0)
    return save_cells(drawn, tmp_path)


def test_good_cells_are_ready_and_counted(table):
    found = examine_cells(table)
    assert found.ready
    assert found.problems == []
    assert found.counts.to_dict("index") == {lab: {"lymphocyte": 20, "monocyte": 20} for lab in ("lab_a", "lab_b")}
    assert found.images["readable"].tolist() == [40, 40]
    assert (found.images[["width_min", "width_max", "height_min", "height_max"]] == 32).all(axis=None)
    assert found.patients is None
    assert (len(found.unreadable), len(found.copies)) == (0, 0)
    assert [finding.text.split(".")[0] for finding in found.findings] == ["The patients are not known"]


def test_a_bunch_a_table_and_a_folder_are_examined_alike(table):
    found = [examine_cells(source) for source in (load_cells(table), table, str(table), table.parent)]
    for other in found[1:]:
        pd.testing.assert_frame_equal(other.counts, found[0].counts)
        pd.testing.assert_frame_equal(other.images, found[0].images)
        # The folder also contains the table, which is not an image.
        assert [each for each in other.findings if not each.text.startswith("Files of the")] == found[0].findings


def test_unreadable_files_are_named_with_the_reason_and_stop_a_benchmark(table):
    cells = load_cells(table)
    Path(cells.paths[3]).write_bytes(b"no image")
    found = examine_cells(cells)
    assert not found.ready
    assert found.unreadable["row"].tolist() == [3]
    assert found.unreadable["path"].tolist() == [cells.paths[3]]
    assert "is not a readable image (8 bytes)" in found.unreadable["reason"][0]
    assert found.problems[0].endswith("or skip them with on_error='skip' (in Python: drop_unreadable(cells)).")
    assert found.images["readable"].sum() == 79
    assert found.problems[0].startswith(f"1 image cannot be read, such as '{cells.paths[3]}'. Fix: ")


def test_copies_are_found_by_their_pixels_within_and_across_laboratories_and_classes(table):
    cells = load_cells(table)
    rows = {lab: [i for i, path in enumerate(cells.paths) if f"{lab}/{label}" in path] for lab in ("lab_a", "lab_b")
            for label in ("lymphocyte",)}  # fmt: skip
    a, b = rows["lab_a"], rows["lab_b"]
    mono = next(row for row, label in enumerate(cells.labels) if label == "monocyte" and cells.domain[row] == "lab_a")
    Image.open(cells.paths[a[0]]).save(cells.paths[a[1]], compress_level=1)  # other bytes, the same pixels
    Image.open(cells.paths[a[2]]).save(cells.paths[b[0]])
    Image.open(cells.paths[a[3]]).save(cells.paths[mono])
    found = examine_cells(cells)
    sets = found.copies.groupby("copy")["row"].agg(set).tolist()
    assert sorted(map(sorted, sets)) == sorted(map(sorted, [{a[0], a[1]}, {a[2], b[0]}, {a[3], mono}]))
    told = texts(found)
    assert "4 images are copies of one another in one laboratory, such as " in told
    assert "2 images are copies of one another in different laboratories, such as " in told
    assert "2 images are copies of one another with different classes, such as " in told
    assert found.ready, "copies do not stop a benchmark"


def test_sizes_colours_grey_alpha_and_depth_are_told_by_laboratory(tmp_path):
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(10, 20), (30, 40)]):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        pixels[..., 0] = 200
        path = tmp_path / "a" / "lym" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    folder = tmp_path / "b" / "lym"
    folder.mkdir(parents=True)
    Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / "1.png")
    Image.fromarray(rng.integers(20000, 65535, (8, 8), dtype=np.uint16)).save(folder / "2.png")
    Image.fromarray(np.full((8, 8, 4), (9, 99, 9, 200), np.uint8)).save(folder / "3.png")
    found = examine_cells(tmp_path)
    assert found.images.loc["a", ["width_min", "width_max", "height_min", "height_max"]].tolist() == [10, 30, 20, 40]
    assert found.images.loc["a", "red"] == 200
    assert found.images.loc["b", ["grey", "alpha", "deep"]].tolist() == [2, 1, 1]
    told = texts(found)
    assert "There are images without colour. " in told
    assert ": 2 of 3 in 'b'." in told
    assert "with an alpha channel. Their transparent pixels are read as white: 1 of 3 in 'b'." in told
    assert "with more than 8 bits per value." in told


def test_classes_that_do_not_match_are_told():
    found = examine_cells(cells_of({("a", "lym"): 9, ("a", "Blast"): 9, ("b", "lym"): 9, ("b", "blasts"): 9}))
    told = texts(found)
    assert "Different classes have names that look alike: 'Blast' and 'blasts'. Fix: give one label" in told
    assert "Only 'a' has the class 'Blast' (9), which no other laboratory can test. Fix: " in told
    assert "Only 'b' has the class 'blasts' (9), which" in told


def test_what_is_too_few_is_told_with_numbers():
    found = examine_cells(
        cells_of({("a", "lym"): 9, ("a", "mon"): 9, ("b", "lym"): 30, ("b", "mon"): 30, ("b", "bas"): 4})
    )
    told = texts(found)
    assert "1 class has fewer cells in a laboratory than cv=5 folds, and the benchmark leaves it out there: " in told
    assert "'bas' of 'b' (4). Fix: add cells, or lower cv." in told
    assert "Fewer than 20 cells give poor statistics of a laboratory's stain and camera: 'a' (18). Fix: " in told
    assert found.ready


GROUPS = np.repeat(["p1", "p2", "p3", "p4", "p5"], 4)
ENOUGH = {("a", "lym"): 10, ("a", "mon"): 10}
PLANS = [
    ({**ENOUGH, ("b", "lym"): 5, ("b", "mon"): 5}, None, True, ""),
    (ENOUGH, None, True, "There is one laboratory"),
    (
        {("a", "lym"): 10, ("a", "mon"): 4},
        None,
        False,
        "'a' has 1 class of at least cv=5 cells, but a benchmark",
    ),
    (
        {**ENOUGH, ("b", "x"): 9, ("b", "y"): 9},
        None,
        False,
        "No two laboratories share a class with enough cells",
    ),
    ({**ENOUGH, ("b", "mon"): 9, ("b", "y"): 9}, None, True, "fewer than two classes with enough cells, so"),
    (ENOUGH, np.tile(["p1", "p2", "p3", "p4", "p5"], 4), True, ""),
    (ENOUGH, np.tile(["p1", "p2"], 10), False, "'a' has 2 patients, fewer than cv=5 folds, and no fold may split"),
    (ENOUGH, [*["p1"] * 10, *GROUPS[:10]], False, "'a' has 3 patients"),
    (
        ENOUGH,
        [*"abcdefghij", *["k"] * 10],
        False,
        "A fold of the laboratory 'a' has fewer than two classes",
    ),
]


@pytest.mark.parametrize(("numbers", "groups", "ready", "told"), PLANS)
def test_ready_is_what_a_benchmark_can_run(numbers, groups, ready, told):
    cells = cells_of(numbers, groups)
    found = examine_cells(cells)
    assert found.ready == ready, found.problems
    assert told in texts(found)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_plan({}, cells.labels, cells.domain, cells.group, 5, 0)
    except ValueError:
        assert not ready
    else:
        assert ready


def test_patients_are_counted_and_those_of_several_laboratories_told():
    numbers = {(lab, label): 10 for lab in "ab" for label in ("lym", "mon")}
    groups = [f"{name}{row % 5}" for name in ("a", "a", "b", "b") for row in range(10)]
    groups[-1] = "a0"
    found = examine_cells(cells_of(numbers, groups))
    assert found.patients.loc["a"].to_dict() == {
        "patients": 5, "cells_min": 4, "cells_median": 4, "cells_max": 4, "shared": 1,
    }  # fmt: skip
    assert found.patients.loc["b", "patients"] == 6
    assert "1 patient is in several laboratories: a0. Scores across laboratories become too high. Fix: " in texts(found)


def test_a_folder_without_laboratories_is_examined_and_not_ready(table):
    found = examine_cells(table.parent / "lab_a")
    assert not found.ready
    assert found.problems[0].startswith(f"Got 40 images in '{table.parent / 'lab_a'}', but one level too high: ")
    assert found.counts.empty
    assert found.images["readable"].tolist() == [40]


def test_what_the_loader_warns_of_is_among_the_findings(table):
    table.unlink()
    (table.parent / "lab_a" / "monocyte" / "scan.svs").touch()
    assert "Some files of " in texts(examine_cells(table.parent))


def test_a_bar_is_shown_when_asked_for(table, capsys):
    examine_cells(table)
    assert capsys.readouterr().err == ""
    examine_cells(table, verbose=1)
    assert "reading: 100%" in capsys.readouterr().err


@pytest.mark.bad_argument
@pytest.mark.parametrize(("cells", "cv"), [(Bunch(), 5), (None, 5), (["a.png"], 5), ("nowhere", 5), ("docs", 1)])
def test_bad_arguments_are_named(cells, cv):
    with pytest.raises((ValueError, FileNotFoundError), match=r"Fix: "):
        examine_cells(cells, cv=cv)


@pytest.mark.slow
@pytest.mark.cells
def test_real_cells_are_examined(cells_root):
    found = examine_cells(cells_root / "cells.csv")
    assert found.counts.loc["tecom", "basophil"] == 1
    assert len(found.unreadable) == 0
    assert "'basophil' of 'tecom' (1)" in texts(found)


@pytest.mark.parametrize("cv", [2, 3, 5])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_cells_are_ready_where_the_benchmark_takes_them(cv, grouped, n_classes):
    seen = set()
    for n in range(2, 9):
        cells = make_blood_cells(n, classes=COMMON_CLASSES[:n_classes], image_size=16, random_state=0)
        if grouped:
            cells.group = np.array([f"{name} {row // 2}" for row, name in enumerate(cells.domain)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check_plan(default_classifiers(0), cells.labels, cells.domain, cells.get("group"), cv, 0)
                takes = True
            except ValueError:
                takes = False
        assert examine_cells(cells, cv=cv).ready == takes, n
        seen.add(takes)
    assert seen == {True, False}


def test_what_is_not_taken_of_a_folder_is_told(tmp_path):
    made = make_blood_cells(5, classes=["lymphocyte", "monocyte"], image_size=32, random_state=0)
    save_cells(made, tmp_path / "cells")
    (tmp_path / "cells" / "lab_a" / "lymphocyte" / "notes.txt").write_text("a note")
    texts = [finding.text for finding in examine_cells(tmp_path / "cells").findings]
    assert any("Files of the folder that were not read: " in text and "(.txt): 1" in text for text in texts)
