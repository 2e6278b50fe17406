import numpy as np
import pandas as pd
import pytest

from sam_bloodcell.evaluation import score_predictions
from sam_bloodcell.evaluation.headlines import best_headlines, best_recall, headline_scores


def predictions_of(train, test, labels, answers, classifier="LR"):
    keys = {"features": "embeddings", "classifier": classifier, "train_domain": train, "test_domain": test, "fold": 0}
    cells = {"row": range(len(labels)), "group": range(len(labels)), "label": labels, "predicted": answers}
    return pd.DataFrame({**keys, **cells, "confidence": 0.5, "known": True, "n_train": 4})


@pytest.fixture
def predictions():
    """Abroad, LR is right in three of three x and none of one y, and then in one of two; DT is always right."""
    first, second = (list("xxxy"), list("xxxx")), (list("xy"), list("yy"))
    at_home = predictions_of("a", "a", list("xy"), list("yx"))
    lr = [at_home, predictions_of("a", "b", *first), predictions_of("b", "a", *second)]
    dt = [predictions_of("a", "b", first[0], first[0], "DT"), predictions_of("b", "a", second[0], second[0], "DT")]
    return pd.concat([*lr, *dt], ignore_index=True)


def test_headlines_stand_beside_chance_majority_and_intervals(predictions):
    intervals = pd.DataFrame({"features": "embeddings", "classifier": ["LR"], "score": 0.5, "low": 0.25, "high": 0.75})
    table = headline_scores(predictions, score_predictions(predictions), intervals)
    row = table.set_index("classifier").loc["LR"]
    assert row["pairs"] == 2
    assert row["balanced_accuracy"] == row["chance"] == 0.5
    assert row["accuracy"] == (3 / 4 + 1 / 2) / 2
    assert row["majority"] == (3 / 4 + 1 / 2) / 2
    assert (row["low"], row["high"]) == (0.25, 0.75)
    assert np.isnan(table.set_index("classifier").loc["DT", "low"])
    assert best_headlines(table)["classifier"].tolist() == ["DT"]


def test_recall_is_that_of_the_best_classifier_across_laboratories(predictions):
    found = predictions[predictions["classifier"] == "LR"]
    recall = best_recall(found, headline_scores(found, score_predictions(found), None)).set_index("label")
    assert recall["recall"].to_dict() == {"x": 0.5, "y": 0.5}
    assert recall["pairs"].to_dict() == {"x": 2, "y": 2}


def test_one_laboratory_is_scored_within_itself(predictions):
    alone = predictions[:2]
    headlines = headline_scores(alone, score_predictions(alone), None)
    assert headlines["balanced_accuracy"].tolist() == [0.0]
    assert headlines[["low", "high"]].isna().all(axis=None)
    assert best_recall(alone, headlines)["recall"].tolist() == [0, 0]


def test_nothing_scored_is_no_headline(predictions):
    unknown = predictions.assign(known=False)
    headlines = headline_scores(unknown, score_predictions(unknown), None)
    assert headlines.empty
    assert best_headlines(headlines).empty
    assert best_recall(unknown, headlines).empty
