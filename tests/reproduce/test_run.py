import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file
from sklearn.svm import SVC
from typer.testing import CliRunner

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.alignment.settings import PRESETS
from sam_bloodcell.cli import app
from sam_bloodcell.datasets import load_acevedo20
from sam_bloodcell.embedding import encoder
from sam_bloodcell.models import training
from sam_bloodcell.models.sam import SAM, SAM_MASK_TOKENS, SIZES
from sam_bloodcell.reproduce import limit_cells, reproduce

pytestmark = pytest.mark.filterwarnings("ignore:Pairs of images that look duplicated")
SMALL = {"backbone": "vit_tiny", "epochs": 1, "cv": 2, "device": "cpu", "batch_size": 4}


@pytest.fixture
def quick(monkeypatch):
    """Have the preset train a network that takes a tenth of the time."""
    monkeypatch.setitem(PRESETS, "dorl", replace(PRESETS["dorl"], architecture="conv", crop_size=32))


def test_limit_draws_of_every_class_and_laboratory(folders):
    cells = load_acevedo20(folders[1])
    few = limit_cells(cells, 2, 0)
    assert np.bincount(few.target).tolist() == [2, 2, 2]
    assert set(few.paths) <= set(cells.paths)
    assert limit_cells(cells, 2, 0).paths == few.paths
    with pytest.raises(ValueError, match="The 'n' parameter of limit_cells must be"):
        limit_cells(cells, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "n"), [("bc-sam", 20), ("dorl", 8)])
def test_the_whole_table_on_stand_ins(paper, n, folders, tmp_path):
    result = CliRunner().invoke(
        app,
        ["reproduce", paper, "--matek", str(folders[0]), "--acevedo", str(folders[1]), "--backbone", "vit_tiny",
         "--limit", "8", "--epochs", "1", "--cv", "2", "--out", str(tmp_path), "--quiet"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = (tmp_path / f"{paper}.csv").read_text().splitlines()
    columns = "classifier,train_domain,test_domain,ours,spread,published,difference,in_spreads"
    notebook = ",notebook,notebook_difference,notebook_in_spreads" if paper == "dorl" else ""
    assert lines[0] == columns + notebook
    assert len(lines) == n + 1
    assert all(line.split(",")[3] for line in lines[1:])
    assert "published" in result.output
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "figures" / "maps.svg").is_file()
    assert {path.name.partition("-")[0] for path in (tmp_path / "stages").iterdir()} == {
        "answers", "autoencoder", "cache"
    }  # fmt: skip


@pytest.mark.slow
def test_the_run_is_the_preset_with_the_papers_crops(folders, quick):
    _, result = reproduce("dorl", *folders, **SMALL)
    assert "preset='dorl'" in result.settings["autoencoder"]
    assert "published_crops" in result.settings["embedder"]
    assert "max_iter=1000" in result.settings["classifier MLP"]
    assert isinstance(result.autoencoder, CrossDomainAutoencoder)


@pytest.mark.slow
def test_cells_of_a_class_that_training_lacks_count_as_wrong_as_in_the_papers(folders, tmp_path, quick):
    acevedo = tmp_path / "acevedo"
    shutil.copytree(folders[1], acevedo, ignore=shutil.ignore_patterns("monocyte"))
    for path in list(acevedo.glob("*/*.jpg")):  # enough cells for the MLP to stop early
        shutil.copy(path, path.with_stem(f"{path.stem}_2"))
    table, result = reproduce("dorl", folders[0], acevedo, **SMALL)
    cells = result.predictions.query("features == 'autoencoder' and train_domain == 'acevedo-20'")
    cells = cells[cells["test_domain"] == "matek-19"]
    assert cells.groupby(["classifier", "fold"]).size().eq(24).all()
    right = (cells["label"] == cells["predicted"]).groupby(cells["classifier"]).mean()
    ours = table.query("train_domain == 'acevedo-20' and test_domain == 'matek-19'").set_index("classifier")["ours"]
    assert ours.to_dict() == pytest.approx((100 * right).to_dict())
    assert ours.max() <= 100 * 16 / 24


@pytest.fixture
def counted(monkeypatch):
    """Count what each stage does; a stage whose limit is set breaks off when it has done that much."""
    done = {"adapter": 0, "embedding": 0, "autoencoder": 0, "classifiers": 0}
    limit = {}

    def count(target, name, stage_of, n=lambda *_: 1):
        original = getattr(target, name)

        def counting(*args, **kwargs):
            stage = stage_of(*args)
            if done[stage] >= limit.get(stage, 10**6):
                raise RuntimeError(f"killed in {stage}")
            made = original(*args, **kwargs)
            done[stage] += n(*args)
            return made

        monkeypatch.setattr(target, name, counting)

    # The adapter's training sets cells aside to validate on.
    count(training._Run, "save", lambda run, *_: "adapter" if run.validation else "autoencoder")
    count(encoder, "run_network", lambda *_: "embedding", lambda sam, recipe, pixels: len(pixels))
    count(SVC, "fit", lambda *_: "classifiers")
    return done, limit


@pytest.mark.slow
def test_a_run_that_breaks_off_in_every_stage_ends_as_an_unbroken_one(folders, archive, tmp_path, counted, quick):
    done, limit = counted
    options = SMALL | {"masks": archive, "adapter_epochs": 2, "epochs": 2}
    unbroken, _ = reproduce("dorl", *folders, **options, work_dir=tmp_path / "unbroken")
    once = dict(done)
    assert once == {"adapter": 2, "embedding": 48, "autoencoder": 2, "classifiers": 8}
    done.update(dict.fromkeys(done, 0))
    for stage, least in {"adapter": 1, "embedding": 20, "autoencoder": 1, "classifiers": 3}.items():
        limit[stage] = least
        with pytest.raises(RuntimeError, match=f"killed in {stage}"):
            reproduce("dorl", *folders, **options, work_dir=tmp_path / "broken")
        del limit[stage]
    resumed, _ = reproduce("dorl", *folders, **options, work_dir=tmp_path / "broken")
    assert done == once
    assert resumed.equals(unbroken)
    assert not list((tmp_path / "broken").glob("*unfinished*"))
    again, _ = reproduce("dorl", *folders, **options, work_dir=tmp_path / "broken")
    assert done == once
    assert again.equals(unbroken)


@pytest.mark.slow
def test_masks_found_by_the_stain_train_an_adapter_too(folders, tmp_path, counted, quick):
    _, result = reproduce("dorl", *folders, **SMALL, masks="auto", adapter_epochs=1, work_dir=tmp_path)
    (adapter,) = tmp_path.glob("adapter-*")
    assert (adapter / "adapter_model.safetensors").is_file()
    assert str(adapter) in result.settings["embedder"]


@pytest.mark.slow
def test_a_second_run_with_the_same_cache_embeds_nothing(folders, tmp_path, counted, quick):
    done, _ = counted
    _, first = reproduce("dorl", *folders, **SMALL, cache_dir=tmp_path)
    assert done["embedding"] == len(first.cells.paths) == 48
    _, second = reproduce("dorl", *folders, **SMALL, cache_dir=tmp_path)
    assert done["embedding"] == 48
    np.testing.assert_array_equal(first.features["embeddings"], second.features["embeddings"])
    assert "device='cpu'" in first.settings["autoencoder"]


def test_plain_sam_without_masks_is_warned_of(folders, tmp_path, randomise, monkeypatch):
    file = tmp_path / "sam.safetensors"
    save_file(randomise(SAM(SIZES["vit_tiny"], 224, SAM_MASK_TOKENS)).state_dict(), file)
    monkeypatch.setattr(SAMLoRAEmbedder, "fit_transform", lambda *_, **__: pytest.fail("It went on."))
    with (
        pytest.warns(UserWarning, match="Got neither an adapter nor masks, so plain SAM"),
        pytest.raises(pytest.fail.Exception, match="It went on"),
    ):
        reproduce("dorl", *folders, **SMALL | {"backbone": str(file)})


@pytest.mark.slow
def test_time_and_disk_space_are_told_before_the_start(folders, tmp_path, monkeypatch, capsys, quick):
    monkeypatch.setattr(CrossDomainAutoencoder, "transform", lambda *_, **__: pytest.fail("Too late."))
    with pytest.raises(pytest.fail.Exception, match="Too late"):
        reproduce("dorl", *folders, **SMALL, work_dir=tmp_path, verbose=1)
    told = capsys.readouterr().err
    assert "MB for token maps and crops. Time on this device: embedding less than 2 minutes, autoencoder" in told
    assert told.index("MB for token maps") < told.index("embedding:")  # the bar of the embedding


@pytest.mark.parametrize(
    ("paper", "code", "message"),
    [("dorl", 1, "A folder is in the place of the file"), ("x/y", 2, "'x/y' is not one of")],
)
def test_reproduce_refuses_before_embedding(paper, code, message, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "run_network", lambda *_: pytest.fail("An image was embedded."))
    (tmp_path / "dorl.csv").mkdir()
    args = ["reproduce", paper, "--matek", str(folders[0]), "--acevedo", str(folders[1]), "--backbone", "vit_tiny"]
    result = CliRunner().invoke(app, [*args, "--out", str(tmp_path), "--quiet"])
    assert result.exit_code == code
    assert message in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [({"masks": "nowhere.dat.gz"}, "'nowhere.dat.gz' does not exist"), ({"epochs": -1}, "epochs"), ({"cv": 9}, "cv=9")],
)
def test_wrong_options_are_refused_before_embedding(options, message, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "run_network", lambda *_: pytest.fail("An image was embedded."))
    with pytest.raises((ValueError, OSError), match=message):
        reproduce("dorl", *folders, **SMALL | options, work_dir=tmp_path)
