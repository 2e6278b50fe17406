"""Evaluation across laboratories: the protocol, scores of its predictions, and the distance between laboratories.

Scores, recall by class, calibration, intervals and comparisons are all computed from one table, which has a row per
predicted cell (`cross_domain_predictions`). Every function raises TypeError for an argument of the wrong type. It
raises ValueError for values that are unknown or out of range, columns of unequal length or with missing values, and
incomplete tables.
"""

from .benchmark import BenchmarkResult, run_benchmark
from .checks import METRICS
from .classifiers import default_classifiers
from .encoders import compare_encoders
from .few_labels import label_curve
from .novelty import AbstainingClassifier
from .protocol import cross_domain_predictions, cross_domain_scores, leave_one_domain_out_predictions
from .scores import (
    compare_pipelines,
    confidence_intervals,
    confusion_shares,
    cross_domain_mean,
    per_class_recall,
    score_predictions,
    summarise_scores,
)  # fmt: skip
from .shift import domain_shift, near_duplicates

__all__ = [
    "METRICS", "AbstainingClassifier", "BenchmarkResult", "compare_encoders", "compare_pipelines",
    "confidence_intervals", "confusion_shares", "cross_domain_mean", "cross_domain_predictions",
    "cross_domain_scores", "default_classifiers", "domain_shift", "label_curve", "leave_one_domain_out_predictions",
    "near_duplicates", "per_class_recall", "run_benchmark", "score_predictions", "summarise_scores",
]  # fmt: skip
