"""A fitted `CellClassifier` on disk and on the Hub, without the settings of the machine that fitted it."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..embedding.function_embedder import FunctionEmbedder
from ..weights import hub, pipelines

# Settings of the machine, not of the model: a saved model has the defaults.
_OF_THE_MACHINE = {"cache_dir": None, "device": "auto", "batch_size": "auto", "n_jobs": None}
_Classifier = TypeVar("_Classifier", bound="PretrainedClassifier")


class PretrainedClassifier(BaseEstimator):
    """The base of `CellClassifier` that saves, loads and shares it."""

    autoencoder: Any
    embedder: Any
    pipeline_: Pipeline

    def save_pretrained(
        self, folder: str | os.PathLike, *, metrics: Mapping[str, float] | None = None, data: str | None = None,
        licence: str | None = None,
    ) -> Path:  # fmt: skip
        """Write the fitted classifier and a model card into a folder.

        The folder contains embeddings and paths of the training cells, but no images and no base weights of the
        encoder. The method raises the errors of `sam_bloodcell.save_pretrained`.

        Parameters
        ----------
        folder : str or path
            Folder to write; created if it is missing.
        metrics : dict of str to float, optional
            Numbers for the model card, by name.
        data : str, optional
            Description of the training data for the model card.
        licence : str, optional
            SPDX identifier of the licence for the model card.

        Returns
        -------
        pathlib.Path
            The folder.
        """
        check_is_fitted(self)
        if isinstance(self.pipeline_[0], FunctionEmbedder):
            self.pipeline_[0].check_function_can_be_imported()
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
        folder_or_repo : str or path
            Folder, or repo on the Hugging Face Hub.
        **options : dict
            Further arguments of `sam_bloodcell.from_pretrained`: revision, token, local_files_only and trusted.

        Returns
        -------
        CellClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If the folder contains another kind of estimator, or as in `sam_bloodcell.from_pretrained`.
        """
        loaded = pipelines.from_pretrained(folder_or_repo, **options)
        if not isinstance(loaded, cls):
            kind = type(loaded).__name__
            fix = "Fix: load it with sam_bloodcell.from_pretrained."
            raise ValueError(f"'{os.fspath(folder_or_repo)}' contains a {kind}, but expected a {cls.__name__}. {fix}")
        return loaded

    def push_to_hub(
        self, repo_id: str, *, revision: str | None = None, private: bool | None = None, token: str | None = None,
        **card: Any,
    ) -> str:  # fmt: skip
        """Save the classifier and upload it to a Hub repo; it raises the errors of `sam_bloodcell.push_to_hub`.

        Parameters
        ----------
        repo_id : str
            Repo on the Hugging Face Hub, as "owner/name". It is created if it is missing.
        revision : str, optional
            Branch to write (default: main).
        private : bool, optional
            Whether a new repo is private.
        token : str, optional
            Token with write access (default: that of ``HF_TOKEN`` or ``hf auth login``).
        **card : dict
            Arguments of `save_pretrained`: metrics, data and licence.

        Returns
        -------
        str
            URL of the commit.
        """
        return hub.push(self.save_pretrained, repo_id, revision=revision, private=private, token=token, **card)

    def _of_the_machine(self) -> dict[str, Any]:
        """Return the embedder's parameters that decide where and how it runs, but not what it computes."""
        return {name: getattr(self, name) for name in (*_OF_THE_MACHINE, "verbose")}
