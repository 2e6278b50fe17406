"""Comparison of encoders on the same cells."""

import warnings
from collections.abc import Mapping

import pandas as pd

from .benchmark import BenchmarkResult
from .headlines import headline_scores, select_series
from .scores import compare_pipelines, confidence_intervals, score_predictions

_CLASSIFIER = "LR balanced"  # the default of `CellClassifier`; its settings were not chosen on any of the encoders
# Settings that must be the same in all runs, by the first words of their names in `BenchmarkResult.settings`.
_EQUAL = ("cells", "cv", "folds", "random_state", "autoencoder")


def compare_encoders(results: Mapping[str, BenchmarkResult], *, random_state: int = 0) -> pd.DataFrame:
    """Compare encoders by the benchmarks of the same cells, with one classifier on the last features of each.

    Parameters
    ----------
    results : mapping of str to BenchmarkResult
        Results of `run_benchmark` by the name of the encoder, with the same cells, folds and classifiers. All others
        are compared with the first.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        A row per ``encoder``: the ``features`` and the ``classifier`` that were compared, the mean
        ``balanced_accuracy`` over all pairs of different laboratories and its 95% interval ``low`` to ``high``, and
        the ``difference`` to the first encoder with its interval ``difference_low`` to ``difference_high`` and its
        p-value ``p_holm``, by a bootstrap that is paired by cell and corrected for the number of encoders (Holm). These
        four are NaN for the first encoder.

    Raises
    ------
    TypeError
        If `results` is not a mapping to BenchmarkResult.
    ValueError
        If there are fewer than two encoders or laboratories, or the runs differ in their cells, folds, seed or
        autoencoder, or have no common classifier.
    """
    if not isinstance(results, Mapping) or any(not isinstance(each, BenchmarkResult) for each in results.values()):
        raise TypeError(
            f"Got results of type {type(results).__name__} but expected a mapping of names to BenchmarkResult. "
            "Fix: compare_encoders({'a': run_benchmark(...), 'b': run_benchmark(...)})."
        )
    if len(results) < 2:
        raise ValueError(f"Got {len(results)} encoders but expected two or more. Fix: pass the results of another one.")
    first = next(iter(results.values()))
    for name, result in results.items():
        for key in (key for key in first.settings if key.startswith(_EQUAL)):
            if result.settings[key] != first.settings[key]:
                differing = f"{result.settings[key]} for {name!r} but {first.settings[key]} for {next(iter(results))!r}"
                raise ValueError(f"Got {key}: {differing}. Fix: pass the same to each run_benchmark.")
    known = [result.predictions["classifier"].unique().tolist() for result in results.values()]
    shared = [name for name in known[0] if all(name in names for names in known)]
    if not shared:
        raise ValueError("Got results without a common classifier. Fix: pass the same classifiers to run_benchmark.")
    classifier = _CLASSIFIER if _CLASSIFIER in shared else shared[0]
    features = list(first.features)[-1]
    predictions = [
        select_series(result.predictions, features, classifier).assign(features=name)
        for name, result in results.items()
    ]
    table = pd.concat(predictions, ignore_index=True)
    if (table["train_domain"] == table["test_domain"]).all():
        raise ValueError("Got one laboratory but expected two or more. Fix: add the cells of another laboratory.")
    baseline = (next(iter(results)), classifier)
    intervals = confidence_intervals(table, random_state=random_state)
    found = headline_scores(table, score_predictions(table), intervals).rename(columns={"features": "encoder"})
    with warnings.catch_warnings():  # the report of the benchmark says that the patients are not known
        warnings.filterwarnings("ignore", message="Every group is one cell")
        compared = compare_pipelines(table, baseline, random_state=random_state)
    compared = compared.assign(encoder=[name for name, _ in compared["a"]])
    compared = compared.rename(columns={"low": "difference_low", "high": "difference_high"})
    found.insert(1, "features", features)
    columns = ["encoder", "features", "classifier", "balanced_accuracy", "low", "high"]
    return found[columns].merge(
        compared[["encoder", "difference", "difference_low", "difference_high", "p_holm"]], on="encoder", how="left"
    )


def settings_of_encoders(results: Mapping[str, BenchmarkResult]) -> dict[str, str]:
    """Return the settings of the first run, the names of all encoders, and the settings of the others that differ."""
    first = next(iter(results.values())).settings
    others = list(results.items())[1:]
    differing = {
        f"{name}: {key}": value
        for name, result in others
        for key, value in result.settings.items()
        if first.get(key) != value
    }
    return {**first, "encoders": ", ".join(results), **differing}
