import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.utils import Bunch

from sam_bloodcell.cells import Cells, label_column, warn_of_similar
from sam_bloodcell.datasets import drop_unreadable, join_cells, keep_masked, load_cells, make_blood_cells, save_cells
from sam_bloodcell.images.masks import load_mask
from sam_bloodcell.images.reading import load_rgb


@pytest.fixture(scope="module")
def made():
    return make_blood_cells(2, classes=["monocyte", "basophil"], image_size=32, random_state=0)


def _touch(path, value=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    return path


def _parent(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _csv(folder, rows, columns=("path", "domain", "label")):
    pd.DataFrame(rows, columns=list(columns)).to_csv(folder / "cells.csv", index=False)
    return folder / "cells.csv"


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "my cells é"
    for name in ("lab_a/monocyte/1.png", "lab_a/basophil/2.JPG", "lab_b/monocyte/3.tif", "lab_b/smudge/4.bmp"):
        _touch(folder / name)
    _touch(folder / "lab_a/monocyte/1_mask.png", 255)
    (folder / "lab_a/monocyte/notes.txt").write_text("not a cell")
    return folder


def _rejects(error, source, *fragments, **options):
    with pytest.raises(error) as caught:
        load_cells(source, **options)
    for fragment in fragments:
        assert fragment in str(caught.value)


class TestRoundTrip:
    def test_pixels_and_labels_come_back(self, made, tmp_path):
        csv = save_cells(made, tmp_path / "new" / "folder")
        assert csv == tmp_path / "new" / "folder" / "cells.csv"
        cells = load_cells(csv)
        names = np.array(made.target_names)[made.target]
        np.testing.assert_array_equal(np.array(cells.target_names)[cells.target], names)
        np.testing.assert_array_equal(cells.domain, made.domain)
        for row in range(len(made.target)):
            np.testing.assert_array_equal(load_rgb(cells.paths[row]), made.images[row])
            np.testing.assert_array_equal(load_mask(cells.masks[row]), made.masks[row] > 0)
            np.testing.assert_array_equal(np.asarray(Image.open(cells.masks[row])), made.masks[row])
        assert cells.target_names == ["basophil", "monocyte"]
        assert cells.dropped == {}

    def test_the_folder_reads_as_the_csv_does(self, made, tmp_path):
        csv = save_cells(made, tmp_path)
        from_csv, from_folder = load_cells(csv), load_cells(tmp_path)
        labelled = [
            {path: (code, domain, mask) for path, code, domain, mask in zip(*columns, strict=True)}
            for columns in ((cells.paths, cells.target, cells.domain, cells.masks) for cells in (from_csv, from_folder))
        ]
        assert labelled[0] == labelled[1]
        assert len(labelled[0]) == 8

    def test_bool_masks(self, tmp_path):
        mask = np.zeros((1, 4, 4), bool)
        mask[0, 1:3, 1] = True
        cells = Bunch(
            images=np.zeros((1, 4, 4, 3), np.uint8), masks=mask, target=[0], target_names=["a"], domain=["lab"]
        )
        loaded = load_cells(save_cells(cells, tmp_path))
        np.testing.assert_array_equal(load_mask(loaded.masks[0]), mask[0])

    def test_unequal_lengths(self, made, tmp_path):
        with pytest.raises(ValueError, match=r"cells and 1 masks\. Fix: pass one mask, or None, per cell"):
            save_cells(Bunch(**{**made, "masks": made.masks[:1]}), tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestFolder:
    def test_tree(self, tree):
        cells = load_cells(tree)
        assert [Path(path).name for path in cells.paths] == ["2.JPG", "1.png", "3.tif", "4.bmp"]
        assert cells.target_names == ["basophil", "monocyte", "smudge"]
        assert cells.target.tolist() == [0, 1, 1, 2]
        assert cells.target.dtype == np.int64
        assert cells.domain.tolist() == ["lab_a", "lab_a", "lab_b", "lab_b"]
        assert cells.domain.dtype.kind == "U"
        assert cells.masks == [None, str(tree / "lab_a/monocyte/1_mask.png"), None, None]
        assert cells.dropped == {}

    def test_classes_give_the_order_and_report_what_they_drop(self, tree):
        cells = load_cells(str(tree), classes=["smudge", "basophil"])
        assert cells.target_names == ["smudge", "basophil"]
        assert [Path(path).name for path in cells.paths] == ["2.JPG", "4.bmp"]
        assert cells.target.tolist() == [1, 0]
        assert cells.dropped == {"monocyte": 2}

    def test_domains(self, tree):
        cells = load_cells(tree, domains=["lab_b"])
        assert cells.domain.tolist() == ["lab_b", "lab_b"]
        assert cells.target_names == ["monocyte", "smudge"]

    def test_both(self, tree):
        cells = load_cells(tree, classes=["monocyte"], domains=["lab_b"])
        assert [Path(path).name for path in cells.paths] == ["3.tif"]
        assert cells.dropped == {"smudge": 1}

    def test_unknown_names_list_the_known(self, tree):
        _rejects(
            ValueError,
            tree,
            f"Got the class 'lymphocyte' but '{tree}' has basophil, monocyte, smudge. Fix: check the spelling.",
            classes=["monocyte", "lymphocyte"],
        )
        _rejects(ValueError, tree, "Got the domain 'lab_c' but", "has lab_a, lab_b. Fix:", domains=["lab_c"])

    def test_empty(self, tmp_path):
        _rejects(ValueError, tmp_path, f"'{tmp_path}' contains no images. Fix: arrange them as domain/label/image")

    def test_deeper_folders_and_links_belong_to_the_label_above_them(self, tmp_path):
        folder = tmp_path / "cells"
        for name in ("cells/a/lym/1.gif", "cells/a/lym/patient 1/2.png", "elsewhere/mon/3.png"):
            _touch(tmp_path / name)
        for name in ("no domain.png", "a/no label.png", "a/.checkpoints/4.png", "a/lym/1_masks.png"):
            _touch(folder / name)
        (folder / "linked").symlink_to(tmp_path / "elsewhere")
        with pytest.warns(UserWarning, match="Some files of") as caught:
            cells = load_cells(folder)
        assert len(caught) == 1
        for told in ("of a laboratory and a class: 1 (1 in '.')", "of a class: 1 (1 in 'a')"):
            assert f"images without a folder {told}" in str(caught[0].message)
        assert [Path(path).name for path in cells.paths] == ["1.gif", "2.png", "3.png"]
        assert cells.left_out["a/lym", "masks"] == 1
        assert cells.left_out["a", "hidden and system files and folders"] == 1
        assert cells.domain.tolist() == ["a", "a", "linked"]
        assert np.array(cells.target_names)[cells.target].tolist() == ["lym", "lym", "mon"]

    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (["a/mon/scan.svs"], r"not read here \(\.svs\): 1 \(1 in 'a/mon'\)"),
            (["a/mon/notes.txt"], r"classes without an image: 1 \(1 in 'a/mon'\)"),
            (["b/1.png"], r"of a class: 1 \(1 in 'b'\); laboratories without an image in a class: 1 \(1 in 'b'\)"),
            (["b/site/lym/1.png"], r"named like a class, but taken as part of this one: 1 \(1 in 'b/site'\)"),
        ],
    )
    def test_what_looks_like_data_but_is_not_taken_is_told(self, tmp_path, names, told):
        _touch(tmp_path / "a/lym/1.png")
        for name in names:
            _touch(tmp_path / name) if name.endswith("png") else _touch(tmp_path / "x.png").rename(
                _parent(tmp_path / name)
            )
        with pytest.warns(UserWarning, match=f"Some files of '.*' were not read, or were read twice: .*{told}"):
            load_cells(tmp_path)

    def test_leftovers_are_no_classes_no_laboratories_and_no_cells(self, tree):
        for name in (".Trash-1000/files/1.png", "__MACOSX/lab_a/monocyte/1.png", "lab_a/.ipynb_checkpoints/1.png"):
            _touch(tree / name)
        for name in ("lab_a/@eaDir/1.png", "lab_a/monocyte/1_masks.png", "lab_a/monocyte/masks/1.png"):
            _touch(tree / name)
        cells = load_cells(tree)
        assert sorted(set(cells.domain)) == ["lab_a", "lab_b"]
        assert cells.target_names == ["basophil", "monocyte", "smudge"]
        assert len(cells.paths) == 4
        assert sum(cells.left_out.values()) == 8  # with 1_mask.png and notes.txt

    def test_a_folder_name_that_is_not_utf8_is_refused_and_a_file_name_is_read(self, tmp_path):
        _touch(tmp_path / "a/lym" / os.fsdecode(b"1\xe9.png"))
        cells = load_cells(tmp_path)
        assert load_rgb(cells.paths[0]).shape == (4, 4, 3)
        _touch(tmp_path / os.fsdecode(b"K\xf6ln") / "lym/1.png")
        _rejects(ValueError, tmp_path, "The folder b'K\\xf6ln/lym' in", "not UTF-8. Fix: rename it.")

    @pytest.mark.parametrize("as_given", [str, os.fsencode, Path])
    def test_a_path_may_be_text_bytes_or_a_path(self, tree, as_given):
        assert len(load_cells(as_given(tree)).paths) == 4

    def test_no_path_is_a_type_error(self):
        _rejects(TypeError, 5, "Got csv_or_folder=5 but expected a path. Fix: pass text or a pathlib.Path.")

    def test_nothing_asked_for(self, tree):
        _rejects(ValueError, tree, f"No cell of '{tree}' is left. Fix: check the classes and domains", classes=[])


class TestCSV:
    def test_paths_are_relative_to_the_csv(self, tmp_path, monkeypatch):
        inside, outside = _touch(tmp_path / "data/a b.png"), _touch(tmp_path / "é.png")
        monkeypatch.chdir("/")
        cells = load_cells(_csv(tmp_path, [("data/a b.png", "x", "1"), (str(outside), "NA", "null")]))
        assert cells.paths == [str(inside), str(outside)]
        assert cells.target_names == ["1", "null"]  # labels are text, whatever they look like
        assert cells.domain.tolist() == ["x", "NA"]
        assert cells.masks == [None, None]

    def test_masks_may_lack_in_some_rows(self, tmp_path):
        _touch(tmp_path / "a.png")
        mask = _touch(tmp_path / "m.png")
        rows = [("a.png", "x", "l", ""), ("a.png", "x", "l", "m.png")]
        cells = load_cells(_csv(tmp_path, rows, ("path", "domain", "label", "mask")))
        assert cells.masks == [None, str(mask)]

    @pytest.mark.parametrize(
        ("path", "hint"),
        [
            ("images\\1.png", "Write / between folders, not \\."),
            ("1.png ", "Remove the space around a name in it."),
            ("~/1.png", "Write the home folder out instead of ~."),
        ],
    )
    def test_a_path_with_something_odd_gets_a_hint(self, tmp_path, path, hint):
        _touch(tmp_path / "1.png")
        _rejects(
            FileNotFoundError,
            _csv(tmp_path, [(path, "x", "l")]),
            "row 0: the image",
            f"does not exist. Fix: paths are relative to the CSV's folder. {hint}",
        )

    def test_a_blank_mask_is_none(self, tmp_path):
        _touch(tmp_path / "1.png")
        assert load_cells(_csv(tmp_path, [("1.png", "x", "l", " ")], ("path", "domain", "label", "mask"))).masks == [
            None
        ]

    def test_a_column_that_is_nearly_named_group_is_told(self, tmp_path):
        _touch(tmp_path / "1.png")
        csv = _csv(tmp_path, [("1.png", "x", "l", "p1")], ("path", "domain", "label", " Group"))
        with pytest.warns(
            UserWarning, match=r"cells\.csv' has a column ' Group', which is not read. Fix: name it group"
        ):
            assert load_cells(csv).group is None

    def test_names_to_choose_may_come_from_an_iterator(self, tmp_path):
        _touch(tmp_path / "1.png")
        csv = _csv(tmp_path, [("1.png", "x", "l"), ("1.png", "y", "m"), ("1.png", "x", "m")])
        assert load_cells(csv, classes=iter(["l"]), domains=iter(["x"])).domain.tolist() == ["x"]

    def test_missing_file(self, tmp_path):
        source = tmp_path / "gone.csv"
        _rejects(FileNotFoundError, source, f"'{source}' does not exist. Fix: pass a CSV file or a folder")

    def test_missing_columns(self, tmp_path):
        csv = _csv(tmp_path, [("a.png", "x")], ("path", "lab"))
        _rejects(ValueError, csv, f"'{csv}' lacks the column(s) domain, label; it has path, lab. Fix: name its")

    @pytest.mark.parametrize("name", ["path", "domain", "label"])
    @pytest.mark.parametrize("empty", ["", "  "])
    def test_empty_value_names_the_row(self, tmp_path, name, empty):
        _touch(tmp_path / "a.png")
        full = {"path": "a.png", "domain": "x", "label": "l"}
        csv = _csv(tmp_path, [full, {**full, name: empty}])
        _rejects(ValueError, csv, f"'{csv}' row 1: {name} is empty. Fix: fill it in or remove the row.")

    @pytest.mark.parametrize(("column", "kind"), [("path", "image"), ("mask", "mask")])
    def test_file_that_is_not_there_names_the_row(self, tmp_path, column, kind):
        _touch(tmp_path / "a.png")
        full = {"path": "a.png", "domain": "x", "label": "l", "mask": "a.png"}
        csv = _csv(tmp_path, [full, full, {**full, column: "gone.png"}], tuple(full))
        gone = tmp_path / "gone.png"
        _rejects(FileNotFoundError, csv, f"'{csv}' row 2: the {kind} '{gone}' does not exist. Fix: paths are relative")

    @pytest.mark.parametrize(
        "content",
        [b"", "path,domain,label\ncélula,x,y\n".encode("latin-1"), b"path,domain,label\na,b,c\na,b,c,d,e\n"],
        ids=["empty", "latin-1", "ragged"],
    )
    def test_unreadable(self, tmp_path, content):
        csv = tmp_path / "cells.csv"
        csv.write_bytes(content)
        _rejects(ValueError, csv, f"'{csv}' is not a readable CSV: ", "Fix: save it as UTF-8 with commas.")

    def test_no_rows(self, tmp_path):
        csv = _csv(tmp_path, [])
        _rejects(ValueError, csv, f"'{csv}' has a header but no rows. Fix: add a row for each entry.")

    def test_unknown_class(self, tmp_path):
        _touch(tmp_path / "a.png")
        csv = _csv(tmp_path, [("a.png", "x", "monocyte")])
        message = f"Got the class 'mono' but '{csv}' has monocyte."
        with pytest.raises(ValueError, match=re.escape(message)):
            load_cells(csv, classes=["mono"])


ALIKE = [
    ("label", "lym", "lym ", "'lym' and 'lym '"),
    ("label", "Lymphocyte", "lymphocyte", "'Lymphocyte' and 'lymphocyte'"),
    ("label", "lymphocyte", "lymphocytes", "'lymphocyte' and 'lymphocytes'"),
    ("label", "lymphocyte(s)", "lymphocyte", "'lymphocyte(s)' and 'lymphocyte'"),
    ("label", "smudge cell", "smudge_cell", "'smudge cell' and 'smudge_cell'"),
    ("domain", "K\u00f6ln", "Ko\u0308ln", r"'K\xf6ln' and 'Ko\u0308ln'"),
    ("domain", "lab a", "lab\u00a0a", r"'lab a' and 'lab\xa0a'"),
    ("group", "P1", "p1", "'P1' and 'p1'"),
]


@pytest.mark.parametrize(("kind", "one", "other", "shown"), ALIKE)
def test_names_that_look_like_one_are_told(tmp_path, kind, one, other, shown):
    _touch(tmp_path / "1.png")
    rows = [{"path": "1.png", "domain": "x", "label": "l", "group": "g"} | {kind: name} for name in (one, other)]
    csv = tmp_path / "cells.csv"
    pd.DataFrame(rows).to_csv(csv, index=False)
    with pytest.warns(UserWarning, match=f"has different {kind}s that look alike: {re.escape(shown)}. Fix: give"):
        load_cells(csv)


@pytest.mark.parametrize(
    ("one", "other"), [("CD34+", "CD34-"), ("1", "11"), ("neutrophil_banded", "neutrophil"), ("s", "")]
)
def test_names_that_differ_are_not(one, other):
    warn_of_similar([one, other], "label", "cells.csv")


def test_parts_with_names_that_look_like_one_are_told():
    parts = [
        make_blood_cells(1, domains=[domain], classes=["monocyte"], image_size=32) for domain in ("lab_a", "lab_b")
    ]
    parts[1].target_names = ["Monocytes"]
    with pytest.warns(UserWarning, match="2 parts' has different labels that look alike: 'monocyte' and 'Monocyt"):
        join_cells(*parts)


def test_what_belongs_to_single_cells_is_taken_along_and_the_rest_stays(tmp_path):
    cells = load_cells(save_cells(make_blood_cells(1, domains=["lab_a"], image_size=32, random_state=0), tmp_path))
    cells.update(
        DESCR="licence",
        audit=pd.DataFrame({"code": range(5)}),
        patient=np.arange(5),
        age=pd.Series(range(5), index=list("edcba")),
        notes=list("abcde"),
    )
    Path(cells.paths[1]).write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 5 images"):
        kept = drop_unreadable(cells)
    assert (kept.DESCR, len(kept.audit), len(kept.target_names)) == ("licence", 5, 5)
    assert kept.patient.tolist() == kept.age.tolist() == [0, 2, 3, 4]
    assert kept.notes == list("acde")


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, ""])
def test_a_missing_mask_is_none_however_it_is_written(tmp_path, missing):
    cells = load_cells(save_cells(make_blood_cells(1, domains=["lab_a"], image_size=32, random_state=0), tmp_path))
    cells.masks = pd.Series([missing, *cells.masks[1:]], dtype=object)
    with pytest.warns(UserWarning, match="1 of 5 cells have no mask"):
        assert len(keep_masked(cells).masks) == 4
    assert join_cells(cells).masks[0] is None


def test_groups_are_read_and_a_cell_without_one_is_its_own(tmp_path):
    csv = save_cells(
        make_blood_cells(2, domains=["lab_a"], classes=["lymphocyte", "monocyte"], image_size=32), tmp_path
    )
    table = pd.read_csv(csv).assign(group=["p1", "", "p1", ""])
    table.to_csv(csv, index=False)
    cells = load_cells(csv)
    assert cells.group.tolist() == ["p1", "cell 1", "p1", "cell 3"]
    joined = join_cells(cells, cells, load_cells(tmp_path))
    assert joined.group[:2].tolist() == ["0: p1", "0: cell 1"]
    assert joined.group[4] == "1: p1", "the same name elsewhere is another patient"
    assert len(set(joined.group)) == 3 + 3 + 4


def test_unreadable_cells_are_left_out_and_named(tmp_path):
    cells = load_cells(save_cells(make_blood_cells(1, image_size=32, random_state=0), tmp_path))
    whole = drop_unreadable(cells)
    assert (whole.paths, whole.unreadable) == (cells.paths, {})
    Path(cells.paths[3]).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 of \d+ images cannot be read and are left out \(rows 3\); the first: "):
        kept = drop_unreadable(cells)
    assert kept.paths == cells.paths[:3] + cells.paths[4:]
    assert kept.masks == cells.masks[:3] + cells.masks[4:]
    np.testing.assert_array_equal(kept.target, np.delete(cells.target, 3))
    np.testing.assert_array_equal(kept.domain, np.delete(cells.domain, 3))
    assert list(kept.unreadable) == [cells.paths[3]]
    assert drop_unreadable(kept).unreadable == {}
    for path in cells.paths:
        Path(path).write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of the \d+ images can be read; the first: "):
        drop_unreadable(cells)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_a_missing_label_names_its_row(missing):
    with pytest.raises(ValueError, match=r"Row 1: label is missing, as in 1 of 3 rows\. Fix: "):
        label_column(pd.Series(["a", missing, "b"], dtype=object), "label")


@pytest.mark.bad_argument
@pytest.mark.parametrize("use", [join_cells, lambda cells: save_cells(cells, "never")])
@pytest.mark.parametrize("code", [-1, 2])
def test_a_code_without_a_name_is_not_the_last_class(use, code):
    cells = make_blood_cells(1, classes=["lymphocyte", "monocyte"], domains=["lab_a"], image_size=32)
    cells.target[1] = code
    with pytest.raises(ValueError, match=f"target={code} in row 1 but expected an index into the 2 target_names"):
        use(cells)


def test_masks_of_other_spellings_are_found_and_those_of_no_image_told(tmp_path):
    names = ("1.png", "1_masks.tif", "2.png", "2-mask.png", "3.png", "3_MASK.PNG", "4_mask.png")
    (tmp_path / "lab" / "lym").mkdir(parents=True)
    for name in names:
        Image.new("L", (8, 8)).save(tmp_path / "lab" / "lym" / name)
    with pytest.warns(UserWarning, match="masks that belong to no image: 1 "):
        cells = load_cells(tmp_path)
    assert [Path(mask).name for mask in cells.masks] == ["1_masks.tif", "2-mask.png", "3_MASK.PNG"]


def test_many_laboratories_and_classes_are_shown_short():
    names = [f"a rather long name of class {code}" for code in range(13)]
    domains = np.repeat([f"laboratory_{number:02d}" for number in range(30)], 13)
    cells = Cells(target=np.tile(np.arange(13), 30), target_names=names, domain=domains)
    shown = repr(cells)
    assert len(shown) < 400
    assert shown == str(cells)
    assert "domains=['laboratory_00', 'laboratory_01', " in shown
    assert "... 30 in all], classes=[" in shown
    assert "... 13 in all])" in shown
    # A notebook asks for these two.
    assert not hasattr(cells, "_repr_html_")
    assert "__repr__" in vars(Cells)


@pytest.mark.parametrize("masks", [{}, {"masks": [None, None]}, {"masks": [np.ones((8, 8), np.uint8), None]}])
def test_cells_without_masks_are_saved(tmp_path, masks):
    grey, rgb = Image.new("L", (8, 8), 90), np.full((8, 8, 3), 70, np.uint8)
    cells = Cells(images=[grey, rgb], target=np.array([0, 1]), target_names=["x", "y"], domain=["a", "a"], **masks)
    again = load_cells(save_cells(cells, tmp_path))
    assert [mask is None for mask in again.masks] == [mask is None for mask in masks.get("masks", [None, None])]
    assert [int(load_rgb(path).mean()) for path in again.paths] == [90, 70]
    assert again.labels.tolist() == ["x", "y"]


def test_patients_are_saved(tmp_path):
    images = [np.full((8, 8, 3), 70, np.uint8)] * 2
    columns = {"target": np.array([0, 1]), "target_names": ["x", "y"], "domain": ["a", "a"], "group": ["p1", "p2"]}
    assert load_cells(save_cells(Cells(images=images, **columns), tmp_path)).group.tolist() == ["p1", "p2"]


def test_parts_with_images_and_with_paths_are_not_joined(tmp_path):
    drawn = make_blood_cells(1, domains=["lab_a"], image_size=32, random_state=0)
    with pytest.raises(ValueError, match=r"Got 2 parts with images and paths but .* Fix: save the parts with images"):
        join_cells(drawn, load_cells(save_cells(drawn, tmp_path)))
