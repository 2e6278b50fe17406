import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder
from sam_bloodcell.evaluation import (
    AbstainingClassifier,
    cross_domain_predictions,
    cross_domain_scores,
    leave_one_domain_out_predictions,
    score_predictions,
    summarise_scores,
)


class Reader(ClassifierMixin, BaseEstimator):
    """Answers with the cell's only feature, whatever it was trained on; remembers each fit."""

    fits: list = []

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.fits.append((np.asarray(X).copy(), np.asarray(y).copy()))
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0].astype(int)


def test_metrics_equal_a_hand_count():
    y = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1])
    X = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1])[:, None]  # two of the second domain's zeros are missed
    scores = cross_domain_scores(Reader(), X, y, domain=["a"] * 6 + ["b"] * 6, cv=2, random_state=0)
    a_to_b = scores.query("train_domain == 'a' and test_domain == 'b'").iloc[0]
    assert a_to_b["accuracy"] == pytest.approx(4 / 6)
    assert a_to_b["balanced_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert a_to_b["macro_f1"] == pytest.approx((2 / 4 + 6 / 8) / 2)
    assert a_to_b[["n_train", "n_test", "n_left_out", "n_classes"]].tolist() == [3, 6, 0, 2]


def test_a_row_per_classifier_pair_and_fold(separable):
    X, y, domain = separable
    classifiers = {"z": LogisticRegression(), "a": make_pipeline(StandardScaler(), LogisticRegression())}
    scores = cross_domain_scores(classifiers, X, y, domain=domain, random_state=0)
    assert len(scores) == 2 * 2 * 2 * 5
    assert scores["classifier"].unique().tolist() == ["z", "a"]
    within = scores["train_domain"] == scores["test_domain"]
    assert scores.loc[within, "n_test"].eq(6).all()
    assert scores.loc[~within, "n_test"].eq(30).all()
    assert scores["accuracy"].min() > 0.9
    again = cross_domain_scores(classifiers, X, y, domain=domain, random_state=0)
    pd.testing.assert_frame_equal(scores, again)


def test_no_label_of_the_tested_domain_reaches_a_fit(separable):
    X, y, domain = separable
    runs = []
    for labels in (y, np.where(domain == "b", np.roll(y, 1), y)):
        Reader.fits.clear()
        X[:, 0] = 0
        cross_domain_scores(Reader(), X, labels, domain=domain, random_state=0)
        runs.append(Reader.fits[:5])  # the fits on domain a
    for (X_1, y_1), (X_2, y_2) in zip(*runs, strict=True):
        np.testing.assert_array_equal(X_1, X_2)
        np.testing.assert_array_equal(y_1, y_2)
        assert np.isin(X_1[:, 1], X[domain == "a", 1]).all()


def test_rare_class_is_left_out_with_one_warning(separable):
    X, y, domain = separable
    y[:4] = "basophil"
    y[30] = "smudge"
    message = r"'basophil' of domain 'a' \(4 cells\), 'smudge' of domain 'b' \(1 cell\)"
    with pytest.warns(UserWarning, match=message) as caught:
        scores = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert scores.query("train_domain == 'b' and test_domain == 'a'")["n_test"].eq(26).all()


def test_class_unknown_to_the_training_domain_is_counted_not_scored(separable):
    X, y, domain = separable
    y[(domain == "b") & (y == "monocyte")] = "basophil"
    scores = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    across = scores.query("train_domain == 'a' and test_domain == 'b'")
    assert across["n_left_out"].eq(10).all()
    assert across["n_test"].eq(20).all()
    assert across["n_classes"].eq(2).all()


def test_pair_without_a_common_class_scores_nan(separable):
    X, y, domain = separable
    y = np.where(domain == "b", np.char.add(y, "_atypical"), y)
    scores = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    across = scores["train_domain"] != scores["test_domain"]
    assert scores.loc[across, "accuracy"].isna().all()
    assert summarise_scores(scores)["n"].tolist() == [5, 0, 0, 5]


def test_xgboost_takes_labels_with_gaps(separable):
    import xgboost

    X, y, domain = separable
    gaps = np.unique(y, return_inverse=True)[1] * 5 + 2
    estimator = xgboost.XGBClassifier(n_estimators=20, min_child_weight=0, n_jobs=1)
    scores = cross_domain_scores(estimator, X, gaps, domain=domain, cv=2, random_state=0)
    assert scores["accuracy"].mean() > 0.7


def test_paths_are_handed_to_a_pipeline(separable):
    X, y, domain = separable
    table = {f"{i}.png": row for i, row in enumerate(X)}
    read = FunctionTransformer(lambda paths: np.stack([table[path] for path in paths]))
    options = {"domain": domain, "random_state": 0}
    from_paths = cross_domain_scores(make_pipeline(read, LogisticRegression()), list(table), y, **options)
    pd.testing.assert_frame_equal(from_paths, cross_domain_scores(LogisticRegression(), X, y, **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 1]}, "Got 60 samples in X, 2 in y, 60 in domain"),
        ({"y": [0, None] * 30}, "Row 1: y is missing"),
        ({"domain": ["a", "a", np.nan] * 20}, "Row 2: domain is missing"),
        ({"y": np.zeros((60, 2))}, r"Got y of shape \(60, 2\)"),
        ({"y": ["only"] * 60}, r"Got 1 class\(es\) of at least cv=5 cells in domain 'a'"),
        ({"cv": 1}, "Got cv=1 but expected at least 2"),
        ({"estimators": {}}, "Got no estimators"),
    ],
)
def test_bad_input_names_cause_and_fix(separable, change, message):
    X, y, domain = separable
    arguments = {"estimators": LogisticRegression(), "X": X, "y": y, "domain": domain, **change}
    with pytest.raises(ValueError, match=message):
        cross_domain_scores(**arguments)


def test_predictions_are_a_row_per_cell_and_fit(separable):
    X, y, domain = separable
    found = cross_domain_predictions(LogisticRegression(), X, y, domain=domain, random_state=0)
    assert len(found) == 2 * (30 + 5 * 30)
    at_home = found.query("train_domain == test_domain")
    assert sorted(at_home["row"]) == list(range(60))
    assert (found["label"] == y[found["row"]]).all()
    assert (found["test_domain"] == domain[found["row"]]).all()
    assert found["confidence"].between(1 / 3, 1).all()
    assert found["n_train"].eq(24).all()


def test_provenance_says_what_the_numbers_rest_on(separable):
    X, y, domain = separable
    found = cross_domain_scores(LogisticRegression(C=3.0), X, y, domain=domain, cv=2, random_state=7).attrs[
        "provenance"
    ]
    assert found["random_state"] == 7
    assert found["n_cells"] == 60
    assert found["estimators"] == {"LogisticRegression": "LogisticRegression(C=3.0)"}
    assert {"sam-bloodcell", "scikit-learn", "python"} <= set(found["versions"])
    swapped = np.where(y == "monocyte", "x", y)
    other = cross_domain_scores(LogisticRegression(), X, swapped, domain=domain, cv=2, random_state=7)
    assert other.attrs["provenance"]["cells_sha256"] != found["cells_sha256"]


def test_no_fold_cuts_a_group(separable):
    X, y, domain = separable
    groups = np.arange(60) // 3
    found = cross_domain_predictions(LogisticRegression(), X, y, domain=domain, groups=groups, cv=3, random_state=0)
    at_home = found.query("train_domain == test_domain")
    assert at_home.groupby("group")["fold"].nunique().eq(1).all()
    assert (found["group"] == groups[found["row"]]).all()


def test_a_group_in_two_domains_is_warned_of(separable):
    X, y, domain = separable
    groups = np.array([f"p{i % 30 // 3}" for i in range(60)])
    with pytest.warns(UserWarning, match=r"10 group\(s\) occur in several domains, such as p0"):
        cross_domain_predictions(LogisticRegression(), X, y, domain=domain, groups=groups, cv=2, random_state=0)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_a_splitter_that_cuts_groups_is_warned_of(separable):
    X, y, domain = separable
    splitter = StratifiedKFold(2, shuffle=True, random_state=0)
    with pytest.warns(UserWarning, match=r"group\(s\) are cut by a fold"):
        found = cross_domain_predictions(
            LogisticRegression(), X, y, domain=domain, groups=np.arange(60) // 3, cv=splitter, random_state=0
        )
    assert found["fold"].nunique() == 2


def test_fewer_groups_than_folds_is_an_error(separable):
    X, y, domain = separable
    with pytest.raises(ValueError, match=r"Got 2 group\(s\) in domain 'a' but expected at least cv=5"):
        cross_domain_predictions(LogisticRegression(), X, y, domain=domain, groups=np.arange(60) // 15)


class Centre(TransformerMixin, BaseEstimator):
    """Takes the mean of each domain away where told the domain, else that of the fit; remembers what it saw."""

    seen: list = []

    def fit(self, X, y=None, *, domain=None):
        self.mean_ = np.mean(X, axis=0)
        self.seen.append((len(X), None if domain is None else sorted(set(domain))))
        return self

    def transform(self, X, *, domain=None):
        X = np.asarray(X)
        if domain is None:
            return X - self.mean_
        return X - np.stack([X[domain == name].mean(0) for name in domain])


@pytest.mark.parametrize(("mode", "seen"), [("inductive", (24, ["a"])), ("transductive", (60, ["a", "b"]))])
def test_what_a_mode_lets_domain_steps_see(separable, mode, seen):
    X, y, domain = separable
    X[domain == "b", 0] += 30
    Centre.seen.clear()
    pipe = make_pipeline(FunctionTransformer(), Centre(), LogisticRegression())
    scores = cross_domain_scores(pipe, X, y, domain=domain, mode=mode, random_state=0)
    assert Centre.seen[0] == seen
    assert len(Centre.seen) == (10 if mode == "inductive" else 1)
    across = scores.query("train_domain != test_domain")["accuracy"]
    assert (across > 0.9).all() if mode == "transductive" else (across < 0.7).all()


@pytest.mark.parametrize("kind", ["embeddings", "table"])
@pytest.mark.parametrize("mode", ["inductive", "transductive"])
def test_cells_bring_their_domains(separable, kind, mode):
    X, y, domain = separable
    read = FunctionTransformer(lambda table: X[table["path"].to_numpy()])  # in the place of an embedder
    if kind == "table":
        carried = pd.DataFrame({"path": range(len(X)), "domain": domain})
    else:
        read, carried = FunctionTransformer(), CellEmbeddings.from_arrays(X, domain=domain)
    pipe = make_pipeline(read, CrossDomainAutoencoder(4, epochs=2, random_state=0), LogisticRegression())
    plain = make_pipeline(CrossDomainAutoencoder(4, epochs=2, random_state=0), LogisticRegression())
    options = {"mode": mode, "cv": 2, "random_state": 0}
    expected = cross_domain_predictions(plain, X.astype(np.float32), y, domain=domain, **options)
    found = cross_domain_predictions(pipe, carried, y, **options)
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match=r"Got no domain. Fix: pass domain=\.\.\., or a table"):
        cross_domain_predictions(plain, X, y, **options)


@pytest.mark.parametrize("mode", ["inductive", "transductive"])
@pytest.mark.parametrize(
    "hidden",
    [
        GridSearchCV(make_pipeline(Centre(), LogisticRegression()), {"logisticregression__C": [1]}),
        GridSearchCV(Pipeline([("step", "passthrough"), ("last", LogisticRegression())]), {"step": [Centre()]}),
        VotingClassifier([("a", make_pipeline(Centre(), LogisticRegression()))]),
        make_pipeline(make_union(Centre(), "passthrough"), LogisticRegression()),
        make_pipeline(make_pipeline(Centre()), LogisticRegression()),
    ],
    ids=["search", "grid", "vote", "union", "pipeline"],
)
def test_a_step_that_takes_domains_may_not_be_hidden(separable, hidden, mode):
    X, y, domain = separable
    with pytest.raises(ValueError, match=r"Centre inside the estimator .* but expected it as a step of the pipeline"):
        cross_domain_predictions(hidden, X, y, domain=domain, mode=mode)


def test_leave_one_domain_out():
    rng = np.random.default_rng(0)
    y, domain = np.tile(["x", "y"], 30), np.repeat(["a", "b", "c"], 20)
    X = rng.normal(size=(60, 2)) + 6 * (y == "x")[:, None]
    Reader.fits.clear()
    found = leave_one_domain_out_predictions(LogisticRegression(), X, y, domain=domain, random_state=0)
    assert found["train_domain"].unique().tolist() == ["others"]
    assert sorted(found["row"]) == list(range(60))
    assert found["n_train"].eq(40).all()
    assert (found["label"] == found["predicted"]).mean() > 0.9
    with pytest.raises(ValueError, match="Got cells of one domain"):
        leave_one_domain_out_predictions(LogisticRegression(), X[:20], y[:20], domain=domain[:20])


def test_an_unknown_mode_is_an_error(separable):
    X, y, domain = separable
    with pytest.raises(
        ValueError, match=r"The 'mode' parameter of cross_domain_predictions must be a str among .* Got 'both' instead"
    ):
        cross_domain_scores(LogisticRegression(), X, y, domain=domain, mode="both")


class Abstainer(ClassifierMixin, BaseEstimator):
    """Knows the nearest class centre, but answers with `unknown` wherever the last feature is above 50."""

    def __init__(self, unknown=-1):
        self.unknown = unknown

    def fit(self, X, y):
        self.model_ = LogisticRegression(max_iter=2000).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        answers = self.model_.predict(X).astype(object)
        answers[np.asarray(X)[:, -1] > 50] = self.unknown
        return answers if isinstance(self.unknown, str | None) else answers.astype(type(self.unknown))

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


@pytest.mark.parametrize("unknown", [-1, 99, np.nan, "unknown", None], ids=str)
@pytest.mark.parametrize(
    ("names", "answer"),
    [(["x", "y", "z"], "unknown"), ([0, 1, 2], -1), ([-5, 1, 2], -6), ([0.0, 1.0, 2.0], -1)],
    ids=["text", "numbers", "negative", "floats"],
)
def test_an_abstention_is_no_class(separable, unknown, names, answer):
    X, y, domain = separable
    y = np.array(names)[np.unique(y, return_inverse=True)[1]]
    strange = np.arange(60) % 6 == 0
    X[strange] = 99
    found = cross_domain_predictions(Abstainer(unknown), X, y, domain=domain, cv=2, random_state=0)
    assert found["predicted"].eq(answer).equals(pd.Series(strange[found["row"]]))
    assert found["confidence"].isna().equals(pd.Series(strange[found["row"]]))
    assert score_predictions(found)["accuracy"].mean() < 0.9


def test_a_classifier_that_knows_no_cell_of_a_new_laboratory_is_right_nowhere_there(separable):
    X, y, domain = separable
    X[domain == "b"] += 1000
    found = cross_domain_scores(AbstainingClassifier(random_state=0), X, y, domain=domain, random_state=0)
    assert found.query("train_domain == 'a' and test_domain == 'b'")["accuracy"].eq(0).all()
    assert found.query("train_domain == 'a' and test_domain == 'a'")["accuracy"].gt(0.5).all()


@pytest.mark.parametrize(("unknown", "answer"), [(-1, "unknown (no class)"), ("monocyte", "monocyte (no class)")])
def test_an_abstention_is_told_from_a_class_of_its_name(separable, unknown, answer):
    X, y, domain = separable
    y[y == "neutrophil"] = "unknown"
    X[::6] = 99
    found = cross_domain_predictions(Abstainer(unknown), X, y, domain=domain, cv=2, random_state=0)
    assert (found["predicted"] == answer).equals(found["row"] % 6 == 0)


def test_answers_of_a_regressor_are_refused(separable):
    X, y, domain = separable
    with pytest.raises(ValueError, match=r"as an answer of 'LinearRegression' but expected a class"):
        cross_domain_predictions(LinearRegression(), X, y, domain=domain, cv=2)


def test_probabilities_that_are_nan_cost_their_own_confidence_alone(separable):
    class Broken(LogisticRegression):
        def predict_proba(self, X):
            return np.where(np.arange(len(X))[:, None] == 0, np.nan, super().predict_proba(X))

    X, y, domain = separable
    scores = cross_domain_scores(Broken(), X, y, domain=domain, cv=2, random_state=0)
    assert scores[["ece", "ece_all"]].notna().all(axis=None)
    found = cross_domain_predictions(Broken(), X, y, domain=domain, cv=2, random_state=0)
    assert found["confidence"].isna().sum() == found.groupby(["train_domain", "fold", "test_domain"]).ngroups
    assert scores["accuracy"].min() > 0.9


@pytest.mark.parametrize("kind", ["category", "string", "object", "list"])
def test_columns_of_any_type_give_the_same_predictions(separable, kind):
    X, y, domain = separable
    expected = cross_domain_predictions(LogisticRegression(), X, y, domain=domain, random_state=0)
    columns = [list(column) if kind == "list" else pd.Series(column).astype(kind) for column in (y, domain)]
    found = cross_domain_predictions(LogisticRegression(), X, columns[0], domain=columns[1], random_state=0)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("kind", ["uint8", "int8", "bool", "Int64", "boolean"])
def test_labels_of_any_type_of_numbers_are_scored_alike(separable, kind):
    X, y, domain = separable
    y = (y == "monocyte").astype(int)
    expected = cross_domain_scores(LogisticRegression(), X, y, domain=domain, random_state=0)
    found = cross_domain_scores(LogisticRegression(), X, pd.Series(y).astype(kind), domain=domain, random_state=0)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("column", ["y", "domain", "groups"])
@pytest.mark.parametrize(
    ("change", "message"),
    [({3: pd.NA}, "Row 3: {} is missing"), ({3: 1}, "Row 3: got {}=1 of type int among text but expected one type")],
    ids=["missing", "mixed"],
)
def test_gaps_and_mixed_types_name_column_and_row(separable, column, change, message):
    X, y, domain = separable
    columns = {"y": y, "domain": domain, "groups": np.array([f"p{i}" for i in range(60)])}
    values = columns[column].astype(object)
    for row, value in change.items():
        values[row] = value
    columns[column] = values
    with pytest.raises(ValueError, match=message.format(column)):
        cross_domain_predictions(LogisticRegression(), X, **columns)


def test_a_message_names_the_argument_that_the_caller_has(separable):
    X, y, domain = separable
    with pytest.raises(
        ValueError, match=r"at least min_cells=11 cells in domain 'a' .* Fix: add cells, lower min_cells"
    ):
        leave_one_domain_out_predictions(LogisticRegression(), X, y, domain=domain, min_cells=11)
    y[:4] = "basophil"
    with pytest.warns(UserWarning, match="Left out classes with fewer than min_cells=5 cells"):
        leave_one_domain_out_predictions(LogisticRegression(), X, y, domain=domain)


def test_a_message_names_no_number_that_the_caller_did_not_pass(separable):
    X, y, domain = separable
    y[0] = "basophil"
    splitter = StratifiedKFold(2)
    message = r"with fewer than 2 cells in a domain: 'basophil' .*\. Fix: add cells, or leave these classes out\."
    with pytest.warns(UserWarning, match=message):
        cross_domain_predictions(Abstainer(), X, y, domain=domain, cv=splitter)
    message = r"Got 1 class\(es\) of at least 2 cells in domain 'a' .* Fix: add cells, or leave the domain out\."
    with pytest.raises(ValueError, match=message):
        cross_domain_predictions(Abstainer(), X, np.where(domain == "a", "x", y), domain=domain, cv=splitter)


def test_leaving_a_domain_out_draws_no_seed(separable):
    X, y, domain = separable
    found = leave_one_domain_out_predictions(Abstainer(), X, y, domain=domain)
    assert found.attrs["provenance"]["random_state"] is None


def test_a_class_whose_only_patient_is_held_out_is_told(separable):
    X, y, domain = separable
    groups = np.arange(60) // 5
    y[:5] = "basophil"
    message = (
        r"Left out classes that the training cells of a fold lack: 'basophil' of domain 'a' \(1 group\(s\)\) in 1 .*"
        r" Fix: add groups with these classes, or raise cv\."
    )
    with pytest.warns(UserWarning, match=message):
        found = cross_domain_predictions(Abstainer(), X, y, domain=domain, groups=groups, cv=2, random_state=0)
    assert not found.query("train_domain == 'a' and test_domain == 'a' and label == 'basophil'")["known"].any()


def test_a_training_of_one_class_is_refused(separable):
    X, y, domain = separable
    groups = np.unique(y, return_inverse=True)[1] + 3 * (domain == "b")
    with pytest.raises(ValueError, match=r"Got a fold of domain 'a' whose training has 1 class\(es\) \("):
        cross_domain_predictions(LogisticRegression(), X, y, domain=domain, groups=groups, cv=2, random_state=0)


def test_a_fold_without_cells_is_no_error():
    class Lopsided:
        def split(self, X, y=None, groups=None):
            yield np.arange(len(X)), np.array([], int)
            yield np.arange(len(X))[::2], np.arange(len(X))[1::2]

        def get_n_splits(self, X=None, y=None, groups=None):
            return 2

    y = np.repeat([0, 1], 10)
    found = cross_domain_predictions(LogisticRegression(), y[:, None], y, domain=["a"] * 20, cv=Lopsided())
    assert found["fold"].unique().tolist() == [1]


def test_domains_without_a_common_class_cannot_be_left_out_one_by_one(separable):
    X, y, domain = separable
    y = np.where(domain == "b", np.char.add(y, "_atypical"), y)
    with pytest.raises(ValueError, match=r"'a' has 'lymphocyte', .*; 'b' has 'lymphocyte_atypical', "):
        leave_one_domain_out_predictions(LogisticRegression(), X, y, domain=domain)


def test_a_laboratory_named_others_is_still_across():
    y, domain = np.tile([0, 1], 15), np.repeat(["a", "b", "others"], 10)
    found = leave_one_domain_out_predictions(LogisticRegression(), y[:, None], y, domain=domain)
    assert (found["train_domain"] != found["test_domain"]).all()


class Doubter(ClassifierMixin, BaseEstimator):
    """Writes "unknown" among its answers, of which numpy makes text."""

    def fit(self, X, y):
        self.fitted_ = LogisticRegression().fit(X, y)
        self.classes_ = self.fitted_.classes_
        return self

    def predict(self, X):
        return np.where(self.fitted_.predict_proba(X).max(1) < 0.8, "unknown", self.fitted_.predict(X))


def test_codes_that_numpy_made_text_are_still_codes(separable):
    X, y, domain = separable
    found = cross_domain_predictions(Doubter(), X, y, domain=domain, random_state=0)
    assert set(found["predicted"]) <= {*y, "unknown"}
    given = found[found["predicted"] != "unknown"]
    assert (given["label"] == given["predicted"]).mean() > 0.9


def test_an_estimator_that_was_fitted_before_answers_names(separable):
    X, y, domain = separable
    frozen = FrozenEstimator(LogisticRegression().fit(X, y))
    found = cross_domain_predictions(frozen, X, y, domain=domain, random_state=0)
    assert (found["label"] == found["predicted"]).mean() > 0.9


def test_a_splitter_without_a_seed_gets_that_of_the_call(separable):
    X, y, domain = separable
    tables = [
        cross_domain_predictions(
            LogisticRegression(), X, y, domain=domain, cv=StratifiedKFold(3, shuffle=True), random_state=0
        )
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*tables)
