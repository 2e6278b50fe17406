import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.embedding import encoder
from sam_bloodcell.evaluation import label_curve, run_benchmark


def test_benchmark_refuses_bad_targets_before_embedding():
    cells = Bunch(images=np.zeros((4, 2)), target=[0, 1, -1, 0], target_names=["x", "y"], domain=list("aabb"))
    with pytest.raises(ValueError, match="Got target=-1 in row 2"):
        run_benchmark(cells, embedder=FunctionTransformer(), autoencoder=None)


def test_benchmark_tells_the_autoencoder_each_cells_domain(separable):
    class Aligner(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None, *, domain):
            return self

        def transform(self, X, *, domain=None):
            self.domain_ = domain
            return np.asarray(X)

    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=domain)
    result = run_benchmark(cells, FunctionTransformer(), Aligner(), LogisticRegression(), cv=2, random_state=0)
    assert result.autoencoder.domain_.tolist() == domain.tolist()
    assert list(result.shift.index) == ["embeddings", "autoencoder"]


@pytest.mark.slow
def test_evaluation_imports_no_pictures():
    code = "import sys, sam_bloodcell.evaluation; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_benchmark_keeps_patients_together_and_warns_of_copies(separable):
    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    X[7] = X[1]
    cells = Bunch(images=X, target=target, target_names=names, domain=domain, group=np.arange(60) // 3)
    with pytest.warns(UserWarning, match="images that look duplicated: 1, such as rows 1 and 7"):
        result = run_benchmark(cells, FunctionTransformer(), None, LogisticRegression(), cv=2, random_state=0)
    at_home = result.predictions.query("train_domain == test_domain")
    assert at_home.groupby(["train_domain", "group"])["fold"].nunique().eq(1).all()
    assert result.settings["folds keep together"] == "groups"
    assert result.intervals["low"].le(result.intervals["score"]).all()
    assert set(result.shift_by_class.index.get_level_values(1)) == {"all", *names}


class Counting(TransformerMixin, BaseEstimator):
    """Hands features on, and counts how often it was asked to."""

    calls = 0

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        type(self).calls += 1
        return np.asarray(X)


def shape(target, domain, names=("w", "x", "y", "z"), **columns):
    """Cells of random features."""
    features = np.random.default_rng(0).normal(size=(len(target), 4))
    return Bunch(images=features, target=np.array(target), target_names=list(names), domain=np.array(domain), **columns)


PAIRS, HALVES = [0, 1] * 10, ["a"] * 10 + ["b"] * 10
WORKS = {
    "one laboratory": (shape(PAIRS, ["a"] * 20), 2),
    "a second laboratory of four cells": (shape(PAIRS, ["a"] * 16 + ["b"] * 4), 2),
    "classes of two cells": (shape([0, 1] * 4, ["a"] * 4 + ["b"] * 4), 2),
    "classes of three cells": (shape([0, 1] * 6, ["a"] * 6 + ["b"] * 6), 3),
    "one class in one laboratory only": (shape([0, 1] * 5 + [1, 2] * 5, HALVES), 5),
    "a hundred classes": (shape([*range(100)] * 4, ["a"] * 200 + ["b"] * 200, names=range(100)), 2),
    "classes named as numbers": (shape(PAIRS, HALVES, names=(3, 7)), 2),
    "classes named as booleans": (shape(PAIRS, HALVES, names=(False, True)), 2),
    "targets of one byte": (shape(np.array(PAIRS, np.uint8), HALVES), 2),
    "a class named all": (shape(PAIRS, HALVES, names=("all", "x")), 2),
    "groups that leave a class out of a fold": (
        shape([0, 1] * 5 + [2] * 5 + [0, 1] * 10, ["a"] * 15 + ["b"] * 20, group=np.arange(35) // 5), 2,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Left out classes", "ignore:The number of unique classes")
@pytest.mark.parametrize("name", WORKS)
def test_tiny_benchmarks_end_right(name):
    cells, cv = WORKS[name]
    result = run_benchmark(cells, Counting(), None, LogisticRegression(), cv=cv, random_state=0)
    n_domains = len(set(cells.domain.tolist()))
    assert len(result.scores) == n_domains**2 * cv
    assert (result.intervals is None) == (n_domains == 1)
    assert result.shift["mmd"].isna().all() == (
        min(np.unique(cells.domain, return_counts=True)[1]) < 5 or n_domains < 2
    )


REFUSED = {
    "no class is shared": (shape([0, 1] * 5 + [2, 3] * 5, HALVES), 2, "'a' has 'w', 'x'; 'b' has 'y', 'z'"),
    "classes of one cell": (shape([0, 1] * 2, [*"aabb"]), 2, r"Got 0 class\(es\) of at least cv=2 cells in domain 'a'"),
    "fewer groups than folds": (shape(PAIRS, HALVES, group=np.repeat([0, 1], 10)), 2, r"Got 1 group"),
    "groups of one class each": (
        shape(np.repeat([0, 1, 0, 1], 5), HALVES, group=np.repeat(range(4), 5)), 2, "whose training has 1 class",
    ),
    "groups of another length": (shape(PAIRS, HALVES, group=np.arange(19)), 2, "19 in groups"),
    "a group that is missing": (shape(PAIRS, HALVES, group=[None] * 20), 2, "Row 0: groups is missing"),
    "names of two types": (shape(PAIRS, HALVES, names=(1, "1")), 2, "Row 0: got the names of target=1 of type int"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_succeed_is_refused_before_anything_is_embedded(name):
    cells, cv, message = REFUSED[name]
    Counting.calls = 0
    with pytest.raises(ValueError, match=message):
        run_benchmark(cells, Counting(), None, LogisticRegression(), cv=cv, random_state=0)
    assert Counting.calls == 0


def test_a_classifier_that_cannot_be_fitted_on_so_few_cells_is_refused_before_anything_is_embedded():
    Counting.calls = 0
    with pytest.raises(ValueError, match="'MLP' needs more to stop early"):
        run_benchmark(shape([0, 1] * 4, ["a"] * 4 + ["b"] * 4), Counting(), None, cv=2, random_state=0)
    assert Counting.calls == 0


def test_a_class_named_all_does_not_replace_the_row_of_all_cells():
    result = run_benchmark(WORKS["a class named all"][0], Counting(), None, LogisticRegression(), cv=2, random_state=0)
    assert result.shift_by_class.loc["embeddings"]["n"].to_dict() == {"all": 20, "all (class)": 10, "x": 10}


def test_reconstructions_are_told_each_shown_cells_domain(separable):
    class Tokens(np.ndarray):
        tokens = True

    class Aligner(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None, *, domain):
            return self

        def transform(self, X, *, domain=None):
            return np.asarray(X)

        def reconstruct(self, X, *, domain=None):
            self.shown_ = domain
            return np.zeros((len(X), 2, 2, 3), np.uint8)

    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=domain)
    embedder = FunctionTransformer(lambda images: images.view(Tokens))
    result = run_benchmark(cells, embedder, Aligner(), LogisticRegression(), cv=2, random_state=0)
    assert result.autoencoder.shown_.tolist() == domain[result.shown].tolist()
    assert set(domain[result.shown]) == {"a", "b"}


def test_digest_of_the_cells_changes_with_image_label_laboratory_and_group(separable, tmp_path):
    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    paths = [tmp_path / f"{row}.png" for row in range(len(X))]
    for row, path in enumerate(paths):
        path.write_bytes(b"%d" % row)
    cells = Bunch(paths=paths, target=target, target_names=names, domain=domain, group=np.arange(60) // 3)

    def digest(**changed):
        embedder = FunctionTransformer(lambda _: X, check_inverse=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = run_benchmark(Bunch(**cells | changed), embedder, None, LogisticRegression(), cv=2).settings
        return settings["cells SHA-256 of image contents, labels, laboratories and groups"]

    def change(values):
        changed = values.copy()
        changed[0] = changed[1]
        return changed

    first = digest()
    assert digest() == first
    other = [digest(target=change(target)), digest(domain=domain[::-1]), digest(group=None)]
    other.append(digest(group=np.arange(60) // 3 + 1))
    paths[7].write_bytes(b"another image")
    other.append(digest())
    assert len({first, *other}) == 6


@pytest.mark.parametrize(
    ("autoencoder", "classifier", "message"),
    [
        (CrossDomainAutoencoder(architecture="cnov"), LogisticRegression(), "'architecture' parameter of CrossDomain"),
        (None, make_pipeline(StandardScaler(), LogisticRegression(C=-1)), "'C' parameter of LogisticRegression"),
    ],
)
def test_wrong_parameters_are_refused_before_embedding(separable, autoencoder, classifier, message):
    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=domain)
    embedded = []
    with pytest.raises(ValueError, match=message):
        run_benchmark(cells, FunctionTransformer(lambda X: embedded.append(X) or X), autoencoder, classifier)
    assert not embedded


def test_embeddings_of_unreadable_images_are_named_by_their_rows(separable):
    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=domain)
    embedder = FunctionTransformer(lambda X: np.where(np.arange(60)[:, None] == 7, np.nan, X))
    with pytest.raises(ValueError, match=r"not finite in rows 7, as of .* Fix: leave these cells out with drop_unread"):
        run_benchmark(cells, embedder, None, LogisticRegression(), cv=2)


def test_shift_is_empty_where_no_laboratories_can_be_compared(separable):
    X, y, domain = separable
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=domain)
    result = run_benchmark(cells, FunctionTransformer(), None, LogisticRegression(), cv=2, random_state=0)
    assert replace(result, shift_by_class=pd.DataFrame()).shift.empty
    assert result.shift.loc["embeddings", "chance"] == 0.5


def test_a_killed_benchmark_embeds_nothing_twice(tmp_path, monkeypatch):
    cells = make_blood_cells(5, classes=["lymphocyte", "monocyte"], random_state=0)
    seen, run_network = [], encoder.run_network

    def counted(sam, recipe, pixels):
        if sum(seen) >= 8 and len(seen) == 2:
            seen.append(0)
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return run_network(sam, recipe, pixels)

    monkeypatch.setattr(encoder, "run_network", counted)

    def run():
        embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache", batch_size=4)
        return run_benchmark(cells, embedder, None, LogisticRegression(), cv=2, random_state=0)

    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    assert sum(seen) == len(cells.images) == 20
    run()
    assert sum(seen) == 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Pairs of images")
def test_a_benchmark_tells_what_a_few_labels_would_bring(separable):
    class Doubler(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None, *, domain):
            return self

        def transform(self, X):
            return 2 * np.asarray(X)

    X, y, domain = (np.concatenate([part] * 2) for part in separable)
    X = X + np.random.default_rng(0).normal(size=X.shape)
    names, target = np.unique(y, return_inverse=True)
    cells = Bunch(images=X, target=target, target_names=names, domain=domain)

    def run():
        return run_benchmark(cells, FunctionTransformer(), Doubler(), LogisticRegression(), cv=2, random_state=0)

    result = run()
    pd.testing.assert_frame_equal(result.label_curve, label_curve(2 * X, y, domain=domain, random_state=0))
    assert set(result.label_curve["n_labels"]) == {0, 8, 16, 32}  # 100 labels of 60 cells cannot be had
    cells["group"] = [f"{name} {row % 6}" for row, name in enumerate(domain)]
    by_patient = label_curve(2 * X, y, domain=domain, groups=cells.group, random_state=0)
    assert not by_patient.equals(result.label_curve)
    pd.testing.assert_frame_equal(run().label_curve, by_patient)
