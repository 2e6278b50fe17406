"""The laboratory travels with the cell: every scikit-learn call sees it when it fits and when it predicts.

Warnings are errors here, and an autoencoder that is fitted or used without domains warns: a call that passes has told
it the domain of every cell.
"""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline as make_imbalanced_pipeline
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import FeatureUnion, make_pipeline

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder, save_pretrained
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import domain_shift

FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    drawn = make_blood_cells(24, classes=("eosinophil", "lymphocyte"), image_size=48, random_state=0)
    return load_cells(save_cells(drawn, tmp_path_factory.mktemp("cells")))


@pytest.fixture(scope="module")
def frame(cells):
    return cells.frame


@pytest.fixture(scope="module")
def labels(cells):
    """A fifth of the labels is wrong, so that no score is perfect and every score depends on the features."""
    wrong = np.random.default_rng(0).random(len(cells.labels)) < 0.2
    return np.where(wrong, np.roll(cells.target_names, 1)[cells.target], cells.labels)


def autoencoder():
    return CrossDomainAutoencoder(4, epochs=2, batch_size=16, random_state=0)


def pipeline(classifier=LogisticRegression()):  # noqa: B008, never fitted itself
    return make_pipeline(SAMLoRAEmbedder("vit_tiny"), autoencoder(), clone(classifier))


@pytest.fixture(scope="module")
def by_hand(cells, labels):
    """Probabilities of each cell from the fold that left it out, with every domain passed by hand."""
    embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.paths)
    probabilities, scores = np.empty((len(labels), 2)), []
    for train, test in FOLDS.split(labels, labels):
        fitted = autoencoder().fit(embeddings[train], domain=cells.domain[train])
        features = [fitted.transform(embeddings[rows], domain=cells.domain[rows]) for rows in (train, test)]
        classifier = LogisticRegression().fit(features[0], labels[train])
        probabilities[test] = classifier.predict_proba(features[1])
        scores.append(roc_auc_score(labels[test], probabilities[test][:, 1]))
    return probabilities, scores


@pytest.mark.slow
def test_the_loop_by_hand_depends_on_the_domains(cells, labels, by_hand):
    embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.paths)
    train, test = next(FOLDS.split(labels, labels))
    fitted = autoencoder().fit(embeddings[train], domain=cells.domain[train])
    with pytest.warns(UserWarning, match="domain of 32 of 32 cells is unknown"):
        features = fitted.transform(embeddings[test])
    assert np.abs(features - fitted.transform(embeddings[test], domain=cells.domain[test])).max() > 0.01


@pytest.mark.slow
def test_cross_val_score_with_a_named_scoring(frame, labels, by_hand):
    scores = cross_val_score(pipeline(), frame, labels, cv=FOLDS, scoring="roc_auc", error_score="raise")
    np.testing.assert_allclose(scores, by_hand[1], rtol=1e-6)


@pytest.mark.slow
def test_cross_validate_with_several_scorings(frame, labels, by_hand):
    scoring = ["roc_auc", "balanced_accuracy"]
    scores = cross_validate(pipeline(), frame, labels, cv=FOLDS, scoring=scoring, error_score="raise")
    np.testing.assert_allclose(scores["test_roc_auc"], by_hand[1], rtol=1e-6)


@pytest.mark.slow
def test_cross_val_predict(frame, labels, by_hand):
    found = cross_val_predict(pipeline(), frame, labels, cv=FOLDS, method="predict_proba")
    np.testing.assert_allclose(found, by_hand[0], rtol=1e-5)


@pytest.mark.slow
def test_grid_search_scores_and_then_predicts(frame, labels, by_hand):
    grid = {"logisticregression__C": [1.0, 10.0]}
    search = GridSearchCV(pipeline(), grid, cv=FOLDS, scoring="roc_auc", error_score="raise").fit(frame, labels)
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(by_hand[1]), rel=1e-6)
    refitted = pipeline(LogisticRegression(C=search.best_params_["logisticregression__C"])).fit(frame, labels)
    np.testing.assert_array_equal(search.predict_proba(frame), refitted.predict_proba(frame))


@pytest.mark.slow
def test_grid_search_in_two_processes(frame, labels, by_hand):
    embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(frame)
    line = make_pipeline(autoencoder(), LogisticRegression())
    search = GridSearchCV(line, {"logisticregression__C": [1.0]}, cv=FOLDS, scoring="roc_auc", n_jobs=2)
    search.fit(embeddings, labels)
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(by_hand[1]), rel=1e-5)


META_ESTIMATORS = {
    "halving": lambda: HalvingGridSearchCV(
        pipeline(), {"logisticregression__C": [1.0, 10.0]}, cv=FOLDS, min_resources=48, random_state=0
    ),
    "voting": lambda: VotingClassifier([("a", pipeline()), ("b", pipeline(LogisticRegression(C=10)))], voting="soft"),
    "stacking": lambda: StackingClassifier([("a", pipeline())], LogisticRegression(), cv=FOLDS),
    "bagging of features": lambda: pipeline(BaggingClassifier(LogisticRegression(), 3, random_state=0)),
    "calibration": lambda: CalibratedClassifierCV(pipeline(), cv=FOLDS),
    "threshold": lambda: TunedThresholdClassifierCV(pipeline(), cv=FOLDS),
    "union": lambda: make_pipeline(
        SAMLoRAEmbedder("vit_tiny"),
        FeatureUnion([("aligned", autoencoder()), ("plain", "passthrough")]),
        LogisticRegression(max_iter=2000),
    ),
    "columns": lambda: make_pipeline(
        ColumnTransformer([("cells", pipeline()[:-1], ["path", "domain"])]), LogisticRegression()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", META_ESTIMATORS)
def test_meta_estimators_see_every_domain(name, frame, labels):
    estimator = META_ESTIMATORS[name]().fit(frame, labels)
    assert (estimator.predict(frame) == labels).mean() > 0.6


@pytest.mark.slow
def test_soft_votes_are_the_means_of_the_pipelines(frame, labels):
    votes = META_ESTIMATORS["voting"]().fit(frame, labels).predict_proba(frame)
    alone = [pipeline(LogisticRegression(C=c)).fit(frame, labels).predict_proba(frame) for c in (1, 10)]
    np.testing.assert_allclose(votes, np.mean(alone, axis=0), rtol=1e-6)


@pytest.mark.slow
def test_frozen_steps_go_on_seeing_the_domain(frame, labels):
    features = pipeline()[:-1].fit(frame)
    frozen = make_pipeline(FrozenEstimator(features), LogisticRegression())
    expected = LogisticRegression().fit(features.transform(frame), labels).predict_proba(features.transform(frame))
    np.testing.assert_allclose(frozen.fit(frame, labels).predict_proba(frame), expected, rtol=1e-6)


@pytest.mark.slow
def test_learning_curves(frame, labels, by_hand):
    _, _, scores = learning_curve(
        pipeline(), frame, labels, cv=FOLDS, train_sizes=[1.0], scoring="roc_auc", error_score="raise"
    )
    np.testing.assert_allclose(scores[0], by_hand[1], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output_keeps_the_domain(container, frame, labels, by_hand):
    line = pipeline().set_output(transform=container)
    scores = cross_val_score(line, frame, labels, cv=FOLDS, scoring="roc_auc", error_score="raise")
    np.testing.assert_allclose(scores, by_hand[1], rtol=1e-6)
    assert type(line[:-1].fit(frame).transform(frame)).__module__.startswith(container)


@pytest.mark.slow
def test_a_pipeline_of_imbalanced_learn_resamples_the_features(frame, labels):
    line = make_imbalanced_pipeline(
        SAMLoRAEmbedder("vit_tiny"), autoencoder(), RandomOverSampler(random_state=0), LogisticRegression()
    )
    assert (line.fit(frame[10:], labels[10:]).predict(frame) == labels).mean() > 0.6


@pytest.mark.slow
def test_a_pipeline_loaded_in_another_process_needs_no_switch(frame, labels, tmp_path):
    joblib.dump(pipeline().fit(frame, labels), tmp_path / "pipe.joblib")
    expected = pipeline().fit(frame, labels).predict_proba(frame)
    (found,) = joblib.Parallel(n_jobs=2)([joblib.delayed(_predict)(tmp_path / "pipe.joblib", frame)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def _predict(file, frame):
    return joblib.load(file).predict_proba(frame)


@pytest.mark.slow
def test_the_cells_of_a_new_laboratory_get_its_own_statistics(frame, labels):
    fitted = pipeline().fit(frame, labels)
    new = frame.assign(domain="new")
    by_hand = fitted[1].transform(SAMLoRAEmbedder("vit_tiny").fit_transform(frame["path"]), domain=["new"] * len(new))
    np.testing.assert_array_equal(fitted[:-1].transform(new), by_hand)


@pytest.mark.slow
def test_single_cells_are_right_once_their_laboratory_was_added(frame, labels, tmp_path):
    fitted = pipeline().fit(frame, labels)
    new = frame.assign(domain="new")
    embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(new)
    together = fitted[1].transform(embeddings)
    with pytest.warns(UserWarning, match="'new' is new, and the statistics of 1 of its cells are unreliable"):
        alone = fitted[1].transform(embeddings[:1])
    assert np.abs(alone - together[:1]).max() > 0.01
    added = clone(fitted[1]).fit(SAMLoRAEmbedder("vit_tiny").fit_transform(frame)).add_domain(embeddings, "new")
    added.save_pretrained(tmp_path)
    for autoencoder in (added, CrossDomainAutoencoder.from_pretrained(tmp_path)):
        one_by_one = np.concatenate([autoencoder.transform(embeddings[[row]]) for row in range(len(embeddings))])
        np.testing.assert_allclose(one_by_one, together, atol=1e-5)


@pytest.mark.slow
def test_rows_of_an_unknown_domain_are_transformed_one_by_one(frame, labels):
    fitted = pipeline().fit(frame, labels)
    mixed = frame.assign(domain=[None, *frame["domain"][1:]])
    with pytest.warns(UserWarning, match=f"domain of 1 of {len(frame)} cells is unknown"):
        features = fitted[:-1].transform(mixed)
    np.testing.assert_allclose(features[1:], fitted[:-1].transform(frame)[1:], atol=1e-6)


def test_one_laboratory_is_explained_and_nobody_is_told_to_pass_what_was_passed(frame, labels):
    of_one = frame["domain"] == "lab_a"
    with pytest.warns(UserWarning, match=r"Got one domain, 'lab_a'.*shuffle") as caught:
        pipeline().fit(frame[of_one], labels[of_one])
    assert not any("pass" in str(warning.message) for warning in caught)


def test_embeddings_of_other_models_bring_their_domain_too(frame, labels):
    pooled = np.random.default_rng(0).normal(size=(len(frame), 6)).astype(np.float32)
    carried = CellEmbeddings.from_arrays(pooled, domain=frame["domain"])
    expected = autoencoder().fit(pooled, domain=frame["domain"]).transform(pooled, domain=frame["domain"])
    np.testing.assert_array_equal(autoencoder().fit_transform(carried), expected)
    assert carried[:3].domain.tolist() == frame["domain"][:3].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["list", "categorical", "string"])
def test_domains_of_any_column_type(frame, labels, kind):
    column = {"list": list(frame["domain"]), "categorical": pd.Categorical(frame["domain"]),
              "string": frame["domain"].astype("string")}[kind]  # fmt: skip
    embedded = SAMLoRAEmbedder("vit_tiny").fit_transform(pd.DataFrame({"path": frame["path"], "domain": column}))
    assert embedded.domain.tolist() == frame["domain"].tolist()


@pytest.mark.slow
@pytest.mark.cells
def test_on_real_cells_a_named_scoring_gives_what_the_loop_by_hand_gives(cells_root):
    cells = load_cells(cells_root / "cells.csv", domains=["acevedo", "tecom"],
                       classes=["eosinophil", "lymphocyte", "monocyte", "neutrophil"])  # fmt: skip
    rows = pd.Series(range(len(cells.target))).groupby([cells.domain, cells.target]).head(12).sort_values().to_numpy()
    frame, labels = cells.frame.iloc[rows], cells.labels[rows]
    pipe = make_pipeline(SAMLoRAEmbedder("vit_tiny"), autoencoder(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(pipe, {"logisticregression__C": [1.0]}, cv=FOLDS, scoring="balanced_accuracy")
    named = search.fit(frame, labels).cv_results_["mean_test_score"][0]

    embeddings, domain, by_hand = SAMLoRAEmbedder("vit_tiny").fit_transform(frame["path"]), frame["domain"], []
    for train, test in FOLDS.split(labels, labels):
        aligned = autoencoder().fit(embeddings[train], domain=domain.iloc[train])
        features = [aligned.transform(embeddings[part], domain=domain.iloc[part]) for part in (train, test)]
        classifier = LogisticRegression(max_iter=2000).fit(features[0], labels[train])
        by_hand.append(balanced_accuracy_score(labels[test], classifier.predict(features[1])))
    assert named == pytest.approx(np.mean(by_hand), abs=1e-9)


@pytest.fixture(scope="module")
def aligned(frame):
    return autoencoder().fit(SAMLoRAEmbedder("vit_tiny").fit_transform(frame))


def moved(frame, name="new"):
    """The cells as another laboratory would see them."""
    return CellEmbeddings.from_arrays(
        SAMLoRAEmbedder("vit_tiny").fit_transform(frame).pooled * 1.3, domain=[name] * len(frame)
    )


@pytest.mark.slow
def test_a_laboratory_that_is_added_changes_nothing_for_the_others(aligned, frame):
    added = copy.deepcopy(aligned)
    plain = CellEmbeddings.from_arrays(moved(frame).pooled)
    with pytest.warns(UserWarning, match="is unknown"):
        before = added.transform(plain)
    with pytest.warns(UserWarning, match="is unknown"):
        after = added.add_domain(moved(frame), "new").transform(plain)
    np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_a_part_without_an_added_laboratory_says_that_it_has_to_be_added_again(aligned, frame):
    added = copy.deepcopy(aligned).add_domain(moved(frame), "new")
    added.partial_fit(SAMLoRAEmbedder("vit_tiny").fit_transform(frame))
    with pytest.warns(UserWarning, match="'new' is new, and the statistics of 1 of its cells are unreliable"):
        added.transform(moved(frame)[:1])
    together = added.add_domain(moved(frame), "new").transform(moved(frame))
    np.testing.assert_allclose(added.transform(moved(frame)[:1]), together[:1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.bad_argument
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (3, ValueError, "Got name=3 but the fit has 'lab_a'. Fix: pass a name of the same type"),
        (True, TypeError, "Got name=True but expected a string or an int"),
        ("", TypeError, "Got name='' but expected"),
        ("lab_a", ValueError, "already known"),
        ("other", ValueError, r"X has cells of \['new'\]"),
    ],
)
def test_a_laboratory_that_cannot_be_added_leaves_all_as_it_was(aligned, frame, name, error, message):
    before = pickle.dumps(aligned)
    with pytest.raises(error, match=message):
        aligned.add_domain(moved(frame), name)
    assert pickle.dumps(aligned) == before


@pytest.mark.slow
def test_a_laboratory_cannot_be_added_to_a_fit_that_knew_none(frame):
    with pytest.warns(UserWarning, match="Got no domain"):
        alone = autoencoder().fit(moved(frame).pooled)
    with pytest.raises(ValueError, match="The fit had no domains"):
        alone.add_domain(moved(frame), "new")


@pytest.mark.slow
def test_a_domain_that_is_passed_wins_in_fit_and_in_transform(frame):
    embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(frame)
    site = np.where(np.arange(len(frame)) // 3 % 2, "s1", "s2")
    fitted = autoencoder()
    np.testing.assert_array_equal(
        fitted.fit_transform(embeddings, domain=site), fitted.transform(embeddings, domain=site)
    )


@pytest.mark.slow
def test_a_number_and_its_text_are_not_two_laboratories(frame):
    numbers = np.where(frame["domain"] == "lab_a", 1, 2)
    fitted = pipeline().fit(frame.assign(domain=numbers.astype(str)), frame["label"])
    with pytest.raises(ValueError, match="Got the domain 1 but the fit has '1', of another type"):
        fitted.predict(frame.assign(domain=numbers))


@pytest.mark.slow
def test_an_empty_text_is_no_laboratory(frame):
    with pytest.warns(UserWarning, match=f"domain of 1 of {len(frame)} cells is unknown"):
        pipeline()[:2].fit(frame, frame["label"]).transform(frame.assign(domain=["", *frame["domain"][1:]]))
    with pytest.raises(TypeError, match="Got domain='lab' but expected one value per cell"):
        CellEmbeddings.from_arrays(np.eye(3), domain="lab")


@pytest.mark.slow
def test_the_card_of_a_nested_pipeline_shows_the_table_too(frame, labels, tmp_path):
    stack = StackingClassifier([("a", pipeline())], LogisticRegression(), cv=FOLDS).fit(frame, labels)
    assert "pd.DataFrame" in (save_pretrained(stack, tmp_path / "stack") / "README.md").read_text()


@pytest.mark.slow
def test_the_distance_between_laboratories_reads_them_from_the_embeddings(frame):
    embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(frame)
    found = domain_shift(embeddings, random_state=0)
    pd.testing.assert_frame_equal(found, domain_shift(embeddings.pooled, frame["domain"], random_state=0))
    with pytest.raises(ValueError, match="Got no domain"):
        domain_shift(embeddings.pooled)
