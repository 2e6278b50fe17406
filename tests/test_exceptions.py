import warnings

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sam_bloodcell import CellClassifier, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.exceptions import warn_caller

BLANK = np.full((40, 40, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(2, classes=["lymphocyte", "monocyte"], domains=["lab_a"], image_size=64, random_state=0)


def test_warnings_of_every_depth_are_at_the_line_of_the_call(cells):
    embedder = SAMLoRAEmbedder("vit_tiny")
    features = np.random.default_rng(0).normal(size=(8, 5))
    calls = [
        lambda: embedder.fit_transform([*cells.images, BLANK]),
        lambda: make_pipeline(embedder, LogisticRegression()).fit([*cells.images, BLANK], [0, 0, 1, 1, 1]),
        lambda: CrossDomainAutoencoder(random_state=0).fit(features),
        lambda: make_pipeline(CrossDomainAutoencoder(random_state=0), LogisticRegression()).fit(features, [0, 1] * 4),
        lambda: CellClassifier(autoencoder=None, verbose=0).fit(cells.images, cells.target),
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert {each.filename for each in caught if each.category is UserWarning} == {__file__}


def test_a_task_of_joblib_has_a_line_too():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Parallel(2, backend="threading")(delayed(warn_caller)(f"warning {n}") for n in range(2))
    assert len(caught) == 2
