"""The classifiers of the papers' tables, by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ..cells import NETWORK_HELD_OUT, can_hold_out
from .checks import check_arguments


def default_classifiers(random_state: Any = None) -> dict[str, Any]:
    """Return the classifiers of the papers' tables, unfitted, by their short names.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Seed of the forest, the network and XGBoost.

    Returns
    -------
    dict of str to estimator
        ``"RF"`` (200 trees, depth 16), ``"SVM poly"``, ``"SVM rbf"``, ``"SVM linear"``, ``"MLP"`` (early stopping),
        ``"LR"`` and ``"LR balanced"``, all but the forest behind a `StandardScaler`; and ``"XGBoost"``. "LR balanced"
        (C=0.1, classes of equal weight) is the default of `CellClassifier`, and is not in the papers' tables.

    Examples
    --------
    >>> from sam_bloodcell.evaluation import default_classifiers
    >>> list(default_classifiers(random_state=0))[:4]
    ['RF', 'SVM poly', 'SVM rbf', 'SVM linear']
    """
    check_arguments("default_classifiers", random_state=random_state)
    network = MLPClassifier(
        early_stopping=True, validation_fraction=NETWORK_HELD_OUT, max_iter=500, random_state=random_state
    )
    classifiers: dict[str, Any] = {
        "RF": RandomForestClassifier(n_estimators=200, max_depth=16, random_state=random_state),
        **{f"SVM {name}": make_pipeline(StandardScaler(), SVC(kernel=name)) for name in ("poly", "rbf", "linear")},
        "MLP": make_pipeline(StandardScaler(), network),
        "LR": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "LR balanced": balanced_regression(),
    }
    from xgboost import XGBClassifier  # imported here because it takes a second

    # One thread, because XGBoost's own threads compete with joblib's for the cores and slow small fits down.
    return {**classifiers, "XGBoost": XGBClassifier(n_jobs=1, random_state=random_state)}


def balanced_regression() -> Pipeline:
    """Return the default classifier: standardised logistic regression with C=0.1 and classes of equal weight."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))


def named_estimators(estimators: Any) -> dict[str, Any]:
    """Return estimators by name: those of a mapping, or one under the class name of its last step.

    A `CellClassifier`, which stands for a pipeline, is replaced by the pipeline, whose steps take the domains.
    """
    if isinstance(estimators, Mapping):
        if not estimators:
            raise ValueError("Got no estimators but expected at least one. Fix: pass default_classifiers().")
        named = dict(estimators)
    else:
        last = estimators.steps[-1][1] if isinstance(estimators, Pipeline) else estimators
        named = {type(last).__name__: estimators}
    return {
        name: estimator.make_pipeline() if hasattr(estimator, "make_pipeline") else estimator
        for name, estimator in named.items()
    }


def check_early_stopping(name: str, estimator: Any, labels: NDArray, where: str) -> None:
    """Raise if a classifier stops early on held-out cells, but has too few cells to hold out some of each class."""
    parts = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    for key in parts:
        stem = key.removesuffix("early_stopping")
        share = parts.get(f"{stem}validation_fraction")
        if stem == key or parts[key] is not True or not isinstance(share, float):
            continue
        counts = np.unique(labels, return_counts=True)[1]
        # scikit-learn's network holds out some of each class where there are two classes, else any two cells or more
        each = len(counts) == 2 or f"{stem}hidden_layer_sizes" not in parts
        if not can_hold_out(labels, share, of_each_class=each):
            found = f"{len(labels)} training cells of {len(counts)} classes, the rarest with {counts.min()}, in {where}"
            fix = "Fix: add cells, leave rare classes out, or raise cv (in Python: classifiers without early stopping)."
            raise ValueError(f"Got {found} but {name!r} needs more to stop early. {fix}")
