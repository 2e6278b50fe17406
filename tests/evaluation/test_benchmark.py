import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import run_benchmark


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
