import pickle
import re

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from sam_bloodcell.embedding.embeddings import CellEmbeddings
from sam_bloodcell.segmentation.cell import QUALITY

N, C = 60, 5
PARTS = ("pooled", "tokens", "masks", "crops", "quality")


def _cells(rows=range(N)):
    """Cells that carry their number in every part."""
    rows = np.asarray(rows)
    pooled = np.random.default_rng(0).normal(size=(N, C))[rows]
    pooled[:, 0] = rows
    tokens = np.broadcast_to(rows[:, None, None, None], (len(rows), C, 2, 2)).astype(np.float16)
    masks = (rows[:, None, None] >> np.arange(8).reshape(2, 4)) & 1 == 1
    crops = np.broadcast_to(rows[:, None, None, None], (len(rows), 4, 4, 3)).astype(np.uint8)
    quality = np.zeros(len(rows), QUALITY)
    quality["components"] = rows
    return CellEmbeddings(pooled, tokens, masks, crops, quality)


def _assert_rows(cells, rows):
    """Every part holds exactly these rows, in this order."""
    assert isinstance(cells, CellEmbeddings)
    expected = _cells(rows)
    for name in PARTS:
        part = getattr(cells, name)
        assert part.dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(part, getattr(expected, name))


@pytest.fixture
def cells():
    return _cells()


@pytest.fixture(scope="module")
def labels():
    return np.arange(N) % 2


@pytest.fixture
def separable(labels):
    cells = _cells()
    cells.pooled[:, 0] = 0
    cells.pooled[:, 1] += 8 * labels
    return cells


class TestAsArray:
    def test_describes_itself(self, cells):
        assert len(cells) == N
        assert cells.shape == (N, C)
        assert cells.ndim == 2
        assert cells.dtype == np.float32
        assert cells.pooled.dtype == np.float32
        assert repr(cells) == "CellEmbeddings(n=60, width=5, grid=(2, 2))"

    def test_iterates_over_rows(self, cells):
        np.testing.assert_array_equal(np.stack(list(cells)), cells.pooled)

    def test_asarray_shares_memory_and_array_copies(self, cells):
        assert np.shares_memory(np.asarray(cells), cells.pooled)
        assert not np.shares_memory(np.array(cells), cells.pooled)
        np.testing.assert_array_equal(np.array(cells), cells.pooled)

    def test_dtype_is_converted(self, cells):
        wide = np.asarray(cells, dtype=np.float64)
        assert wide.dtype == np.float64
        np.testing.assert_array_equal(wide, cells.pooled)

    @pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy=False means this since numpy 2")
    def test_copy_false(self, cells):
        assert np.shares_memory(np.array(cells, copy=False), cells.pooled)
        with pytest.raises(ValueError, match="Unable to avoid copy"):
            np.array(cells, dtype=np.float64, copy=False)

    def test_other_numpy_functions_see_the_pooled_embeddings(self, cells):
        np.testing.assert_array_equal(np.mean(cells, axis=0), cells.pooled.mean(axis=0))
        np.testing.assert_array_equal(np.hstack([cells, cells]), np.hstack([cells.pooled] * 2))
        np.testing.assert_array_equal(np.concatenate([cells, cells], axis=1), np.hstack([cells.pooled] * 2))
        np.testing.assert_array_equal(np.concatenate([cells, np.ones((1, C))])[-1], np.ones(C))
        assert np.shape(cells) == (N, C)

    def test_equality_is_elementwise(self, cells):
        assert (cells == cells.pooled).all()
        assert (cells == _cells()).shape == (N, C)

    def test_dataframe(self, cells):
        frame = pd.DataFrame(cells)
        assert frame.shape == (N, C)
        np.testing.assert_array_equal(frame.to_numpy(), cells.pooled)

    def test_unequal_lengths(self):
        message = "Got pooled, tokens, masks, crops, quality of lengths [2, 3, 2, 2, 2] but expected equal lengths."
        with pytest.raises(ValueError, match=re.escape(message)):
            CellEmbeddings(*(np.zeros((n, 1)) for n in (2, 3, 2, 2, 2)))


class TestRows:
    @pytest.mark.parametrize(
        ("key", "rows"),
        [
            pytest.param(slice(3, 20, 4), [3, 7, 11, 15, 19], id="slice"),
            pytest.param(slice(None, None, -1), np.arange(N)[::-1], id="reversed"),
            pytest.param(np.array([5, 0, -1]), [5, 0, N - 1], id="int-array"),
            pytest.param([4, 4, 2], [4, 4, 2], id="list"),
            pytest.param(np.arange(N) % 20 == 1, [1, 21, 41], id="bool-mask"),
            pytest.param([row == 7 for row in range(N)], [7], id="bool-list"),
            pytest.param(pd.Series([8, 9]), [8, 9], id="series"),
            pytest.param(np.s_[2:4, :], [2, 3], id="slice-and-all"),
            pytest.param((np.array([6, 1]), slice(None)), [6, 1], id="array-and-all"),
            pytest.param(([3, 1], ...), [3, 1], id="list-and-ellipsis"),
            pytest.param([], [], id="empty-list"),
            pytest.param(slice(0, 0), [], id="empty-slice"),
            pytest.param(np.zeros(N, bool), [], id="empty-mask"),
        ],
    )
    def test_selection_keeps_every_part(self, cells, key, rows):
        _assert_rows(cells[key], np.asarray(rows, int))

    @pytest.mark.parametrize("row", [3, -1, np.int64(7)])
    def test_one_row_is_a_plain_vector(self, cells, row):
        assert type(cells[row]) is np.ndarray
        np.testing.assert_array_equal(cells[row], cells.pooled[row])

    @pytest.mark.parametrize(
        "key", [np.s_[:, 1], np.s_[2:5, [0, 2]], np.s_[..., 0], np.s_[3, 2]], ids=["column", "block", "dots", "one"]
    )
    def test_columns_are_plain_arrays(self, cells, key):
        assert not isinstance(cells[key], CellEmbeddings)
        np.testing.assert_array_equal(cells[key], cells.pooled[key])

    @pytest.mark.parametrize("key", [N, [0, N], np.ones(N - 1, bool)], ids=["int", "list", "short-mask"])
    def test_out_of_range(self, cells, key):
        with pytest.raises(IndexError, match=r"out of bounds|did not match"):
            cells[key]

    @pytest.mark.parametrize("join", [CellEmbeddings.concatenate, np.concatenate, np.vstack])
    def test_joining_keeps_every_part(self, cells, join):
        _assert_rows(join([cells[:3], cells[[50]], cells[7:9]]), [0, 1, 2, 50, 7, 8])

    def test_memory_mapped_tokens_stay_mapped(self, cells, tmp_path):
        np.save(tmp_path / "tokens.npy", cells.tokens)
        mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
        cells = CellEmbeddings(cells.pooled, mapped, cells.masks, cells.crops, cells.quality)
        part = cells[10:20]
        assert isinstance(part.tokens, np.memmap)
        assert np.shares_memory(part.tokens, mapped)
        _assert_rows(part, np.arange(10, 20))
        _assert_rows(cells[[3, 1]], [3, 1])
        _assert_rows(pickle.loads(pickle.dumps(part)), np.arange(10, 20))


class TestStorage:
    def test_pickle(self, cells):
        _assert_rows(pickle.loads(pickle.dumps(cells[4:6])), [4, 5])

    @pytest.mark.parametrize("compress", [0, 3])
    def test_joblib(self, cells, tmp_path, compress):
        joblib.dump(cells, tmp_path / "cells.joblib", compress=compress)
        _assert_rows(joblib.load(tmp_path / "cells.joblib"), np.arange(N))

    def test_joblib_memory_mapped(self, cells, tmp_path):
        joblib.dump(cells, tmp_path / "cells.joblib")
        mapped = joblib.load(tmp_path / "cells.joblib", mmap_mode="r")
        assert isinstance(mapped.tokens, np.memmap)
        _assert_rows(mapped, np.arange(N))

    def test_equal_content_has_an_equal_hash(self, cells):
        assert joblib.hash(cells) == joblib.hash(_cells())
        assert joblib.hash(cells[2:5]) == joblib.hash(_cells([2, 3, 4]))

    @pytest.mark.parametrize("name", PARTS)
    def test_every_part_counts_in_the_hash(self, cells, name):
        before = joblib.hash(cells)
        part = getattr(cells, name)
        part = part["area"] if name == "quality" else part
        part[3] = ~part[3] if part.dtype == bool else part[3] + 1
        assert joblib.hash(cells) != before

    def test_row_order_counts_in_the_hash(self, cells):
        assert joblib.hash(cells[[0, 1]]) != joblib.hash(cells[[1, 0]])


class _Witness(TransformerMixin, BaseEstimator):
    """Passes cells on and checks that their parts belong together."""

    def fit(self, X, y=None):
        self.rows_ = X.tokens[:, 0, 0, 0].astype(int)
        _assert_rows(X, self.rows_)
        return self

    def transform(self, X):
        _assert_rows(X, X.tokens[:, 0, 0, 0].astype(int))
        return X


def _classifiers():
    return {
        "svc": make_pipeline(StandardScaler(), SVC()),
        "forest": RandomForestClassifier(20, random_state=0),
        "mlp": MLPClassifier((8,), solver="lbfgs", max_iter=500, random_state=0),
    }


class TestScikitLearn:
    @pytest.mark.parametrize("name", _classifiers())
    def test_classifiers_see_the_pooled_embeddings(self, separable, labels, name):
        classifier = _classifiers()[name].fit(separable, labels)
        assert classifier.n_features_in_ == C
        assert classifier.score(separable, labels) == 1
        plain = clone(classifier).fit(separable.pooled, labels)
        np.testing.assert_array_equal(plain.predict(separable.pooled), classifier.predict(separable))

    def test_xgboost(self, separable, labels):
        import xgboost

        classifier = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(separable, labels)
        assert classifier.score(separable, labels) == 1
        np.testing.assert_array_equal(classifier.predict_proba(separable), classifier.predict_proba(separable.pooled))

    def test_train_test_split_keeps_the_parts_aligned(self, cells, labels):
        train, test, y_train, y_test, rows_train, rows_test = train_test_split(
            cells, labels, np.arange(N), test_size=0.25, random_state=0, stratify=labels
        )
        _assert_rows(train, rows_train)
        _assert_rows(test, rows_test)
        np.testing.assert_array_equal(y_train, rows_train % 2)
        assert len(test) == len(y_test) == 15

    def test_cross_validation_keeps_the_parts_aligned(self, separable, cells, labels):
        folds = StratifiedKFold(3, shuffle=True, random_state=0)
        pipe = make_pipeline(_Witness(), StandardScaler(), SVC())
        scores = cross_val_score(pipe, cells, labels, cv=folds, error_score="raise")
        assert scores.shape == (3,)
        assert cross_val_score(SVC(), separable, labels, cv=folds).min() == 1

    def test_grid_search_with_memory(self, cells, labels, tmp_path):
        pipe = Pipeline(
            [("witness", _Witness()), ("scale", StandardScaler()), ("svc", SVC())], memory=str(tmp_path / "memory")
        )
        folds = StratifiedKFold(3, shuffle=True, random_state=0)
        search = GridSearchCV(pipe, {"svc__C": [0.1, 10]}, cv=folds, error_score="raise").fit(cells, labels)
        assert search.predict(cells).shape == (N,)
        plain = GridSearchCV(pipe[1:], {"svc__C": [0.1, 10]}, cv=folds).fit(cells.pooled, labels)
        np.testing.assert_allclose(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])

    def test_feature_union(self, cells):
        union = FeatureUnion([("pca", PCA(2, random_state=0)), ("scale", StandardScaler())])
        np.testing.assert_allclose(union.fit_transform(cells), union.fit_transform(cells.pooled), rtol=1e-5)

    def test_pandas_output(self, cells):
        frame = StandardScaler().set_output(transform="pandas").fit_transform(cells)
        assert frame.shape == (N, C)
        np.testing.assert_allclose(frame.to_numpy(), StandardScaler().fit_transform(cells.pooled))

    def test_clone_as_a_parameter(self, cells):
        step = clone(FunctionTransformer(kw_args={"cells": cells}))
        _assert_rows(step.kw_args["cells"], np.arange(N))

    def test_a_step_may_hand_the_cells_on(self, cells, labels):
        pipe = make_pipeline(_Witness(), _Witness(), StandardScaler()).fit(cells, labels)
        np.testing.assert_array_equal(pipe[1].rows_, np.arange(N))


class TestArithmetic:
    @pytest.mark.parametrize(
        "work",
        [
            pytest.param(lambda e: e != 0, id="unequal"),
            pytest.param(lambda e: e - 1, id="minus"),
            pytest.param(lambda e: 1 - e, id="minus-from-the-right"),
            pytest.param(lambda e: -abs(e), id="sign"),
            pytest.param(lambda e: e > 0, id="greater"),
            pytest.param(lambda e: e @ np.ones((C, 2), np.float32), id="product"),
            pytest.param(lambda e: e.T, id="transposed"),
            pytest.param(lambda e: e.reshape(-1), id="reshape"),
            pytest.param(lambda e: e.astype(float), id="astype"),
            pytest.param(lambda e: e.mean(axis=0), id="mean"),
            pytest.param(lambda e: np.add.reduce(e), id="reduce"),
            pytest.param(lambda e: np.isfinite(e).all(axis=1), id="isfinite"),
            pytest.param(lambda e: e[e > 0], id="mask-of-values"),
            pytest.param(lambda e: e[None], id="new-axis"),
            pytest.param(lambda e: e[np.array([[0, 1], [2, 3]])], id="table-of-rows"),
            pytest.param(lambda e: e[np.array(1)], id="0-d"),
        ],
    )
    def test_results_are_those_of_the_pooled_array(self, cells, work):
        found = work(cells)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, work(cells.pooled))

    @pytest.mark.parametrize("key", [..., (...,), ([2, 0],), (..., slice(None))], ids=str)
    def test_whole_rows_keep_every_part(self, cells, key):
        _assert_rows(cells[key], [2, 0] if "2" in str(key) else range(N))

    def test_joining_along_a_named_axis_keeps_every_part(self, cells):
        _assert_rows(np.concatenate([cells[:2], cells[5:6]], axis=0), [0, 1, 5])
        assert type(np.concatenate([cells, cells], axis=1)) is np.ndarray

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda e: e.__setitem__(0, 1), id="item"),
            pytest.param(lambda e: e.__isub__(1), id="minus"),
            pytest.param(lambda e: np.add(e, 1, out=e), id="out"),
            pytest.param(lambda e: np.add.at(e, 0, 1), id="at"),
            pytest.param(lambda e: np.copyto(e, 1), id="copyto"),
        ],
    )
    def test_nothing_is_changed_in_place(self, cells, change):
        with pytest.raises(TypeError, match=r"cannot be changed in place\. Fix: change a copy"):
            change(cells)
        _assert_rows(cells, range(N))

    def test_copies_are_apart(self, cells):
        copied = cells.copy()
        _assert_rows(copied, range(N))
        assert not np.shares_memory(copied.pooled, cells.pooled)

    def test_values_are_looked_for(self, cells):
        assert cells.pooled[3, 1] in cells
        assert np.inf not in cells

    def test_a_part_that_is_missing_is_still_named(self):
        with pytest.raises(AttributeError, match=r"hold no token maps\. Fix: SAMLoRAEmbedder"):
            CellEmbeddings(np.ones((2, 3))).tokens  # noqa: B018

    def test_one_vector_is_no_table(self):
        said = r"Got pooled of shape \(3,\) but expected \(n, C\). Fix: pass one row per cell, or pooled\[None\]"
        for make in (CellEmbeddings, CellEmbeddings.from_arrays):
            with pytest.raises(ValueError, match=said):
                make(np.ones(3))

    def test_masks_may_be_a_list(self):
        cells = CellEmbeddings(np.ones((2, 3)), masks=[np.zeros((2, 2), bool), np.ones((2, 2), bool)])
        assert cells[[1]].masks.all()
