"""The last step of a `CellClassifier`: any classifier, as one that gives probabilities."""

from typing import Any

from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import Pipeline

from ..evaluation.classifiers import balanced_regression


def with_probabilities(classifier: Any) -> Any:
    """Return the classifier, or the default for None, wrapped if it gives no probabilities or takes no class names."""
    if classifier is None:
        return balanced_regression()
    if isinstance(classifier, type) or not is_classifier(classifier):
        fix = "Fix: pass one, such as LogisticRegression()."
        raise ValueError(f"Got classifier={classifier!r} but expected a scikit-learn classifier. {fix}")
    parts = [classifier, *classifier.get_params().values()]
    if any(type(part).__module__.startswith("xgboost.") for part in parts):  # it only takes classes 0, 1, ...
        return VotingClassifier([("classifier", classifier)], voting="soft")
    if hasattr(classifier, "predict_proba"):
        return classifier
    if hasattr(classifier, "decision_function"):
        return CalibratedClassifierCV(classifier, ensemble=False)
    # Others, such as a search over the parameter voting, may have probabilities after their fit.
    if isinstance(classifier[-1] if isinstance(classifier, Pipeline) else classifier, VotingClassifier):
        check_probabilities(classifier, classifier)
    return classifier


def check_probabilities(classifier: Any, given: Any) -> None:
    """Raise if a classifier, made from the `given` one, gives no probabilities."""
    if not hasattr(classifier, "predict_proba"):
        raise ValueError(
            f"Got classifier={given!r} but expected one with predict_proba or decision_function. "
            "Fix: LogisticRegression(), or voting='soft' for a VotingClassifier."
        )
