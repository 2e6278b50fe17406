"""Saving, loading and pickling of a fitted embedder: its adapter, and a reference to the base weights."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ..models.lora import Adapter
from ..models.sam import PixelStats
from ..weights import adapters, hub
from ..weights.backbones import CELLPOSE_LICENCE, Backbone, identify
from ..weights.pretrained import Pretrained
from .recipe import MASK

_Embedder = TypeVar("_Embedder", bound="PretrainedEmbedder")
# Without masks, fit does not read the pixels, so one blank image replaces the collection.
BLANK = np.zeros((1, 16, 16, 3), np.uint8)


class PretrainedEmbedder(Pretrained):
    """Methods of an embedder that save it to a disk or the Hub, and load it."""

    adapter_: Adapter | None
    backbone_: Backbone
    image_size_: int
    prompt: str
    pooling_: str
    pixel_stats_: PixelStats

    _packing = {
        "backbone_": (asdict, lambda values: Backbone(**values)),
        "adapter_": (Adapter.packed, Adapter.unpacked),
        "history_": (lambda table: table.to_dict("list"), pd.DataFrame),
    }

    @classmethod
    def from_pretrained(
        cls: type[_Embedder], folder_or_repo: str | os.PathLike, revision: str | None = None, *,
        token: str | None = None, local_files_only: bool = False, **params: Any,
    ) -> _Embedder:  # fmt: skip
        """Return a fitted embedder from an adapter folder or Hub repo.

        Parameters
        ----------
        folder_or_repo : str or path
            Adapter folder, or repo on the Hugging Face Hub.
        revision : str, optional
            Commit, tag or branch of the adapter's repo. The adapter itself names the commit of its backbone.
        token : str, optional
            Token of the Hub (default: that of ``HF_TOKEN`` or ``hf auth login``).
        local_files_only : bool, default=False
            Whether to use only files that are already in the Hub's cache.
        **params : dict
            Parameters that override the adapter's settings.

        Returns
        -------
        SAMLoRAEmbedder
            The fitted embedder.

        Raises
        ------
        WeightsUnavailableError
            If weights can neither be found nor fetched.
        """
        folder = adapters.locate_adapter(folder_or_repo, revision, token=token, local_files_only=local_files_only)
        settings = adapters.adapter_settings(folder)
        # An adapter notes its prompt and its pooling only if they are not the default.
        noted = ("backbone", "revision", "image_size", "prompt", "pooling")
        params = {name: settings[name] for name in noted if name in settings} | params
        # With the commit, the files that were just fetched are found again without a network or a token.
        commit = hub.commit_of(folder / "adapter_config.json")
        embedder = cls(adapter=os.fspath(folder_or_repo), adapter_revision=commit or revision, **params)
        backbone = Backbone(os.fspath(embedder.backbone), embedder.revision)
        identify(backbone, token=token, local_files_only=local_files_only)
        return embedder.fit(BLANK)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {"pooling": MASK} | state  # pickles of older versions have no pooling
        # Those of older versions lack these attributes, and transformed with the parameters.
        fitted = {f"{name}_": state[name] for name in ("pooling", "image_size")} if "adapter_" in state else {}
        super().__setstate__(fitted | state)

    def _write_files(self, folder: str | os.PathLike) -> Path:
        if self.adapter_ is None:
            raise ValueError(
                "There is no adapter to save: this embedder is plain SAM. Fix: fit(X, masks=...) or adapter=..."
            )
        # These are the settings of this embedder, which may differ from those with which the adapter was trained.
        adapter = replace(self.adapter_, image_size=self.image_size_, pixel_stats=self.pixel_stats_)
        prompt = self.adapter_.prompt if self.prompt == "auto" else self.prompt
        pooling = None if self.pooling_ == MASK else self.pooling_
        return adapters.write_adapter(adapter, folder, self.backbone_, prompt=prompt, pooling=pooling)

    def _card(self) -> dict[str, Any]:
        base, revision = self.backbone_.resolved()
        return {
            "title": "LoRA adapter for blood cell images",
            "summary": "LoRA factors and a prompt-free mask decoder for Segment Anything's encoder, trained by "
            f"segmenting cells, for images of {self.image_size_} px."
            + (f" {CELLPOSE_LICENCE}" if self.encoder_.network().size.stretched else ""),
            "code": "from sam_bloodcell import SAMLoRAEmbedder\n\n"
            'embedder = SAMLoRAEmbedder.from_pretrained("this folder or repo")\n'
            'embeddings = embedder.transform(["cell.png"])',
            "base": base,
            "base_revision": revision,
            "tags": ("lora", "peft", "segment-anything", "image-feature-extraction"),
        }
