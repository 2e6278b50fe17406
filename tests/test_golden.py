"""Numbers that must not drift: packaged weights on synthetic and on real cells, beside what they once gave.

After a change that is meant to move them: ``python -m tests.test_golden FOLDER`` with the folder of the real cells.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells

pytestmark = pytest.mark.filterwarnings("ignore:The domain of .* cells is unknown")  # features row by row are held, too

STORED = Path(__file__).parent / "golden"
CELLS = make_blood_cells(2, random_state=0)
# Types of the forward pass, and how far it may go from the float32 numbers: largest distance by their deviation.
BOUNDS = {"float32": 0.002, "bfloat16": 0.15}


def embedder(**settings):
    return SAMLoRAEmbedder("vit_tiny", **{"dtype": "float32", "keep": ("tokens", "crops"), **settings}).fit(
        CELLS.images
    )


def describe(cells):
    """What is kept of embeddings: enough to notice any drift, too little to show a cell."""
    features = CrossDomainAutoencoder.from_pretrained("vit_tiny").transform(cells)
    return {
        "pooled": cells.pooled[:, :16],
        "tokens": np.asarray(cells.tokens, np.float32)[:, ::24, 3::7, 3::7].reshape(len(cells), -1),
        "area": cells.masks.mean((1, 2))[:, None],
        "crop": cells.crops.mean((1, 2, 3))[:, None],
        "features": features[:, :16],
    }


def transfer(folder):
    """Cells of cellavision that a classifier trained on tecom gets right."""
    table = pd.read_csv(folder / "cells.csv")
    table = table[table["domain"].isin(["tecom", "cellavision"]) & (table["label"] != "basophil")]
    table = table.groupby(["domain", "label"]).head(12)
    pooled = embedder().transform([folder / path for path in table["path"]]).pooled
    source = (table["domain"] == "tecom").to_numpy()
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(pooled[source], table["label"][source])
    return int((classifier.predict(pooled[~source]) == table["label"][~source]).sum())


def real_images(folder):
    paths = pd.read_csv(folder / "cells.csv").groupby("domain")["path"].head(3)
    return [folder / path for path in paths]


def assert_close(found, name, bound):
    for part, expected in json.loads((STORED / f"{name}.json").read_text()).items():
        expected = np.array(expected)
        distance = np.abs(found[part] - expected).max() / max(expected.std(), 1e-6)
        assert distance <= bound, f"{part} drifted by {distance:.4f} of its deviation"


@pytest.mark.parametrize("dtype", BOUNDS)
def test_synthetic_cells(dtype):
    assert_close(describe(embedder(dtype=dtype).transform(CELLS.images)), "synthetic", BOUNDS[dtype])


@pytest.mark.cells
def test_real_cells(cells_root):
    assert_close(describe(embedder().transform(real_images(cells_root))), "real", BOUNDS["float32"])


@pytest.mark.slow
@pytest.mark.cells
def test_transfer_between_real_laboratories(cells_root):
    expected = json.loads((STORED / "transfer.json").read_text())["right"]
    assert abs(transfer(cells_root) - expected) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 64}, {"n_jobs": 2}, {"cache_dir": "cache"}],
    ids=str,
)
def test_the_way_there_changes_nothing(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = embedder(batch_size=10).transform(CELLS.images)
    for _ in range(2):  # the second time from the cache, where there is one
        found = embedder(**settings).transform(CELLS.images)
        np.testing.assert_allclose(found.pooled, expected.pooled, atol=2e-4 * expected.pooled.std())
        assert (np.asarray(found.masks) != np.asarray(expected.masks)).mean() < 1e-4


if __name__ == "__main__":
    root = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    for name, images in {"synthetic": CELLS.images, "real": real_images(root)}.items():
        values = {part: value.round(5).tolist() for part, value in describe(embedder().transform(images)).items()}
        (STORED / f"{name}.json").write_text(json.dumps(values) + "\n")
    (STORED / "transfer.json").write_text(json.dumps({"right": transfer(root)}) + "\n")
