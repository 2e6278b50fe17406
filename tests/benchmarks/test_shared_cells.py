import importlib

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def shared(tmp_path, monkeypatch):
    module = importlib.import_module("shared_cells")
    monkeypatch.setattr(module, "DATA", tmp_path)
    pd.DataFrame({"path": ["a/1.png"], "domain": "a", "label": "neutrophil_banded"}).to_csv(tmp_path / "cells.csv")
    more = pd.DataFrame({"path": ["b/2.png"], "domain": "b", "label": "monocyte", "group": "p1"})
    more.to_csv(tmp_path / "more_cells.csv")
    return module


def test_tables_are_joined_with_whole_paths_and_without_missing_values(shared, tmp_path):
    cells = shared.with_common_names(shared.read_tables())
    assert cells["path"].tolist() == [str(tmp_path / "a/1.png"), str(tmp_path / "b/2.png")]
    assert cells["label"].tolist() == ["neutrophil", "monocyte"]
    assert cells["group"].tolist() == ["", "p1"]
    assert shared.read_tables("cells.csv")["domain"].tolist() == ["a"]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
def test_each_laboratory_is_standardised_whatever_the_numbers_are(shared, dtype):
    X = np.random.default_rng(0).integers(0, 200, (40, 3)).astype(dtype)
    domain = np.repeat(["a", "b"], 20)
    found = shared.standardise(X, domain)
    for name in ("a", "b"):
        np.testing.assert_allclose(found[domain == name].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(found[domain == name].std(0), 1, atol=1e-5)
