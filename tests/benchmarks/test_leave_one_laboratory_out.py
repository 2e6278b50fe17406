import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sam_bloodcell import CrossDomainAutoencoder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "leave_one_laboratory_out.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def cells():
    """Features, labels and domains of three laboratories that are easy to tell apart; "a" has a single basophil."""
    rng = np.random.default_rng(0)
    names = np.array(["neutrophil", "lymphocyte", "basophil"])
    label = np.concatenate([np.repeat(names, n) for n in ((8, 8, 1), (8, 8, 8), (8, 8, 8))])
    domain = np.repeat(["a", "b", "c"], [17, 24, 24])
    X = rng.normal(size=(len(label), 8)) + 8 * np.eye(8)[[names.tolist().index(name) for name in label]]
    return X, label, domain


@pytest.fixture
def on_embeddings(script, monkeypatch):
    monkeypatch.setitem(script["predictions_of"].__globals__, "FEATURES", ("embeddings",))
    return script


@pytest.mark.parametrize("basophils", [True, False])
def test_a_single_basophil_is_scored_with_all_classes_and_in_no_way_without(basophils, cells, on_embeddings):
    X, label, domain = (part[(cells[1] != "basophil") | basophils] for part in cells)
    found = on_embeddings["predictions_of"](X, label, domain, seed=0)
    tested = found[(found["test_domain"] == "a") & (found["classifier"] == "LR")]
    assert (tested["label"] == "basophil").sum() == basophils
    assert (tested["predicted"] == "basophil").any() == basophils
    assert set(found["n_train"]) == ({48, 41} if basophils else {32})
    table = on_embeddings["summary"](found).set_index(["classifier", "test_domain"])
    assert table.loc[("LR", "a"), "macro_f1_mean"] == 1
    assert table.loc[("LR", "a"), "called_basophil"] == pytest.approx(1 / 17 if basophils else 0)


@pytest.mark.parametrize(
    ("name", "depends"), [("embeddings", False), ("autoencoder, inductive", False), ("autoencoder, transductive", True)]
)
def test_only_transductive_features_depend_on_the_tested_laboratory(name, depends, cells, script, monkeypatch):
    features_of = script["features_by_laboratory"]
    monkeypatch.setitem(features_of.__globals__, "CrossDomainAutoencoder", partial(CrossDomainAutoencoder, epochs=2))
    X, _, domain = cells
    changed = np.where(domain[:, None] == "a", X**2, X)
    first, other = (
        next(train for tested, train, _ in features_of(name, values, domain, 0) if tested == "a")
        for values in (X, changed)
    )
    assert np.allclose(first, other) != depends
