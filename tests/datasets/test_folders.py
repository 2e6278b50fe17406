"""Folders whose levels are not domain/label/image."""

import numpy as np
import pytest
from PIL import Image

from sam_bloodcell.datasets import load_cells
from sam_bloodcell.datasets.folders import domains_and_labels
from sam_bloodcell.images.listing import Listing


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 9, np.uint8)).save(folder / name)


def refusal(folder):
    with pytest.raises(ValueError, match="Fix: ") as caught:
        load_cells(folder)
    return str(caught.value)


def test_one_laboratory_by_itself_is_one_level_too_high(tmp_path):
    put(tmp_path, *(f"{label}/{number}.png" for label in ("lym", "mon") for number in range(3)))
    told = refusal(tmp_path)
    assert f"Got 6 images in '{tmp_path}', but one level too high: 'lym/0.png' has no laboratory;" in told
    assert "Fix: if all are of one laboratory, move 'lym' and the other classes into a folder with the " in told
    assert "or pass a CSV with the columns path, domain and label." in told


def test_a_flat_folder_is_two_levels_too_high(tmp_path):
    put(tmp_path, "1.png")
    told = refusal(tmp_path)
    assert f"Got 1 image in '{tmp_path}', but two levels too high: '1.png' has neither laboratory nor class;" in told


def test_a_folder_of_archives_is_to_be_unpacked(tmp_path):
    for name in ("munich.zip", "lyon.tar.gz"):
        (tmp_path / name).touch()
    told = refusal(tmp_path)
    assert f"'{tmp_path}' contains no images. Fix: unpack the archives in it. It contains: " in told
    assert "(.zip): 1 (1 in '.')" in told


def test_an_empty_folder_holds_no_images(tmp_path):
    fix = "Fix: arrange them as domain/label/image, or pass a CSV."
    assert refusal(tmp_path) == f"'{tmp_path}' contains no images. {fix}"


def test_patients_above_the_classes_are_told(tmp_path):
    names = [f"{lab}/{lab}{patient}/{label}/1.png" for lab in "ab" for patient in range(3) for label in ("lym", "mon")]
    put(tmp_path, *names[:-1])  # one patient lacks a class
    with pytest.warns(UserWarning, match="may be one level too deep") as caught:
        load_cells(tmp_path)
    told = str(caught[0].message)
    assert f"The 11 images of '{tmp_path}' may be one level" in told
    assert "folders named 'lym', 'mon' are in most of the 6 folders that are read as classes, as in 'a/a0/lym/" in told
    assert "Fix: if these are the classes, arrange the images as laboratory/class/patient/image, or pass a CSV" in told


@pytest.mark.parametrize(
    "names",
    [
        [f"{lab}/{label}/p{patient}/1.png" for lab in "ab" for label in ("lym", "mon", "neu") for patient in range(2)],
        [f"a/{label}/{split}/1.png" for label in ("lym", "mon", "neu") for split in ("train", "test")],
        [f"a/{label}/p{patient}/1.png" for label in ("lym", "mon") for patient in range(3)],
        ["a/lym/1.png", "a/mon/more/2.png", "a/neu/more/3.png", "a/neu/4.png"],
    ],
    ids=["patients of two laboratories", "splits", "patients of one laboratory", "some deeper"],
)
def test_folders_below_a_class_are_no_sign_of_that(tmp_path, names):
    put(tmp_path, *names)
    assert len(load_cells(tmp_path).paths) == len(names)


def test_a_folder_for_each_cell_is_told(tmp_path):
    put(tmp_path, *(f"a/cell_{number}/1.png" for number in range(4)))
    with pytest.warns(UserWarning, match=r"Each of the 4 classes of '.*' has one image, as in 'a/cell_0/1.png'\. The"):
        load_cells(tmp_path)


def test_masks_of_other_names_are_the_masks_of_their_images(tmp_path):
    put(tmp_path, "a/lym/1.png", "a/lym/mask_1.png", "a/lym/2.png", "a/lym/2_seg.tif")
    cells = load_cells(tmp_path)
    assert [path.rpartition("/")[2] for path in cells.paths] == ["1.png", "2.png"]
    assert [mask.rpartition("/")[2] for mask in cells.masks] == ["mask_1.png", "2_seg.tif"]


def test_domains_and_labels_follow_the_same_rule(tmp_path):
    put(tmp_path, "a/lym/1.png", "b/mon/deep/2.png")
    cells, columns = load_cells(tmp_path), domains_and_labels(Listing(tmp_path))
    assert columns["domain"].tolist() == cells.domain.tolist() == ["a", "b"]
    assert columns["label"].tolist() == cells.labels.tolist() == ["lym", "mon"]
    put(tmp_path, "b/3.png")
    assert domains_and_labels(Listing(tmp_path)) is None
