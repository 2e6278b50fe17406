"""Provenance of a result: settings, estimators, weights, versions, and a digest of its cells."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

_PACKAGES = ("sam-bloodcell", "torch", "scikit-learn", "numpy", "pandas", "xgboost")


def provenance(
    estimators: Mapping[str, Any], labels: NDArray, domains: NDArray, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return plain values: settings, estimators, a digest of the cells' labels and domains, versions."""
    cells = repr(list(zip(domains.tolist(), labels.tolist(), strict=True)))
    return {
        **settings,
        "n_cells": len(labels),
        "cells_sha256": hashlib.sha256(cells.encode()).hexdigest(),
        "estimators": {name: " ".join(repr(estimator).split()) for name, estimator in estimators.items()},
        "versions": versions(),
    }


def weights_of(embedder: Any) -> dict[str, Any]:
    """Return which weights a fitted embedder used: name, revision and digests, where it has them."""
    encoder = getattr(embedder, "encoder_", None)
    if encoder is None:
        return {}
    network = encoder.recipe.network
    return {
        "backbone": network.backbone.name,
        "revision": network.backbone.revision,
        "backbone_digest": network.backbone.digest,
        "adapter_digest": network.adapter,
        "recipe_digest": encoder.recipe.digest,
    }


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
