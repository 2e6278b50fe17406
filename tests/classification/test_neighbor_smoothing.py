import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline as make_imbalanced_pipeline
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from sam_bloodcell import (
    CellClassifier,
    CellEmbeddings,
    CrossDomainAutoencoder,
    NeighborSmoothedClassifier,
    from_pretrained,
    save_pretrained,
)
from sam_bloodcell.classification import neighbor_smoothing
from sam_bloodcell.datasets import make_blood_cells

FEW = "ignore:Got .* cells .* too few to be smoothed"


def clusters(n=120, noise=0.0, seed=0):
    """Cells of three types, far apart along three features; the first feature tells the types less well."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    X = rng.normal(size=(n, 10))
    X[:, 0] = noise * X[:, 0] + 2 * kind
    X[:, 1:4] += 6 * np.eye(3)[kind]
    return X, np.array(["eosinophil", "lymphocyte", "monocyte"])[kind]


class OnFirstFeature(LogisticRegression):
    """Looks at one feature only, whose noise makes it wrong now and then, and not at those that tell the types."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(np.asarray(X)[:, :1], y, sample_weight)

    def predict_proba(self, X):
        return super().predict_proba(np.asarray(X)[:, :1])


@pytest.fixture
def unsure():
    """A smoothed classifier that alone is right for three cells in four, cells, and their types."""
    train, y = clusters(300, noise=1.0)
    X, types = clusters(240, noise=1.0, seed=1)
    return NeighborSmoothedClassifier(OnFirstFeature()).fit(train, y), X, types


# scikit-learn's contract


@pytest.mark.filterwarnings(FEW)
@parametrize_with_checks(
    [
        NeighborSmoothedClassifier(LogisticRegression()),
        NeighborSmoothedClassifier(make_pipeline(FunctionTransformer(validate=True), LogisticRegression())),
    ],
    expected_failed_checks=lambda _: {"check_methods_subset_invariance": "an answer depends on the other cells"},
    xfail_strict=True,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_classes_and_features_keep_their_names(unsure):
    X, _ = clusters()
    frame = pd.DataFrame(X, columns=list("abcdefghij"))
    for y in (np.arange(120) % 3 == 1, np.arange(120) % 3 - 5, np.array(list("xyz") * 40, dtype=object)):
        fitted = NeighborSmoothedClassifier(LogisticRegression()).fit(frame, y)
        assert fitted.classes_.tolist() == sorted(set(y.tolist()))
        assert fitted.feature_names_in_.tolist() == list("abcdefghij")
        assert (fitted.predict(frame) == y).all()


def test_it_is_cloned_pickled_and_searched(unsure):
    fitted, X, types = unsure
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.predict_proba(X), fitted.predict_proba(X))
    assert repr(clone(fitted)) == repr(fitted)
    search = GridSearchCV(NeighborSmoothedClassifier(LogisticRegression()), {"estimator__C": [1], "n_neighbors": [3]})
    assert search.fit(X, types).best_estimator_.n_neighbors == 3


def test_it_is_saved_without_pickle_and_loaded(tmp_path):
    X, y = clusters()
    fitted = make_pipeline(StandardScaler(), NeighborSmoothedClassifier(LogisticRegression())).fit(X, y)
    back = from_pretrained(save_pretrained(fitted, tmp_path))
    np.testing.assert_array_equal(back.predict_proba(X), fitted.predict_proba(X))


# What smoothing does


def test_like_cells_correct_one_another(unsure):
    fitted, X, types = unsure
    alone = fitted.classes_[fitted.estimator_.predict_proba(X).argmax(axis=1)]
    assert (alone == types).mean() < 0.8
    assert (fitted.predict(X) == types).mean() > 0.95


def test_answers_are_those_of_the_published_fixed_point(unsure):
    """Boudiaf et al., equation 7, iterated on a dense affinity matrix."""
    fitted, X, _ = unsure
    own = fitted.estimator_.predict_proba(X)
    directions = X - X.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = directions @ directions.T - 2 * np.eye(len(X))
    affinity = np.zeros_like(cosine)
    np.put_along_axis(affinity, np.argsort(-cosine, axis=1)[:, :5], 1.0, axis=1)
    z = own
    for _ in range(200):
        z = own * np.exp(affinity @ z)
        z /= z.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[z.argmax(axis=1)])


def test_probabilities_stay_as_sure_as_the_estimators_own(unsure):
    fitted, X, types = unsure
    own, smoothed = fitted.estimator_.predict_proba(X), fitted.predict_proba(X)
    np.testing.assert_allclose(smoothed.sum(axis=1), 1)
    assert smoothed.max(axis=1).mean() == pytest.approx(own.max(axis=1).mean(), abs=1e-6)
    assert log_loss(types, smoothed) < log_loss(types, own)


def test_a_cell_alone_gets_the_estimators_own_answer(unsure):
    fitted, X, _ = unsure
    one_by_one = np.concatenate([fitted.predict_proba(row[None]) for row in X])
    np.testing.assert_array_equal(one_by_one, fitted.estimator_.predict_proba(X))
    each_its_own = fitted.predict_proba(X, domain=np.arange(len(X)))
    np.testing.assert_array_equal(each_its_own, fitted.estimator_.predict_proba(X))


def test_few_cells_of_a_laboratory_are_warned_of(unsure):
    fitted, X, _ = unsure
    with pytest.warns(UserWarning, match=r"Got 19 cells of the domain 'lyon', .* own answers\. .* least 20"):
        fitted.predict(X[:120], domain=["lyon"] * 19 + ["bern"] * 101)
    with pytest.warns(UserWarning, match="Got 2 cells of unknown domain"):
        fitted.predict(X[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict(X[:40], domain=["lyon"] * 20 + ["bern"] * 20)


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize(("n", "n_neighbors"), [(19, 0), (20, 1), (45, 2), (99, 4), (100, 5), (240, 5)])
def test_few_cells_are_smoothed_over_fewer_neighbours(unsure, monkeypatch, n, n_neighbors):
    taken = []
    search = neighbor_smoothing.nearest_cells
    monkeypatch.setattr(neighbor_smoothing, "nearest_cells", lambda X, rows, k: taken.append(k) or search(X, rows, k))
    unsure[0].predict(unsure[1][:n])
    assert taken == [n_neighbors] * (n_neighbors > 0)


def test_equal_cells_and_certain_answers_stay_finite():
    X, y = clusters()
    fitted = NeighborSmoothedClassifier(LogisticRegression(C=1e9), 7).fit(X, y)
    same = fitted.predict_proba(np.repeat(X[:1], 50, axis=0))
    np.testing.assert_allclose(same, same[:1].repeat(50, axis=0))
    assert (fitted.predict(X) == y).all()


def test_the_check_without_labels_tells_where_neighbours_agree(unsure):
    fitted, X, types = unsure
    domain = np.repeat(["lyon", "bern", "few"], [120, 110, 10])
    found = fitted.neighbor_agreement(X, domain=domain).set_index("domain")
    assert found["n_cells"].to_dict() == {"bern": 110, "lyon": 120}
    right = NeighborSmoothedClassifier(LogisticRegression()).fit(X, types)
    assert right.neighbor_agreement(X)["kappa"].item() > 0.99
    assert (found["kappa"] < 0.7).all()
    shuffled = right.fit(X, np.random.default_rng(0).permutation(types)).neighbor_agreement(X)
    assert shuffled["kappa"].item() < right.fit(X, types).neighbor_agreement(X)["kappa"].item()
    share = found.loc["lyon", "chance"]
    answers = fitted.estimator_.predict_proba(X[:120]).argmax(axis=1)
    assert share == pytest.approx(np.square(np.bincount(answers) / 120).sum())


def test_the_check_of_a_single_class_is_undefined(unsure):
    _, X, types = unsure
    alike = NeighborSmoothedClassifier(LogisticRegression()).fit(X, types).neighbor_agreement(X[types == "monocyte"])
    assert alike["agreement"].item() == 1
    assert np.isnan(alike["kappa"].item())


# Laboratories


def test_each_laboratory_is_smoothed_by_itself(unsure):
    fitted, X, _ = unsure
    domain = np.where(np.arange(len(X)) % 5 < 2, "lyon", "bern")
    together = fitted.predict_proba(X, domain=domain)
    for name in ("lyon", "bern"):
        np.testing.assert_allclose(together[domain == name], fitted.predict_proba(X[domain == name]))
    assert not np.allclose(together, fitted.predict_proba(X))


def test_embeddings_and_tables_bring_the_laboratory_along(unsure):
    fitted, X, y = unsure
    domain = np.where(np.arange(len(X)) % 5 < 2, "lyon", "bern")
    carried = CellEmbeddings.from_arrays(X.astype(np.float32), domain=domain)
    expected = fitted.predict_proba(carried.pooled, domain=domain)
    np.testing.assert_array_equal(fitted.predict_proba(carried), expected)
    np.testing.assert_array_equal(fitted.predict(carried), fitted.predict(carried.pooled, domain=domain))
    other = domain[::-1]
    np.testing.assert_array_equal(
        fitted.predict_proba(carried, domain=other), fitted.predict_proba(carried.pooled, domain=other)
    )
    table = pd.DataFrame(X, columns=list("abcdefghij")).assign(domain=domain)
    columns = FunctionTransformer(lambda frame: frame[list("abcdefghij")])
    of_table = NeighborSmoothedClassifier(make_pipeline(columns, LogisticRegression())).fit(table, y)
    without = of_table.predict_proba(table.drop(columns="domain"), domain=domain)
    np.testing.assert_array_equal(of_table.predict_proba(table), without)


def test_cells_of_unknown_laboratories_are_smoothed_together(unsure):
    fitted, X, _ = unsure
    unknown = np.arange(len(X)) % 2 == 0
    domain = np.where(unknown, None, "bern").astype(object)
    carried = CellEmbeddings.from_arrays(X.astype(np.float32), domain=domain)
    expected = fitted.predict_proba(carried.pooled[unknown])
    np.testing.assert_allclose(fitted.predict_proba(carried)[unknown], expected)


def autoencoder():
    return CrossDomainAutoencoder(4, epochs=2, random_state=0)


def test_the_domain_reaches_an_autoencoder_before_the_classifier(unsure):
    _, X, y = unsure
    X = X.astype(np.float32)
    domain = np.where(np.arange(len(X)) % 5 < 2, "lyon", "bern")
    carried = CellEmbeddings.from_arrays(X, domain=domain)
    line = NeighborSmoothedClassifier(make_pipeline(autoencoder(), LogisticRegression()))
    expected = line.fit(carried, y).predict_proba(carried)
    with config_context(enable_metadata_routing=True):
        routed = line.fit(X, y, domain=domain).predict_proba(X, domain=domain)
    np.testing.assert_allclose(routed, expected, atol=1e-6)
    features = line.estimator_[0].transform(X, domain=domain)
    by_hand = NeighborSmoothedClassifier(LogisticRegression()).fit(features, y)
    np.testing.assert_allclose(by_hand.predict_proba(features, domain=domain), expected, atol=1e-6)


def test_without_routing_the_domain_still_reaches_the_fit(unsure):
    _, X, y = unsure
    domain = np.where(np.arange(len(X)) % 5 < 2, "lyon", "bern")
    line = NeighborSmoothedClassifier(make_pipeline(autoencoder(), LogisticRegression()))
    with pytest.warns(UserWarning, match="fit_transform used domain only in fit"):
        line.fit(X, y, domain=domain)
    assert line.estimator_[0].domains_.tolist() == ["bern", "lyon"]
    NeighborSmoothedClassifier(LogisticRegression()).fit(X, y, domain=domain)  # which takes no domain


def test_weights_reach_the_estimator_with_and_without_routing(unsure):
    _, X, y = unsure
    weight = np.where(y == "monocyte", 5.0, 1.0)
    expected = LogisticRegression().fit(X, y, weight).coef_
    plain = NeighborSmoothedClassifier(LogisticRegression()).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(plain.estimator_.coef_, expected)
    line = make_pipeline("passthrough", make_pipeline("passthrough", LogisticRegression()))
    last = NeighborSmoothedClassifier(line).fit(X, y, sample_weight=weight).estimator_[-1][-1]
    np.testing.assert_allclose(last.coef_, expected)
    with config_context(enable_metadata_routing=True):
        asked = NeighborSmoothedClassifier(LogisticRegression().set_fit_request(sample_weight=True))
        np.testing.assert_allclose(asked.fit(X, y, sample_weight=weight).estimator_.coef_, expected)


def test_routing_hands_on_the_domain_through_a_pipeline_and_a_cross_validation(unsure):
    _, X, y = unsure
    domain = np.where(np.arange(len(X)) % 5 < 2, "lyon", "bern")
    with config_context(enable_metadata_routing=True):
        outer = make_pipeline(StandardScaler(), NeighborSmoothedClassifier(LogisticRegression()))
        outer.fit(X, y, domain=domain)
        found = outer.predict_proba(X, domain=domain)
        assert len(cross_val_predict(outer, X, y, params={"domain": domain}, cv=2)) == len(X)
    np.testing.assert_array_equal(found, outer[-1].predict_proba(outer[0].transform(X), domain=domain))


# The features in which neighbours are found


def test_neighbours_are_found_in_what_a_pipelines_last_step_sees(unsure):
    _, X, y = unsure
    X = X + 50
    inner = make_pipeline(StandardScaler(), PCA(2), make_pipeline(StandardScaler(), LogisticRegression()))
    fitted = NeighborSmoothedClassifier(inner).fit(X, y)
    features = fitted.estimator_[-1][0].transform(fitted.estimator_[:-1].transform(X))
    by_hand = NeighborSmoothedClassifier(LogisticRegression()).fit(features, y)
    np.testing.assert_allclose(fitted.predict_proba(X), by_hand.predict_proba(features))


def test_a_pipeline_of_imbalanced_learn_and_tables_as_output(unsure):
    _, X, y = unsure
    steps = RandomOverSampler(random_state=0), StandardScaler(), LogisticRegression()
    fitted = NeighborSmoothedClassifier(make_imbalanced_pipeline(*steps)).fit(X, y)
    expected = fitted.predict_proba(X)
    with config_context(transform_output="pandas"):
        np.testing.assert_array_equal(
            NeighborSmoothedClassifier(make_imbalanced_pipeline(*steps)).fit(X, y).predict_proba(X), expected
        )


def test_sparse_features_stay_sparse(unsure):
    _, X, y = unsure
    fitted = NeighborSmoothedClassifier(LogisticRegression()).fit(sparse.csr_matrix(X), y)
    assert (fitted.predict(sparse.csr_matrix(X)) == y).mean() > 0.95


def test_among_many_cells_nearly_all_neighbours_are_found(monkeypatch):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(8, 30))[np.arange(4000) % 8] + 0.6 * rng.normal(size=(4000, 30))).astype(np.float32)
    exact = neighbor_smoothing.nearest_cells(X, slice(None), 5)
    monkeypatch.setattr(neighbor_smoothing, "_EXACT", 100)
    found = neighbor_smoothing.nearest_cells(X, slice(None), 5)
    assert found.shape == (4000, 5)
    assert not (found == np.arange(4000)[:, None]).any()
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, exact, strict=True)])
    assert recall > 0.8
    directions = X - X.mean(axis=0)
    nearest = NearestNeighbors(n_neighbors=6, metric="cosine").fit(directions).kneighbors(return_distance=False)
    assert np.mean(np.sort(nearest[:, :5]) == np.sort(exact)) > 0.99


def test_many_equal_cells_find_neighbours(monkeypatch):
    monkeypatch.setattr(neighbor_smoothing, "_EXACT", 100)
    found = neighbor_smoothing.nearest_cells(np.ones((400, 3)), slice(None), 5)
    assert not (found == np.arange(400)[:, None]).any()
    assert all(len(set(row)) == 5 for row in found.tolist())


# What is refused


@pytest.mark.bad_argument
def test_what_cannot_be_smoothed_is_refused(unsure):
    fitted, X, y = unsure
    with pytest.raises(ValueError, match=r"Got estimator=LinearSVC\(\) but expected .* Fix: CalibratedClassifierCV"):
        NeighborSmoothedClassifier(LinearSVC()).fit(X, y)
    with pytest.raises(ValueError, match="The 'n_neighbors' parameter of NeighborSmoothedClassifier must be"):
        NeighborSmoothedClassifier(LogisticRegression(), 0).fit(X, y)
    with pytest.raises(ValueError, match="The 'estimator' parameter"):
        NeighborSmoothedClassifier("logistic").fit(X, y)
    with pytest.raises(ValueError, match=r"Got domain of shape \(3,\) but expected \(240,\)"):
        fitted.predict(X, domain=["a", "b", "c"])
    with pytest.raises(ValueError, match="Row 1: domain is missing"):
        fitted.predict(X, domain=["a", None] * 120)


# In the whole line


@pytest.fixture(scope="module")
def images():
    made = make_blood_cells(12, classes=["eosinophil", "lymphocyte"], image_size=48, random_state=0)
    return pd.DataFrame({"path": list(made.images), "domain": made.domain}), made.labels


def test_a_cell_classifier_takes_it_as_its_classifier(images, tmp_path):
    X, y = images
    smoothed = NeighborSmoothedClassifier(make_pipeline(StandardScaler(), LogisticRegression()))
    fitted = CellClassifier(classifier=smoothed, random_state=0, verbose=0).fit(X, y)
    back = CellClassifier.from_pretrained(fitted.save_pretrained(tmp_path / "model"))
    assert back.predict_table(X)["predicted"].tolist() == fitted.predict(X).tolist()
    assert fitted.score(X, y) > 0.9


@pytest.fixture(scope="module")
def laboratories():
    """Cells of two laboratories, enough of each to be smoothed."""
    made = make_blood_cells(
        15, classes=["eosinophil", "lymphocyte"], domains=["lab_a", "lab_b"], image_size=48, random_state=1
    )
    return pd.DataFrame({"path": list(made.images), "domain": made.domain}), made.labels


@pytest.mark.slow
@pytest.mark.parametrize("autoencoder", ["auto", None])
def test_a_cell_classifier_smooths_each_laboratory_of_a_call_by_itself(laboratories, autoencoder, tmp_path):
    X, y = laboratories
    smoothed = NeighborSmoothedClassifier(LogisticRegression(C=0.01))
    fitted = CellClassifier(classifier=smoothed, autoencoder=autoencoder, random_state=0, verbose=0).fit(X, y)
    back = CellClassifier.from_pretrained(fitted.save_pretrained(tmp_path / "model"))
    for model in (fitted, back):
        assert_smoothed_by_laboratory(model, X)
    new = X.assign(domain=X["domain"].replace("lab_b", "lab_c"))
    rows = (new["domain"] == "lab_c").to_numpy()
    labels = np.asarray(y, dtype=object)[rows]
    labels[::2] = None
    assert_smoothed_by_laboratory(back.adapt(new[rows], "lab_c", labels), new)


def assert_smoothed_by_laboratory(model, X):
    together = model.predict_proba(X)
    for name in X["domain"].unique():
        rows = (X["domain"] == name).to_numpy()
        np.testing.assert_allclose(model.predict_proba(X[rows]), together[rows], atol=1e-5)


def test_a_cell_classifier_without_a_domain_smooths_the_whole_call(laboratories):
    X, y = laboratories
    smoothed = NeighborSmoothedClassifier(LogisticRegression(C=0.01))
    with pytest.warns(UserWarning, match="Got no domain"):
        fitted = CellClassifier(classifier=smoothed, random_state=0, verbose=0).fit(X[["path"]], y)
    features = fitted.pipeline_[:-1].transform(X[["path"]])
    np.testing.assert_array_equal(
        fitted.predict_proba(X[["path"]]), fitted.pipeline_[-1].predict_proba(np.asarray(features))
    )
