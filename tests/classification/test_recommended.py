import numpy as np
import pandas as pd
import pytest

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.classification.recommended import fit_recommended
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import default_classifiers, run_benchmark
from sam_bloodcell.evaluation.findings import recommended


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    made = make_blood_cells(6, classes=["eosinophil", "lymphocyte"], random_state=0)
    folder = tmp_path_factory.mktemp("cells")
    table = pd.read_csv(save_cells(made, folder))
    table.loc[len(table)] = (
        table.iloc[0].replace("lymphocyte", "rare").replace("eosinophil", "rare")
    )  # one cell of a class
    table.to_csv(folder / "cells.csv", index=False)
    return load_cells(folder / "cells.csv")


@pytest.mark.filterwarnings("ignore:Left out classes", "ignore:Pairs of images")
@pytest.mark.parametrize("aligned", [True, False], ids=["autoencoder", "embeddings"])
def test_the_best_classifier_is_fitted_on_all_cells_of_scored_classes(cells, aligned):
    autoencoder = CrossDomainAutoencoder(epochs=5, random_state=0) if aligned else None
    chosen = {"LR": default_classifiers(0)["LR"]}
    result = run_benchmark(cells, SAMLoRAEmbedder("vit_tiny"), autoencoder, chosen, cv=2, random_state=0)
    if aligned:  # whichever did better on these few cells, the autoencoder is to be recommended
        kept = result.scores["features"] == "autoencoder"
        result = type(result)(**{**vars(result), "scores": result.scores.assign(
            balanced_accuracy=result.scores["balanced_accuracy"].where(kept, 0.1)
        )})  # fmt: skip
    model = fit_recommended(result, cells, autoencoder, random_state=0, verbose=0)
    assert recommended(result) == ("autoencoder" if aligned else "embeddings", "LR")
    assert ("autoencoder" in model.pipeline_.named_steps) == aligned
    assert model.classes_.tolist() == ["eosinophil", "lymphocyte"]
    assert len(model.training_paths_) == len(cells.paths) - 1
    known = np.isin(cells.labels, model.classes_)
    assert model.score(cells.frame[known], cells.labels[known]) > 0.9


@pytest.mark.filterwarnings("ignore:Left out classes", "ignore:Pairs of images")
def test_where_nothing_was_scored_there_is_no_model(cells, monkeypatch):
    result = run_benchmark(
        cells, SAMLoRAEmbedder("vit_tiny"), None, {"LR": default_classifiers(0)["LR"]}, cv=2, random_state=0
    )
    monkeypatch.setattr("sam_bloodcell.classification.recommended.recommended", lambda result: None)
    assert fit_recommended(result, cells, None, random_state=0) is None
