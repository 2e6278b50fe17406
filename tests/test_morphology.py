import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.draw import disk
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline

from sam_bloodcell import CellEmbeddings, SAMLoRAEmbedder
from sam_bloodcell.datasets import load_cells, make_blood_cells
from sam_bloodcell.morphology import FEATURES, CellMorphology, measure_cell
from sam_bloodcell.segmentation.cell import QUALITY, cell_crop


def drawn_cell(lobes=((64, 64, 15),), radius=30):
    """A pale disc with dark discs in it: mask and crop."""
    image = np.full((128, 128, 3), 240, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[disk((64, 64), radius)] = True
    image[mask] = (200, 180, 220)
    for row, column, size in lobes:
        image[disk((row, column), size)] = (80, 40, 120)
    return mask, cell_crop(image, mask)


def named(mask, crop):
    return dict(zip(FEATURES, measure_cell(mask, crop), strict=True))


def test_a_disc_in_a_disc():
    found = named(*drawn_cell())
    assert found["area"] == pytest.approx(np.pi * 30**2 / 128**2, rel=0.02)
    assert found["eccentricity"] < 0.1
    assert found["solidity"] > 0.95
    assert found["roundness"] > 0.85
    assert found["nucleus_to_cell"] == pytest.approx(0.25, abs=0.04)
    assert found["nucleus_to_cytoplasm"] == pytest.approx(1 / 3, abs=0.08)
    assert found["nucleus_lobes"] == 1
    assert found["nucleus_red"] == pytest.approx(-np.log(81 / 256), rel=0.05)
    assert found["cytoplasm_blue"] == pytest.approx(-np.log(221 / 256), abs=0.05)


def test_lobes_are_counted():
    assert named(*drawn_cell([(50, 55, 8), (78, 55, 8), (64, 78, 8)]))["nucleus_lobes"] == 3


def test_a_cell_without_a_nucleus_is_finite():
    assert np.isfinite(measure_cell(*drawn_cell(lobes=()))).all()


@pytest.mark.slow
def test_table_and_union():
    cells = make_blood_cells(2, random_state=0)
    union = FeatureUnion([("morphology", CellMorphology()), ("again", CellMorphology())])
    pipe = make_pipeline(SAMLoRAEmbedder("vit_tiny"), union, LogisticRegression(max_iter=5000))
    assert pipe.fit(cells.images, cells.target).predict(cells.images).shape == cells.target.shape
    embedded = pipe[0].transform(cells.images)
    table = CellMorphology().set_output(transform="pandas").fit_transform(embedded)
    assert list(table) == list(FEATURES)
    assert table.notna().all().all()


def test_other_input_is_refused():
    with pytest.raises(TypeError, match="Got ndarray but expected CellEmbeddings"):
        CellMorphology().fit(np.zeros((2, 3)))


@pytest.mark.cells
def test_nuclei_agree_with_annotated_ones(cells_root):
    from PIL import Image

    data = load_cells(cells_root / "cells.csv", domains=["tecom"])
    measured, annotated = [], []
    for path, mask in list(zip(data.paths, data.masks, strict=True))[::4]:
        truth = np.asarray(Image.open(mask).convert("L"))
        cell = truth > 0
        crop = cell_crop(np.asarray(Image.open(path).convert("RGB")), cell)
        measured.append(named(cell, crop)["nucleus_to_cell"])
        annotated.append((truth == 255).sum() / cell.sum())
    assert spearmanr(measured, annotated).statistic > 0.8
    assert np.abs(np.subtract(measured, annotated)).mean() < 0.12


def test_to_frame_and_to_anndata():
    rng = np.random.default_rng(0)
    quality = np.zeros(3, QUALITY)
    cells = CellEmbeddings(rng.random((3, 4)), *(np.zeros((3, 1)) for _ in range(3)), quality)
    frame = cells.to_frame(index=["a", "b", "c"])
    assert list(frame)[:5] == [*(f"samloraembedder{i}" for i in range(4)), "quality_area"]
    assert frame.index.tolist() == ["a", "b", "c"]
    data = cells.to_anndata(obs={"domain": ["x", "x", "y"]})
    np.testing.assert_array_equal(data.X, cells.pooled)
    assert data.obs["domain"].tolist() == ["x", "x", "y"]
    assert "quality_area" in data.obs
