import os

import numpy as np
import pytest
from PIL import Image

from sam_bloodcell.images.listing import IMAGE_SUFFIXES, Listing, describe, list_images
from sam_bloodcell.images.reading import load_rgb


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder):
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_images_of_every_suffix_are_listed_and_can_be_read(tmp_path, suffix):
    path = tmp_path / f"1{suffix.upper()}"
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(path)
    assert list_images(str(tmp_path)) == [path]
    assert load_rgb(path).shape == (4, 5, 3)


def test_all_levels_in_the_order_of_their_names(tmp_path):
    put(tmp_path, "b/1.png", "a/x/deep/2.png", "a/1.png", "3.JPG", "a/notes.txt", "a/Thumbs.db")
    assert listed(tmp_path) == ["3.JPG", "a/1.png", "a/x/deep/2.png", "b/1.png"]
    assert list_images(tmp_path / "nowhere") == []


def test_leftovers_and_masks_are_left_out(tmp_path):
    folder = tmp_path / ".hidden itself"
    put(folder, ".Trash-1000/files/old.png", "a/.ipynb_checkpoints/1-checkpoint.png", "a/._1.png", "a/.png")
    put(folder, "a/1.png", "a/1_mask.png", "a/1_masks.tif", "a/2_Mask.PNG", "a/masked.png")
    assert listed(folder) == ["a/1.png", "a/masked.png"]


def test_masks_are_known_by_the_image_beside_them(tmp_path):
    put(tmp_path, "a/1.png", "a/mask_1.png", "a/2.tif", "a/2_seg.png", "a/3.png", "a/3-label.png", "a/3 labels.tif")
    put(tmp_path, "a/4.png", "a/4_segmentation.png", "a/Masks_4.png", "a/neutrophil_seg.png", "a/mask_9.png")
    put(tmp_path, "b/1_seg.png", "b/seg.png")  # no image of theirs is in this folder
    listing = Listing(tmp_path)
    kept = ["1.png", "2.tif", "3.png", "4.png", "mask_9.png", "neutrophil_seg.png", "1_seg.png", "seg.png"]
    assert [path.name for path in listing.images] == kept
    assert listing.account() == {("a", "masks"): 6}
    found = {listing.below(mask): listing.below(listing.image_of(mask)) for mask in listing.masks}
    assert found["a/mask_1.png"] == "a/1"
    assert found["a/2_seg.png"] == "a/2"
    assert found["a/3-label.png"] == found["a/3 labels.tif"] == "a/3"
    assert found["a/4_segmentation.png"] == found["a/Masks_4.png"] == "a/4"


def test_what_systems_leave_behind_and_folders_of_masks_are_counted_not_taken(tmp_path):
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information", ".Trash-1000"):
        put(tmp_path, f"{name}/lym/1.png")
    put(tmp_path, "a/lym/1.png", "a/lym/Thumbs.db", "a/lym/desktop.ini", "a/lym/._1.png", "a/lym/masks/1.png")
    put(tmp_path, "a/lym/1-mask.png", "a/lym/mask.tif", "a/lym/notes.txt", "a/lym/unmask.png")
    listing = Listing(tmp_path)
    assert [listing.below(path) for path in listing.images] == ["a/lym/1.png", "a/lym/unmask.png"]
    assert listing.account() == {
        (".", "hidden and system files and folders"): 6,
        ("a/lym", "hidden and system files and folders"): 3,
        ("a/lym", "folders of masks"): 1,
        ("a/lym", "masks"): 2,
        ("a/lym", "files that are not images (.txt)"): 1,
    }
    assert not listing.lost
    listing.warn()


def test_what_looks_like_data_but_is_not_taken_is_told(tmp_path):
    put(tmp_path, "a/1.png", "a/2.svs", "a/3.SVS", "b/4.heic", "b/5.czi")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match=r"Some files of '.*' were not.*\(\.svs\): 2 \(2 in 'a'\).*Fix: ") as caught:
        assert listed(tmp_path) == ["a/1.png"]
    assert len(caught) == 1
    for told in ("(.heic): 1 (1 in 'b')", "(.czi): 1 (1 in 'b')", "broken links: 1 (1 in '.')"):
        assert told in str(caught[0].message)


def test_a_folder_that_may_not_be_searched_is_told(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"folder that cannot be searched \(Permission denied\): 1 \(1 in 'b'\)"):
        assert listed(tmp_path) == ["a/1.png"]


def test_of_many_folders_the_fullest_are_named():
    account = {(f"lab {number}", "masks"): number for number in range(1, 9)}
    told = "masks: 36 (8 in 'lab 8', 7 in 'lab 7', 6 in 'lab 6', 5 in 'lab 5', 4 in 'lab 4' and 3 more folders)"
    assert describe(account) == told


def test_a_broken_link_to_an_image_is_listed_so_that_reading_names_it(tmp_path):
    put(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "3.png").symlink_to("3.png")  # a link to itself
    assert listed(tmp_path) == ["1.png", "2.png", "3.png"]


def test_links_are_followed_and_circles_end(tmp_path):
    put(tmp_path / "elsewhere", "2.png")
    put(tmp_path / "cells", "a/1.png")
    (tmp_path / "cells" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cells" / "a" / "up").symlink_to(tmp_path / "cells")
    (tmp_path / "cells" / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"images read twice, through links: 1 \(1 in 'b'\)"):
        assert listed(tmp_path / "cells") == ["a/1.png", "a/3.png", "b/2.png"]
