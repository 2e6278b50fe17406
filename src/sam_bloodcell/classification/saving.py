"""A fitted `CellClassifier` on disk and on the Hub, without what belongs to the machine that fitted it."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..weights import hub, pipelines

# What belongs to the machine and not to the model: a saved model has the defaults.
_OF_THE_MACHINE = {"cache_dir": None, "device": "auto", "batch_size": "auto", "n_jobs": None}
_Classifier = TypeVar("_Classifier", bound="PretrainedClassifier")


class PretrainedClassifier(BaseEstimator):
    """The base of `CellClassifier`: how it is saved, loaded and shared."""

    autoencoder: Any
    embedder: Any
    pipeline_: Pipeline

    def save_pretrained(
        self, folder: str | os.PathLike, *, metrics: Mapping[str, float] | None = None, data: str | None = None,
        licence: str | None = None,
    ) -> Path:  # fmt: skip
        """Write the fitted classifier and a model card into a folder.

        The folder holds embeddings and paths of the training cells, but no images and no base weights of the encoder.

        Parameters
        ----------
        folder, metrics, data, licence
            As in `sam_bloodcell.save_pretrained`, whose errors this raises, too.

        Returns
        -------
        folder : Path
        """
        check_is_fitted(self)
        saved = copy.copy(self).set_params(**_OF_THE_MACHINE)
        for name in ("backbone", "adapter"):
            value = getattr(self, name)
            setattr(saved, name, os.fspath(value) if isinstance(value, os.PathLike) else value)
        saved.pipeline_ = Pipeline([(name, copy.copy(step)) for name, step in self.pipeline_.steps])
        saved.pipeline_[0].set_params(**saved._of_the_machine())
        if self.embedder is not None:
            saved.embedder = clone(self.embedder).set_params(**_OF_THE_MACHINE)
        if hasattr(self.autoencoder, "device"):
            saved.autoencoder = clone(self.autoencoder).set_params(device="auto")
        if hasattr(saved.pipeline_.named_steps.get("autoencoder"), "device"):
            saved.pipeline_.named_steps["autoencoder"].set_params(device="auto")
        return pipelines.save_pretrained(saved, folder, metrics=metrics, data=data, licence=licence)

    @classmethod
    def from_pretrained(cls: type[_Classifier], folder_or_repo: str | os.PathLike, **options: Any) -> _Classifier:
        """Load a classifier that `save_pretrained` or `push_to_hub` stored.

        Parameters
        ----------
        folder_or_repo, **options
            As in `sam_bloodcell.from_pretrained`, whose errors this raises, too.

        Raises
        ------
        ValueError
            If the folder holds another kind of estimator.
        """
        loaded = pipelines.from_pretrained(folder_or_repo, **options)
        if not isinstance(loaded, cls):
            kind = type(loaded).__name__
            fix = "Fix: load it with sam_bloodcell.from_pretrained."
            raise ValueError(f"'{os.fspath(folder_or_repo)}' holds a {kind}, but expected a {cls.__name__}. {fix}")
        return loaded

    def push_to_hub(
        self, repo_id: str, *, revision: str | None = None, private: bool | None = None, token: str | None = None,
        **card: Any,
    ) -> str:  # fmt: skip
        """Save and upload to a Hub repo, and return the commit's URL.

        Parameters
        ----------
        repo_id, revision, private, token, **card
            As in `sam_bloodcell.push_to_hub`, whose errors this raises, too.
        """
        return hub.push(self.save_pretrained, repo_id, revision=revision, private=private, token=token, **card)

    def _of_the_machine(self) -> dict[str, Any]:
        """Return the embedder's parameters that decide where and how it runs, but not what it computes."""
        return {name: getattr(self, name) for name in (*_OF_THE_MACHINE, "verbose")}
