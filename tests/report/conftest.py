"""Results of benchmarks to write reports of: a small real one, and made-up ones of any size."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import run_benchmark
from sam_bloodcell.report import write_report

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "report_time.py"


class Embeddings:
    """What the package's CellEmbeddings promises: an array that also carries masks, crops and, if kept, tokens."""

    def __init__(self, pooled, masks, crops, tokens=None):
        self.pooled, self.masks, self.crops, self.shape = pooled, masks, crops, pooled.shape
        if tokens is not None:
            self.tokens = tokens

    def __array__(self, dtype=None, copy=None):
        return self.pooled.astype(dtype or self.pooled.dtype)

    def __len__(self):
        return len(self.pooled)

    def __getitem__(self, rows):
        tokens = self.tokens[rows] if hasattr(self, "tokens") else None
        return Embeddings(self.pooled[rows], self.masks[rows], self.crops[rows], tokens)


class Embedder(TransformerMixin, BaseEstimator):
    def __init__(self, keep_tokens=True):
        self.keep_tokens = keep_tokens

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        pooled = np.stack([image[:2, :2].ravel() for image in X]).astype(np.float32)
        tokens = np.zeros((len(X), 4, 2, 2), np.float16) if self.keep_tokens else None
        return Embeddings(pooled, np.ones((len(X), 7, 7), bool), np.zeros((len(X), 16, 16, 3), np.uint8), tokens)


class Autoencoder(BaseEstimator):
    def fit(self, X, y=None, *, domain=None):
        self.domain_ = domain
        self.history_ = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5]})
        return self

    def transform(self, X):
        return np.asarray(X)[:, :6]

    def reconstruct(self, X):
        return X.crops[: len(X.tokens), ::2, ::2]


@pytest.fixture(scope="session")
def cells():
    rng = np.random.default_rng(0)
    target = np.tile([0, 1], 12)
    images = (
        rng.integers(0, 60, size=(24, 12, 10, 3), dtype=np.uint8) + (target * 150).astype(np.uint8)[:, None, None, None]
    )
    target[0] = 2
    names = ["<b>bold</b>", "monocyte", "basophil"]
    return Bunch(images=images, target=target, target_names=names, domain=np.repeat(["a", "b"], 12))


@pytest.fixture(scope="session")
def result(cells):
    with pytest.warns(UserWarning, match="'basophil' of domain 'a'") as caught:
        result = run_benchmark(cells, Embedder(), Autoencoder(), LogisticRegression(), random_state=3)
    assert len(caught) == 1  # once, not once per feature set
    return result


@pytest.fixture(scope="session")
def make_result():
    return runpy.run_path(str(BENCHMARK))["make_result"]


@pytest.fixture(scope="session")
def three(make_result, tmp_path_factory):
    """Three laboratories and five classes, half of the answers right, each cell a file of its own."""
    result, folder = make_result(3, 5, 150), tmp_path_factory.mktemp("cells")
    paths = [folder / f"cell {row:03d}.png" for row in range(150)]
    for path, image in zip(paths, result.cells.images, strict=True):
        Image.fromarray(image).save(path)
    parts = {name: part for name, part in result.cells.items() if name != "images"}
    return replace(result, cells=Bunch(paths=[str(path) for path in paths], **parts))


@pytest.fixture(scope="session")
def page(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "page.html"
    settings = {"command": "sam-bloodcell <demo>", "cv": "five"}
    assert write_report(result, path, title="A & B", settings=settings) == path
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    return path.read_text("utf-8")


def renamed(result, laboratories, classes, before=("a", "b")):
    """The same result, with other names of laboratories and classes."""
    names = dict(zip([*before, *result.cells.target_names], [*laboratories, *classes], strict=True))
    columns = ("train_domain", "test_domain", "label", "predicted")
    tables = [
        table.assign(**{column: table[column].map(names) for column in columns if column in table})
        for table in (result.predictions, result.scores)
    ]
    domain = np.array([names[name] for name in result.cells.domain])
    cells = Bunch(**result.cells | {"target_names": list(classes), "domain": domain})
    return replace(result, predictions=tables[0], scores=tables[1], cells=cells)
