"""Provenance of a result: settings, estimators, weights, versions, and a digest of its cells."""

import hashlib
import importlib.metadata
import platform
from typing import Any

from numpy.typing import NDArray


def provenance(named: dict[str, Any], labels: NDArray, domains: NDArray, settings: dict[str, Any]) -> dict[str, Any]:
    """Return plain values: settings, named estimators, a digest of the cells' labels and domains, versions."""
    cells = repr(list(zip(domains.tolist(), labels.tolist(), strict=True)))
    versions = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for package in ("sam-bloodcell", "torch", "scikit-learn", "numpy", "pandas", "xgboost"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        **settings,
        "n_cells": len(labels),
        "cells_sha256": hashlib.sha256(cells.encode()).hexdigest(),
        "estimators": {name: " ".join(repr(estimator).split()) for name, estimator in named.items()},
        "versions": versions,
    }


def weights_of(embedder: Any) -> dict[str, str]:
    """Return name, revision and digests of the weights that a fitted embedder used, where it has them."""
    encoder = getattr(embedder, "encoder_", None)
    if encoder is None:
        return {}
    network = encoder.recipe.network
    return {
        "backbone": network.backbone.name,
        "revision": str(network.backbone.revision),
        "backbone digest": str(network.backbone.digest),
        "adapter digest": str(network.adapter),
        "recipe digest": encoder.recipe.digest,
    }
