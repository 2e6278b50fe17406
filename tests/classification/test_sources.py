from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sam_bloodcell.classification.sources import keep_readable, list_cells

CLASSES = ["lymphocyte", "monocyte"]


def make_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / name)
    return root


def listed(*sources, **options):
    table, _ = list_cells(sources, **options)
    return table.assign(path=[Path(path).name for path in table["path"]]).to_dict("list")


def test_a_flat_folder_has_the_laboratory_that_is_named(tmp_path):
    folder = make_images(tmp_path / "lyon", "1.png", "2.png")
    assert listed(folder, domain="lyon", classes=CLASSES) == {"path": ["1.png", "2.png"], "domain": ["lyon"] * 2}
    assert listed(folder, classes=CLASSES) == {"path": ["1.png", "2.png"]}


def test_folders_of_known_classes_are_labels(tmp_path):
    folder = make_images(tmp_path / "lyon", "lymphocyte/1.png", "monocyte/2.png")
    found = listed(folder, domain="lyon", classes=CLASSES)
    assert found == {"path": ["1.png", "2.png"], "label": CLASSES, "domain": ["lyon"] * 2}
    assert listed(folder / "monocyte", domain="lyon", classes=CLASSES)["label"] == ["monocyte"]


def test_a_class_with_sub_folders_is_no_laboratory(tmp_path):
    folder = make_images(tmp_path / "lyon", "lymphocyte/patient/1.png", "monocyte/patient/2.png")
    assert listed(folder, classes=CLASSES) == {"path": ["1.png", "2.png"], "label": CLASSES}


def test_laboratories_in_folders_are_read(tmp_path):
    folder = make_images(tmp_path / "cells", "lyon/lymphocyte/1.png", "paris/monocyte/2.png")
    found = listed(folder, classes=CLASSES)
    assert found == {"path": ["1.png", "2.png"], "domain": ["lyon", "paris"], "label": CLASSES}
    assert listed(folder, domain="here", classes=CLASSES)["domain"] == ["here"] * 2


def test_folders_beside_known_classes_are_labels_too(tmp_path):
    folder = make_images(tmp_path / "lyon", "lymphocyte/1.png", "blast/2.png", "blast/patient/3.png")
    assert listed(folder, domain="lyon", classes=CLASSES)["label"] == ["blast", "blast", "lymphocyte"]


def test_images_without_a_class_are_counted(tmp_path):
    folder = make_images(tmp_path / "lyon", "lymphocyte/1.png", "2.png")
    with pytest.warns(
        UserWarning, match=r"1 of 2 images of '.*lyon' are not in the folder of a class, such as '2\.png'"
    ):
        assert listed(folder, domain="lyon", classes=CLASSES)["label"] == ["", "lymphocyte"]


def test_tables_keep_their_columns(tmp_path):
    folder = make_images(tmp_path, "1.png", "2.png")
    pd.DataFrame({"path": ["1.png", "2.png"], "domain": ["a", "b"], "slide": ["x", "y"]}).to_csv(folder / "t.csv")
    found = listed(folder / "t.csv", classes=CLASSES)
    assert found["domain"] == ["a", "b"]
    assert found["slide"] == ["x", "y"]
    assert listed(folder / "t.csv", domain="c")["domain"] == ["c", "c"]


def test_sources_are_joined_in_their_order(tmp_path):
    folder = make_images(tmp_path, "b/1.png", "a/2.png")
    assert listed(folder / "b", folder / "a", domain="lyon")["path"] == ["1.png", "2.png"]


def test_what_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        list_cells([tmp_path / "none"])


def test_unreadable_images_are_left_out_with_a_warning(tmp_path):
    folder = make_images(tmp_path, "1.png", "3.png")
    (folder / "2.png").write_bytes(b"no image")
    table, _ = list_cells([folder], domain="lyon")
    with pytest.warns(UserWarning, match=r"1 of 3 images cannot be read and are left out \(rows 1\).*2\.png"):
        kept = keep_readable(table)
    assert kept["path"].tolist() == [str(folder / "1.png"), str(folder / "3.png")]
    assert kept.index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="1 of 1 images cannot be read"):
        keep_readable(table.iloc[[1]].reset_index(drop=True))
