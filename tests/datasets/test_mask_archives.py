import gzip
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from sam_bloodcell.datasets.mask_archives import read_mask_archive
from sam_bloodcell.exceptions import ImageReadError

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
LABEL = np.pad(np.ones((6, 4), np.uint8), 3)


def write(path, content, protocol=4):
    with gzip.open(path, "wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read(protocol, tmp_path):
    cells = OrderedDict(
        {f"cell {i}": {"image": IMAGE, "label": LABEL, "name": np.str_("BAS"), 3: (1, None)} for i in "ab"}
    )
    images, masks = read_mask_archive(write(tmp_path / "train.dat.gz", cells, protocol))
    assert len(images) == len(masks) == 2
    np.testing.assert_array_equal(images[1], IMAGE)
    np.testing.assert_array_equal(masks[1], LABEL > 0)
    assert masks[1].dtype == bool


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_pickles_of_old_and_new_numpy_are_read(module, tmp_path):
    written = pickle.dumps({"a": {"image": IMAGE, "label": LABEL}}, protocol=2)
    own = np.empty(0).__reduce__()[0].__module__
    path = tmp_path / "train.dat.gz"
    path.write_bytes(gzip.compress(written.replace(f"c{own}\n".encode(), f"c{module}\n".encode())))
    np.testing.assert_array_equal(read_mask_archive(path)[0][0], IMAGE)


def test_colours_in_floating_point_are_rounded(tmp_path):
    path = write(tmp_path / "train.dat.gz", {"a": {"image": IMAGE + 0.3 * (IMAGE < 255), "label": LABEL * 2.0}})
    images, masks = read_mask_archive(path)
    np.testing.assert_array_equal(images[0], IMAGE)
    np.testing.assert_array_equal(masks[0], LABEL > 0)


class Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_nothing_in_a_file_is_run(tmp_path):
    trap = Trap(tmp_path / "it ran")
    for content in (trap, {"a": {"image": IMAGE, "label": LABEL, "more": trap}}, np.array([trap], object)):
        path = write(tmp_path / "train.dat.gz", content)
        with pytest.raises(
            ImageReadError, match=r"contains an object \w+\.mkdir, which could run any code and is not read"
        ):
            read_mask_archive(path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    "named", ["cbuiltins\neval\n(S'1'\ntR.", "cnumpy\nload\n(S'x'\ntR.", "cnumpy.core\nnumeric\n."]
)
def test_no_other_name_is_looked_up(named, tmp_path):
    path = tmp_path / "train.dat.gz"
    path.write_bytes(gzip.compress(named.encode()))
    with pytest.raises(ImageReadError, match=r"contains an object .*, which could run any code"):
        read_mask_archive(path)


def test_text_is_encoded_as_old_pickles_need_it_and_not_otherwise(tmp_path):
    path = tmp_path / "train.dat.gz"
    path.write_bytes(gzip.compress(b"c_codecs\nencode\n(Vabc\nVidna\ntR."))
    with pytest.raises(ImageReadError, match="a text to be encoded as 'idna'"):
        read_mask_archive(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([IMAGE, LABEL], r"contains a list of 2 \(an array \(12, 10, 3\) of uint8, an array \(12, 10\) of uint8\) but"),
        ({}, r"contains a dict of 0 \(\) but"),
        (3, "contains a value of type int but"),
        ({"images": IMAGE[None], "masks": LABEL[None]}, r"cell 'images' is an array \(1, 12, 10, 3\) of uint8 but"),
        ({"a": {"image": IMAGE}}, r"cell 'a' is a dict of 1 \('image': an array \(12, 10, 3\) of uint8\) but"),
        ({"a": {"image": IMAGE, "label": LABEL[1:]}}, r"'label': an array \(11, 10\) of uint8\) but"),
        ({"a": {"image": IMAGE, "label": 3}}, r"'label': int\) but"),
        ({"a": {"image": IMAGE.astype(object), "label": LABEL}}, "cell 'a' holds object and uint8 but"),
        ({"a": {"image": IMAGE * np.nan, "label": LABEL}}, "expected finite numbers"),
        ({"a": {"image": IMAGE / 255, "label": LABEL}}, "has an image of 0 to 1 but expected colours from 0 to 255"),
        ({"a": {"image": IMAGE - 9.0, "label": LABEL}}, "has an image of -9 to 246 but expected colours"),
        ({"a": {"image": IMAGE[:0], "label": LABEL[:0]}}, "has an image of no pixel"),
        ({"a": {"image": IMAGE, "label": 0 * LABEL}}, "cell 'a' has an empty mask. Fix: leave the cell out"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(content, found, tmp_path):
    with pytest.raises(ImageReadError, match=found):
        read_mask_archive(write(tmp_path / "train.dat.gz", content))


def test_absent_and_damaged_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'nowhere.dat.gz' does not exist. Fix: pass the Bloodcell_train.dat.gz"
    ):
        read_mask_archive("nowhere.dat.gz")
    with pytest.raises(IsADirectoryError, match=r"is a folder but expected a .dat.gz file"):
        read_mask_archive(tmp_path)
    whole = write(tmp_path / "whole.dat.gz", {"a": {"image": IMAGE, "label": LABEL}}).read_bytes()
    for content in (
        b"",
        b"PK",
        whole[:-30],
        gzip.compress(b"text"),
        gzip.compress(b""),
        whole[:40] + bytes(20) + whole[60:],
    ):
        path = tmp_path / "train.dat.gz"
        path.write_bytes(content)
        with pytest.raises(ImageReadError, match=r"train.dat.gz' cannot be read: .* Fix: fetch it again"):
            read_mask_archive(path)
