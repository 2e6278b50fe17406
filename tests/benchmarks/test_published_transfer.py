import runpy
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from sam_bloodcell import CrossDomainAutoencoder
from sam_bloodcell.datasets import COMMON_CLASSES, LABORATORIES, make_blood_cells

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "published_transfer.py"
# A code of each dataset for each class, and its file's place.
LAYOUTS = {
    "acevedo": (("SNE", "LY", "MO", "EO", "BA"), "{name}/{code}_{i}.jpg"),
    "matek": (("NGS", "LYT", "MON", "EOS", "BAS"), "AML-Cytomorphology/{code}/{code}_{i:04d}.tiff"),
    "mll23": (
        ("neutrophil_segmented", "lymphocyte", "monocyte", "eosinophil", "basophil"), "{code}/{i}.tif",
    ),
    "raabin": (("Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil", "Basophil"), "Train/{code}/{i}.jpg"),
}  # fmt: skip
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Synthetic stand-ins in the layouts of the four datasets, each drawn as another laboratory."""
    root = tmp_path_factory.mktemp("sets")
    laboratories = list(LABORATORIES)
    for at, (dataset, (codes, place)) in enumerate(LAYOUTS.items()):
        domain = laboratories[at % len(laboratories)]
        cells = make_blood_cells(4, domains=[domain], image_size=96, random_state=at)
        for i, (image, name) in enumerate(zip(cells.images, cells.labels, strict=True)):
            path = root / dataset / place.format(name=name, code=codes[CLASSES.index(name)], i=i)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


@pytest.fixture
def run(folders):
    """Return a runner of the command on some of the folders."""

    def call(*datasets, options=()):
        named = [part for name in datasets for part in (f"--{name}", str(folders / name))]
        main = runpy.run_path(str(SCRIPT))["main"]
        main.__globals__["CrossDomainAutoencoder"] = partial(CrossDomainAutoencoder, epochs=2)
        main([*named, "--seeds", "1", *options])

    return call


@pytest.mark.slow
def test_our_rows_stand_below_the_published_ones_and_a_dataset_without_a_folder_is_told(run, tmp_path, capsys):
    assert set(CLASSES) == set(COMMON_CLASSES)
    cache = ["--cache-dir", str(tmp_path / "cache")]
    run("acevedo", "matek", "mll23", "raabin", options=[*cache, "--out", str(tmp_path / "new" / "all.csv")])
    assert any((tmp_path / "cache").iterdir())
    table = pd.read_csv(tmp_path / "new" / "all.csv")
    ours = table[table["source"] == "ours"]
    assert ours.groupby("features", sort=False)["tested"].agg(list).to_dict() == {
        f"vit_tiny, {name}": ["matek", "mll23", "raabin"]
        for name in ("pooled", "pooled, standardised by laboratory", "CrossDomainAutoencoder")
    }
    assert ours["macro_f1"].between(0, 1).all()
    assert ours["n_test"].eq(20).all()
    published = table[table["source"] == "published"].set_index(["features", "tested"])["macro_f1"]
    assert published["DinoBloom-S"].to_dict() == {"matek": 0.613, "mll23": 0.671, "raabin": 0.341}
    assert published["RedDino", "raabin"] == 0.45
    assert table.index[table["source"] == "published"].max() < ours.index.min()

    capsys.readouterr()
    run("acevedo", "raabin", options=[*cache, "--out", str(tmp_path / "one.csv")])
    out = capsys.readouterr().out
    assert "mll23: no folder was given (--mll23), so its column is empty in our rows" in out
    assert "matek: no folder was given (--matek)" in out
    one = pd.read_csv(tmp_path / "one.csv")
    same = ours[ours["tested"] == "raabin"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one[one["source"] == "ours"].reset_index(drop=True), same)


def test_a_wrong_folder_is_told_before_anything_is_embedded(run, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("sam_bloodcell.SAMLoRAEmbedder.fit_transform", lambda *_: pytest.fail("embedded"))
    with pytest.raises(FileNotFoundError, match=r"contains no images of Matek-19.*Fix: download the dataset from"):
        run("acevedo", options=["--matek", str(tmp_path)])


def test_nothing_to_test_on_is_an_error(run, capsys):
    with pytest.raises(SystemExit):
        run("acevedo")
    assert "Fix: give one or more of --matek, --mll23, --raabin" in capsys.readouterr().err


def test_the_command_needs_acevedo(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["published_transfer.py"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "--acevedo" in capsys.readouterr().err
