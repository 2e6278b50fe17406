import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sam_bloodcell.cli import app
from sam_bloodcell.datasets import load_acevedo20, make_blood_cells
from sam_bloodcell.embedding import encoder
from sam_bloodcell.reproduce import limit_cells, published_results, reproduce

# A code of each dataset for a synthetic class.
MATEK = {"neutrophil": "NGS", "lymphocyte": "LYT", "monocyte": "MON"}
ACEVEDO = {"neutrophil": "SNE", "lymphocyte": "LY", "monocyte": "MO"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Synthetic stand-ins in the layouts of Matek-19 (TIFF with alpha, a folder a code) and Acevedo-20 (prefixes)."""
    root = tmp_path_factory.mktemp("papers")
    cells = make_blood_cells(7, classes=list(MATEK), random_state=0)
    for i, (image, code, domain) in enumerate(zip(cells.images, cells.target, cells.domain, strict=True)):
        name = cells.target_names[code]
        if domain == "lab_a":
            path = root / "matek" / "AML-Cytomorphology" / MATEK[name] / f"{MATEK[name]}_{i:04d}.tiff"
            picture = Image.fromarray(image).convert("RGBA")
        else:
            path = root / "acevedo" / name / f"{ACEVEDO[name]}_{i}.jpg"
            picture = Image.fromarray(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return root / "matek", root / "acevedo"


def test_published_numbers_average_as_published():
    averages = {"RF": 58.86, "SVM poly": 59.85, "XGBoost": 63.00, "SVM rbf": 63.20, "MLP": 63.54}
    means = published_results("bc-sam").groupby("classifier")["published"].mean()
    for name, average in averages.items():
        assert means[name] == pytest.approx(average, abs=0.02)
    means = published_results("dorl").groupby("classifier")["published"].mean()
    assert means["SVM linear"] == pytest.approx(75.23, abs=0.02)
    assert means["MLP"] == pytest.approx(73.97, abs=0.02)
    with pytest.raises(ValueError, match="Got paper='third' but expected one of bc-sam, dorl"):
        published_results("third")


def test_limit_draws_of_every_class_and_laboratory(folders):
    cells = load_acevedo20(folders[1])
    few = limit_cells(cells, 2, 0)
    assert np.bincount(few.target).tolist() == [2, 2, 2]
    assert set(few.paths) <= set(cells.paths)
    assert limit_cells(cells, 2, 0).paths == few.paths
    with pytest.raises(ValueError, match="The 'n' parameter of limit_cells must be"):
        limit_cells(cells, 0, 0)


@pytest.mark.filterwarnings("ignore:Pairs of images that look duplicated")
@pytest.mark.parametrize(("paper", "n"), [("bc-sam", 20), ("dorl", 8)])
def test_the_whole_table_on_stand_ins(paper, n, folders, tmp_path):
    result = CliRunner().invoke(
        app,
        ["reproduce", paper, "--matek", str(folders[0]), "--acevedo", str(folders[1]), "--backbone", "vit_tiny",
         "--limit", "5", "--epochs", "1", "--cv", "2", "--out", str(tmp_path), "--quiet"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = (tmp_path / f"{paper}.csv").read_text().splitlines()
    assert lines[0] == "classifier,train_domain,test_domain,ours,spread,published"
    assert len(lines) == n + 1
    assert all(line.split(",")[3] for line in lines[1:])
    assert "published" in result.output
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "figures" / "maps.svg").is_file()


@pytest.mark.filterwarnings("ignore:Pairs of images that look duplicated")
def test_cells_of_a_class_that_training_lacks_count_as_wrong_as_in_the_papers(folders, tmp_path):
    acevedo = tmp_path / "acevedo"
    shutil.copytree(folders[1], acevedo, ignore=shutil.ignore_patterns("monocyte"))
    table, result = reproduce("dorl", folders[0], acevedo, backbone="vit_tiny", epochs=1, cv=2)
    cells = result.predictions.query("features == 'autoencoder' and train_domain == 'acevedo-20'")
    cells = cells[cells["test_domain"] == "matek-19"]
    assert cells.groupby(["classifier", "fold"]).size().eq(21).all()
    right = (cells["label"] == cells["predicted"]).groupby(cells["classifier"]).mean()
    ours = table.query("train_domain == 'acevedo-20' and test_domain == 'matek-19'").set_index("classifier")["ours"]
    assert ours.to_dict() == pytest.approx((100 * right).to_dict())
    assert ours.max() <= 100 * 14 / 21


@pytest.mark.filterwarnings("ignore:Pairs of images that look duplicated")
def test_a_second_run_with_the_same_cache_embeds_nothing(folders, tmp_path, monkeypatch):
    seen, run_network = [], encoder.run_network

    def counted(sam, recipe, pixels):
        seen.append(len(pixels))
        return run_network(sam, recipe, pixels)

    monkeypatch.setattr(encoder, "run_network", counted)
    options = {"backbone": "vit_tiny", "limit": 5, "epochs": 1, "cv": 2, "cache_dir": tmp_path, "device": "cpu"}
    _, first = reproduce("dorl", *folders, **options, batch_size=4)
    assert sum(seen) == len(first.cells.paths) == 30
    _, second = reproduce("dorl", *folders, **options, batch_size=4)
    assert sum(seen) == 30
    np.testing.assert_array_equal(first.features["embeddings"], second.features["embeddings"])
    assert "device='cpu'" in first.settings["autoencoder"]


@pytest.mark.parametrize(
    ("paper", "message"), [("dorl", "A folder lies where a file is to be"), ("x/y", "paper='x/y'")]
)
def test_reproduce_refuses_before_embedding(paper, message, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "run_network", lambda *_: pytest.fail("An image was embedded."))
    (tmp_path / "dorl.csv").mkdir()
    args = ["reproduce", paper, "--matek", str(folders[0]), "--acevedo", str(folders[1]), "--backbone", "vit_tiny"]
    result = CliRunner().invoke(app, [*args, "--out", str(tmp_path), "--quiet"])
    assert result.exit_code == 1
    assert message in result.output
