"""How a fitted embedder is saved, loaded and pickled: its adapter, and a reference to the base weights."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..models.lora import Adapter
from ..models.sam import PixelStats
from ..weights import adapters, hub
from ..weights.backbones import Backbone, identify
from ..weights.model_card import write_model_card

# Fitted attributes in a pickle: how they are packed into plain values, and back.
_PACKED: dict[str, tuple[Callable, Callable]] = {
    "backbone_": (asdict, lambda values: Backbone(**values)),
    "adapter_": (Adapter.packed, Adapter.unpacked),
    "history_": (lambda table: table.to_dict("list"), pd.DataFrame),
}
_Embedder = TypeVar("_Embedder", bound="PretrainedEmbedder")


class PretrainedEmbedder(hub.PushToHubMixin, BaseEstimator):
    """Gives a fitted embedder its ways to disk, to the Hub and back."""

    adapter_: Adapter | None
    backbone_: Backbone
    image_size: int
    pixel_stats_: PixelStats

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        metrics: Mapping[str, float] | None = None,
        data: str | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write the adapter in PEFT's layout, with decoder, settings and a model card; base weights stay out of it.

        Parameters
        ----------
        folder : path
            Made if need be.
        metrics, data, licence
            For the model card: numbers by name, what it was trained on, an SPDX identifier.

        Raises
        ------
        ValueError
            If there is no adapter, neither fine-tuned nor loaded.
        """
        check_is_fitted(self)
        if self.adapter_ is None:
            raise ValueError(
                "There is no adapter to save: this embedder is plain SAM. Fix: fit(X, masks=...) or adapter=..."
            )
        base, revision = self.backbone_.resolved()
        # What it embeds with, which may differ from what the adapter was trained with.
        adapter = replace(self.adapter_, image_size=self.image_size, pixel_stats=self.pixel_stats_)
        written = adapters.write_adapter(adapter, folder, self.backbone_)
        write_model_card(
            written,
            title="LoRA adapter for blood cell images",
            summary=f"LoRA factors and a prompt-free mask decoder for Segment Anything's encoder, trained by "
            f"segmenting cells, for images of {self.image_size} px.",
            code="from sam_bloodcell import SAMLoRAEmbedder\n\n"
            'embedder = SAMLoRAEmbedder.from_pretrained("this folder or repo")\n'
            'embeddings = embedder.transform(["cell.png"])',
            base=base,
            base_revision=revision,
            metrics=metrics,
            data=data,
            licence=licence,
            tags=("lora", "peft", "segment-anything", "image-feature-extraction"),
        )
        return written

    @classmethod
    def from_pretrained(
        cls: type[_Embedder],
        folder_or_repo: str | os.PathLike,
        revision: str | None = None,
        *,
        token: str | None = None,
        local_files_only: bool = False,
        **params: Any,
    ) -> _Embedder:
        """Return a fitted embedder from an adapter folder or Hub repo.

        Parameters
        ----------
        folder_or_repo : str or path
        revision : str, optional
            Commit, tag or branch of the adapter's repo; that of its backbone is noted in the adapter.
        token : str, optional
            Default that of ``HF_TOKEN`` or ``hf auth login``.
        local_files_only : bool
            Look into the Hub's local cache alone.
        **params
            Parameters that override the adapter's settings.

        Raises
        ------
        WeightsUnavailableError
            If weights can neither be found nor fetched.
        """
        folder = adapters.locate_adapter(folder_or_repo, revision, token=token, local_files_only=local_files_only)
        settings = adapters.adapter_settings(folder)
        params = {name: settings[name] for name in ("backbone", "revision", "image_size")} | params
        # By commit, what was just fetched is found again without network or token.
        commit = hub.commit_of(folder / "adapter_config.json")
        embedder = cls(adapter=os.fspath(folder_or_repo), adapter_revision=commit or revision, **params)
        backbone = Backbone(os.fspath(embedder.backbone), embedder.revision)
        identify(backbone, token=token, local_files_only=local_files_only)
        # Without masks, fit looks at no pixel: one blank image stands for the collection.
        return embedder.fit(np.zeros((1, 16, 16, 3), np.uint8))

    def __getstate__(self) -> dict[str, Any]:
        """Hold numpy arrays and plain values alone, and of the base weights a reference."""
        state = super().__getstate__()
        state = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in state.items()}
        for name, (pack, _) in _PACKED.items():
            if state.get(name) is not None:
                state[name] = pack(state[name])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        for name, (_, unpack) in _PACKED.items():
            if state.get(name) is not None:
                state[name] = unpack(state[name])
        super().__setstate__(state)
