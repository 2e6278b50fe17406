"""Shared parts of saved estimators: a model card, upload to the Hub, and pickles of plain values."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..files import write_text
from . import hub

# A repo on the Hub, or a file in one.
_ON_HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:/[\w./-]+)?")


class Pretrained(BaseEstimator):
    """Base of estimators that are saved, uploaded and pickled; subclasses define their files, card and pickle."""

    # Fitted attributes in a pickle: how each is packed into plain values and arrays, and unpacked.
    _packing: ClassVar[dict[str, tuple[Callable, Callable]]] = {}
    # Creates the folder, writes everything except the card into it, and returns it.
    _write_files: Callable[[str | os.PathLike], Path]
    # Returns the arguments of `write_model_card` that follow from the estimator.
    _card: Callable[[], dict[str, Any]]

    def save_pretrained(
        self, folder: str | os.PathLike, *, metrics: Mapping[str, float] | None = None, data: str | None = None,
        licence: str | None = None, base: str | None = None,
    ) -> Path:  # fmt: skip
        """Write the fitted estimator and a model card into a folder.

        A `SAMLoRAEmbedder` writes its adapter in PEFT's layout, with decoder and settings, but no base weights. A
        `CrossDomainAutoencoder` writes its network (autoencoder.safetensors) and settings (sam_bloodcell.json). A
        `ViTEmbedder` writes its settings (vit_embedder.json) and, if its segmenter was fine-tuned, the segmenter's
        adapter. A `FunctionEmbedder` cannot be saved.

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
        base : str, optional
            Backbone name or Hub repo of the base weights for the model card. By default, an embedder states its own. An
            autoencoder does not know which weights made its embeddings, so its card says "not stated".

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        NotFittedError, OSError
            If the estimator is not fitted, or a file cannot be written.
        ValueError
            If an embedder has no adapter, neither fine-tuned nor loaded.
        TypeError
            If the estimator is a `FunctionEmbedder`, or `metrics` is not a dict.
        """
        check_is_fitted(self)
        written = self._write_files(folder)
        stated: dict[str, Any] = {} if base is None else {"base": base, "base_revision": None}
        write_model_card(written, **self._card() | stated, metrics=metrics, data=data, licence=licence)
        return written

    def push_to_hub(
        self, repo_id: str, *, revision: str | None = None, private: bool | None = None, token: str | None = None,
        **card: Any,
    ) -> str:  # fmt: skip
        """Save the estimator and upload it to a Hub repo.

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
            Arguments of `save_pretrained`: metrics, data, licence and base.

        Returns
        -------
        str
            URL of the commit.

        Raises
        ------
        WeightsUnavailableError
            If the Hub refuses or cannot be reached.
        """
        return hub.push(self.save_pretrained, repo_id, revision=revision, private=private, token=token, **card)

    def __getstate__(self) -> dict[str, Any]:
        """Return only arrays and plain values, so that skops builds no other class than the estimator's."""
        state = super().__getstate__()
        state = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in state.items()}
        held = {name: ways for name, ways in self._packing.items() if state.get(name) is not None}
        return state | {name: pack(state[name]) for name, (pack, _) in held.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = {name: ways for name, ways in self._packing.items() if state.get(name) is not None}
        super().__setstate__(state | {name: unpack(state[name]) for name, (_, unpack) in held.items()})


def write_model_card(
    folder: Path, *, title: str, summary: str, code: str, base: str | None = None, base_revision: str | None = None,
    metrics: Mapping[str, float] | None = None, data: str | None = None, licence: str | None = None,
    tags: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Write a model card into a folder, and return its path.

    `code` is Python code that loads the weights. `base` and `base_revision` are the repo and the commit of the base
    weights on the Hub. `data` describes the training data, and `licence` is an SPDX identifier. `tags` are added to
    those that every card has.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"Got metrics={metrics!r} but expected numbers by name. Fix: {{'Dice': 0.95}}.")
    header = ModelCardData(
        license=licence,
        library_name="sam-bloodcell",
        base_model=match[1] if (match := _ON_HUB.fullmatch(base or "")) else None,
        tags=["blood-cells", "cytology", "scikit-learn", *tags],
    )
    told = {"title": title, "summary": summary, "code": code, "base": base, "base_revision": base_revision}
    shown = {name: f"{float(value):.4g}" for name, value in (metrics or {}).items()}
    template = str(Path(__file__).with_name("model_card.md"))
    card = ModelCard.from_template(header, template, **told, metrics=shown, data=data, licence=licence)
    path = folder / "README.md"
    write_text(path, f"{card}\n")
    return path
