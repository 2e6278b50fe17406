import zipfile

import numpy as np
import pytest
from PIL import Image

from sam_bloodcell import datasets
from sam_bloodcell.datasets import drop_unreadable, join_cells, load_acevedo20, load_matek19, load_zheng18

# A file of each loader's layout, its code, and its class of the five.
LAYOUTS = {
    "load_acevedo20": ("neutrophil/BNE_12.jpg", "BNE", "neutrophil"),
    "load_matek19": ("AML-Cytomorphology/NGS/NGS_0001.tiff", "NGS", "neutrophil"),
    "load_mll23": ("lymphocyte_reactive/a.tif", "lymphocyte_reactive", "lymphocyte"),
    "load_bccd": ("TRAIN/EOSINOPHIL/_0_207.jpeg", "EOSINOPHIL", "eosinophil"),
    "load_raabin": ("Train/Basophil/20190527.jpg", "Basophil", "basophil"),
    "load_lisc": ("Main Dataset/mono/1.bmp", "mono", "monocyte"),
}


def write_image(path, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)


@pytest.mark.parametrize("loader", LAYOUTS)
def test_each_layout_is_read_and_documented(loader, tmp_path):
    file, code, label = LAYOUTS[loader]
    write_image(tmp_path / file)
    load = getattr(datasets, loader)
    cells = load(tmp_path)
    assert cells.paths == [str(tmp_path / file)]
    assert cells.code.tolist() == [code]
    assert np.asarray(cells.target_names)[cells.target].tolist() == [label]
    assert "Licence: " in cells.DESCR
    assert "cite" in cells.DESCR
    assert "Licence: " in load.__doc__
    assert load(tmp_path, scheme="original").target_names == [code]


@pytest.mark.parametrize("loader", [*LAYOUTS, "load_zheng18"])
def test_a_missing_or_empty_folder_says_where_the_data_is_to_be_had(loader, tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"Fix: download the dataset from http.*expected: "):
            getattr(datasets, loader)(folder)


def test_dropped_codes_are_counted_and_audited(tmp_path):
    for name in ("SNE_1.jpg", "IG_1.jpg", "IG_2.jpg", "PLATELET_1.jpg"):
        write_image(tmp_path / "any" / name)
    cells = load_acevedo20(tmp_path, scheme="harmonised")
    assert cells.target_names == ["neutrophil_segmented"]
    assert cells.dropped == {"IG": 2, "PLATELET": 1}
    assert cells.audit.set_index("code").loc["IG", "note"] == "which stage is not said"


def test_cells_that_are_left_keep_their_codes_and_their_licence(tmp_path):
    for name in ("SNE_1.jpg", "MO_1.jpg"):
        write_image(tmp_path / "any" / name)
    (tmp_path / "any" / "SNE_1.jpg").write_bytes(b"no image")
    cells = load_acevedo20(tmp_path)
    with pytest.warns(UserWarning, match="1 of 2 images cannot be read"):
        kept = drop_unreadable(cells)
    assert kept.code.tolist() == ["MO"]
    assert kept.DESCR == cells.DESCR
    assert kept.audit is cells.audit


def test_an_unknown_code_is_an_error_that_names_the_file(tmp_path):
    write_image(tmp_path / "any" / "XX_1.jpg")
    with pytest.raises(ValueError, match=r"XX_1\.jpg.*'XX' is not a code of acevedo-20"):
        load_acevedo20(tmp_path)


def test_matek_reannotations(tmp_path):
    for code, number in (("NGS", 1), ("NGS", 2), ("LYT", 1)):
        write_image(tmp_path / "AML" / code / f"{code}_{number:04d}.tiff")
    (tmp_path / "annotations.dat").write_text(
        "NGS/NGS_0001.tiff NGS NGB NGS\nNGS/NGS_0002.tiff NGS nan nan\nLYT/LYT_0001.tiff LYT LYA nan\n"
    )
    assert load_matek19(tmp_path).code.tolist() == ["LYT", "NGS", "NGS"]
    second = load_matek19(tmp_path, scheme="harmonised", annotation="second")
    assert second.code.tolist() == ["LYA", "NGB"]
    assert load_matek19(tmp_path, annotation="third").code.tolist() == ["NGS"]
    with pytest.raises(ValueError, match=r"Got annotation='fourth' .* Fix: annotation=None"):
        load_matek19(tmp_path, annotation="fourth")


def write_zheng(folder, missing=()):
    for number, ids in ((1, (1, 2)), (2, (1,))):
        for i in ids:
            if (number, i) not in missing:
                write_image(folder / f"Dataset {number}" / f"{i:03d}.bmp")
            Image.new("L", (8, 8), 255).save(folder / f"Dataset {number}" / f"{i:03d}.png")
        rows = "".join(f"{i},{i}\n" for i in ids)
        (folder / f"Class Labels of Dataset {number}.csv").write_text(f"image ID,class label\n{rows}")


def test_zheng_has_two_laboratories_and_masks(tmp_path):
    write_zheng(tmp_path)
    cells = load_zheng18(tmp_path)
    assert cells.domain.tolist() == ["tecom", "tecom", "cellavision"]
    assert [cells.target_names[code] for code in cells.target] == ["neutrophil", "lymphocyte", "neutrophil"]
    assert cells.masks[0].endswith("001.png")


def test_zheng_names_a_missing_image(tmp_path):
    write_zheng(tmp_path, missing={(1, 2)})
    with pytest.raises(FileNotFoundError, match=r"names image 2, but .*002\.bmp"):
        load_zheng18(tmp_path)


def test_fetch_zheng_from_a_server(tmp_path, file_server):
    write_zheng(tmp_path / "segmentation_WBC-abc")
    with zipfile.ZipFile(file_server.folder / "z.zip", "w") as archive:
        for path in (tmp_path / "segmentation_WBC-abc").rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    home = tmp_path / "home"
    with pytest.warns(UserWarning, match="pass digest='sha256:"):
        cells = datasets.fetch_zheng18(home, url=f"{file_server.url}/z.zip", verbose=0)
    assert len(cells.paths) == 3
    again = datasets.fetch_zheng18(home, url=f"{file_server.url}/z.zip", verbose=0)
    assert again.paths == cells.paths
    assert file_server.requests == ["/z.zip"]


def test_an_archive_cannot_write_outside_its_folder(tmp_path, file_server):
    with zipfile.ZipFile(file_server.folder / "z.zip", "w") as archive:
        archive.writestr("../evil.txt", "x")
    with (
        pytest.warns(UserWarning, match="digest"),
        pytest.raises(ValueError, match=r"contains '\.\./evil\.txt', which leads out of its folder"),
    ):
        datasets.fetch_zheng18(tmp_path / "home", url=f"{file_server.url}/z.zip", verbose=0)
    assert not list(tmp_path.rglob("evil.txt"))


def write_bloodmnist(file):
    rng = np.random.default_rng(0)
    parts = {}
    for split, n in (("train", 8), ("val", 2), ("test", 3)):
        parts[f"{split}_images"] = rng.integers(0, 255, (n, 28, 28, 3), dtype=np.uint8)
        parts[f"{split}_labels"] = (np.arange(n) % 8)[:, None].astype(np.uint8)
    np.savez(file, **parts)


def test_bloodmnist(tmp_path):
    write_bloodmnist(tmp_path / "bloodmnist.npz")
    cells = datasets.read_bloodmnist(tmp_path / "bloodmnist.npz")
    assert cells.images.shape == (9, 28, 28, 3)
    assert set(cells.domain) == {"acevedo-20"}
    assert cells.dropped == {"2": 2, "3": 1, "7": 1}
    assert len(cells.split) == len(cells.target) == 9


def test_another_file_than_bloodmnist_is_refused(tmp_path, file_server):
    write_bloodmnist(file_server.folder / "bloodmnist.npz")
    with pytest.raises(ValueError, match="hash"):
        datasets.fetch_bloodmnist(tmp_path / "home", image_size=28, url=f"{file_server.url}/bloodmnist.npz", verbose=0)
    assert not (tmp_path / "home" / "bloodmnist.npz").exists()
    with pytest.raises(ValueError, match=r"Got image_size=100 .* Fix: image_size=224"):
        datasets.fetch_bloodmnist(tmp_path, image_size=100)


class Dataset:
    """What `load_image_dataset` uses of a Hugging Face dataset."""

    def __init__(self, images, labels, names):
        self.columns = {"image": images, "label": labels}
        self.column_names = ["image", "label"]
        self.features = {"image": None, "label": type("ClassLabel", (), {"names": names})()}

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}


def test_image_dataset():
    images = [Image.new("RGB", (4, 4), (i, i, i)) for i in range(3)]
    dataset = Dataset(images, [0, 1, 0], ["lymphocyte", "monocyte"])
    cells = datasets.load_image_dataset(dataset, domain="lab", classes=["lymphocyte"])
    assert cells.images == [images[0], images[2]]
    assert cells.dropped == {"monocyte": 1}
    assert cells.domain.tolist() == ["lab", "lab"]
    with pytest.raises(ValueError, match=r"lacks the column\(s\) species; it has image, label"):
        datasets.load_image_dataset(dataset, domain="lab", label="species")


@pytest.mark.parametrize("names", [["lymphocyte", "monocyte"], None])
def test_an_image_without_a_label_is_named(names):
    for missing in (None, -1) if names else (None, float("nan")):
        dataset = Dataset([Image.new("RGB", (4, 4))] * 2, [1, missing], names)
        with pytest.raises(ValueError, match=r"'dataset of lab' row 1: label is missing\. Fix: fill it in"):
            datasets.load_image_dataset(dataset, domain="lab")


def test_image_folder_through_the_real_library(tmp_path):
    for label in ("lymphocyte", "monocyte"):
        write_image(tmp_path / label / "1.png")
    cells = datasets.load_image_dataset(tmp_path, domain="lab")
    assert cells.target_names == ["lymphocyte", "monocyte"]
    assert cells.images[0].size == (8, 8)


def test_join_cells_speaks_one_vocabulary(tmp_path):
    write_image(tmp_path / "a" / "x" / "SNE_1.jpg")
    write_image(tmp_path / "a" / "x" / "MO_1.jpg")
    write_zheng(tmp_path / "z")
    joined = join_cells(load_acevedo20(tmp_path / "a"), load_zheng18(tmp_path / "z"))
    names = np.asarray(joined.target_names)[joined.target].tolist()
    assert sorted(names) == ["lymphocyte", "monocyte", "neutrophil", "neutrophil", "neutrophil"]
    assert sorted(set(joined.domain)) == ["acevedo-20", "cellavision", "tecom"]
    assert len(joined.masks) == len(joined.paths) == 5
    with pytest.raises(ValueError, match="Got 0 parts with no images but expected at least one part"):
        join_cells()
