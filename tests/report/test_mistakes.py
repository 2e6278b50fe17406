import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import findings
from sam_bloodcell.report import mistakes
from sam_bloodcell.report.mistakes import CellNames, group_mistakes


def cells_of(groups):
    return [
        (group["label"], group["predicted"], direction["train"], direction["test"], cell)
        for group in groups
        for direction in group["directions"]
        for cell in direction["cells"] + direction["names"]
    ]


def test_every_mistake_is_in_the_group_of_its_classes_and_direction(three):
    table = findings.mistakes(three)
    groups, failures = group_mistakes(three, table, CellNames(three))
    found = {(cell["row"], *names) for *names, cell in cells_of(groups)}
    columns = ["row", "label", "predicted", "train_domain", "test_domain"]
    assert found == set(table[columns].itertuples(index=False, name=None))
    assert [group["n"] for group in groups] == sorted((group["n"] for group in groups), reverse=True)
    assert sum(group["n"] for group in groups) == len(table)
    assert failures == []


def test_pictures_are_small_and_upright(three, tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(2)]
    Image.fromarray(np.full((300, 600, 3), 200, np.uint8)).save(paths[0])
    Image.fromarray(np.full((20, 10, 3), 200, np.uint8)).save(paths[1])
    wrong = {"train_domain": "a", "test_domain": "b", "label": "x", "predicted": "y", "confidence": 0.9}
    table = pd.DataFrame([{"row": row, **wrong} for row in range(2)])
    result = replace(three, cells=Bunch(**three.cells | {"paths": list(map(str, paths))}))
    groups, _ = group_mistakes(result, table, CellNames(result))
    pictures = [base64.b64decode(cell["uri"].partition(",")[2]) for *_, cell in cells_of(groups)]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(128, 64), (10, 20)]


def test_an_image_that_is_gone_leaves_its_name_and_the_reason(three, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(Path(three.cells.paths[0]).parent, folder)
    table = findings.mistakes(three)
    row = int(table["row"][0])
    (folder / f"cell {row:03d}.png").write_bytes(b"")
    paths = [str(folder / Path(path).name) for path in three.cells.paths]
    result = replace(three, cells=Bunch(**three.cells | {"paths": paths}))
    groups, failures = group_mistakes(result, table, CellNames(result))
    bad = [cell for *_, cell in cells_of(groups) if not cell["uri"]]
    assert [cell["name"] for cell in bad] == [f"cell {row:03d}.png"]
    assert "ImageReadError" in bad[0]["failure"]
    assert len(failures) == 1
    assert failures[0].startswith(f"cell {row:03d}.png, ImageReadError")


def test_pictures_are_for_the_most_confident_and_names_for_the_next(three, monkeypatch):
    monkeypatch.setattr(mistakes, "MAX_PICTURES", 10)
    monkeypatch.setattr(mistakes, "MAX_NAMES", 15)
    table = findings.mistakes(three)
    groups, _ = group_mistakes(three, table, CellNames(three))
    cells = [cell for *_, cell in cells_of(groups)]
    assert {cell["row"] for cell in cells if cell["uri"]} == set(table["row"][:10])
    assert {cell["row"] for cell in cells} == set(table["row"][:15])
    assert sum(group["n"] for group in groups) == len(table)


def test_features_instead_of_images_have_numbers_as_names(three):
    cells = Bunch(**{name: part for name, part in three.cells.items() if name != "paths"}, images=np.zeros((150, 5)))
    result = replace(three, cells=cells)
    table = findings.mistakes(result)
    groups, failures = group_mistakes(result, table, CellNames(result))
    assert {cell["name"] for *_, cell in cells_of(groups)} == {f"row {row}" for row in table["row"]}
    assert not any(cell["uri"] for *_, cell in cells_of(groups))
    assert failures == []


@pytest.mark.parametrize(
    ("paths", "folder", "names"),
    [
        (["/data/a/x/1.png", "/data/b/x/1.png"], "/data", [("1.png", "a/x/1.png"), ("1.png", "b/x/1.png")]),
        (["a/1.png", "/b/1.png"], "", [("1.png", "a/1.png"), ("1.png", "/b/1.png")]),
        (["1.png", "2.png"], "", [("1.png", "1.png"), ("2.png", "2.png")]),
    ],
)
def test_a_name_tells_the_file_and_where_it_lies_below_the_common_folder(three, paths, folder, names):
    named = CellNames(replace(three, cells=Bunch(paths=paths)))
    assert named.folder == folder
    assert [named(row) for row in range(2)] == names
