import numpy as np
import pytest
from PIL import Image

from sam_bloodcell.images.listing import IMAGE_SUFFIXES, list_images
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


def test_links_are_followed_and_circles_end(tmp_path):
    put(tmp_path / "elsewhere", "2.png")
    put(tmp_path / "cells", "a/1.png")
    (tmp_path / "cells" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cells" / "a" / "up").symlink_to(tmp_path / "cells")
    (tmp_path / "cells" / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "cells") == ["a/1.png", "a/3.png", "b/2.png"]
