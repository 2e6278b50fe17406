"""A warning if the cells of a new laboratory do not seem to be its usual mixture of types."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from ..alignment.autoencoder import CrossDomainAutoencoder
from ..alignment.normalization import rows_by_domain
from ..cells import FEW_CELLS
from ..embedding.embeddings import CellEmbeddings, without_domain
from ..exceptions import warn_caller
from .neighbor_smoothing import NeighborSmoothedClassifier

# A warning is given if a smaller share of answers is the same with and without the domain. Across six laboratories, it
# is given in 50 to 77% of the calls with cells of one class only, and in at most 4% of the others
# (benchmarks/mixture_warning.py).
_LEAST_AGREEMENT = 0.6


def warn_of_unusual_mixture(
    steps: Pipeline, embeddings: CellEmbeddings, domain: NDArray[Any] | None, fix: str = "leave out the domain"
) -> None:
    """Warn of each new laboratory if many of its answers change when its name is left out.

    The features of a new laboratory are standardised by its own cells. If most of these are of one type, the features
    are wrong and differ much from those without the name. Laboratories with few cells have another warning.
    """
    autoencoder, classifier = steps.named_steps.get("autoencoder"), steps[-1]
    if domain is None or not isinstance(autoencoder, CrossDomainAutoencoder) or not autoencoder.settings_.by_domain:
        return
    # An autoencoder that reads vectors needs no copy of tokens and crops.
    cells = np.asarray(embeddings) if autoencoder.settings_.reads_vectors else without_domain(embeddings)
    if isinstance(classifier, NeighborSmoothedClassifier):
        classifier = classifier.estimator_
    known = autoencoder.domains_.tolist()
    for name, rows in rows_by_domain(domain, len(embeddings)):
        if name is None or name in known or len(rows) < FEW_CELLS:
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The domain ")  # they are given for the whole call
            both = [autoencoder.transform(cells[rows], domain=names) for names in (domain[rows], None)]
        same = np.mean(classifier.predict(both[0]) == classifier.predict(both[1]))
        if same < _LEAST_AGREEMENT:
            warn_caller(
                f"The domain {name!r} is new, and only {same:.0%} of its {len(rows)} cells get the same answer with it "
                "and without it. Probably most of them are of one class. Then the answers with it are worse, because "
                "the features are standardised by these cells. Fix: if so, pass cells of the laboratory's usual "
                f"mixture, or {fix}."
            )


@contextmanager
def ignored_spread() -> Iterator[None]:
    """Ignore the autoencoder's own warning of cells of one class, which appears less often than ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The domain .* is new, and its .* cells vary")
        yield
