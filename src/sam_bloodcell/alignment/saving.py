"""A fitted autoencoder on disk and in pickles: the network's weights as arrays, everything else as plain values."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..exceptions import WeightsUnavailableError
from ..files import make_folder, write_text
from ..weights.backbones import packaged_folder
from ..weights.hub import PushToHubMixin, locate_folder
from ..weights.model_card import write_model_card
from ..weights.tensors import read_json, read_tensors, write_tensors
from .normalization import ClusterShifts, DomainScaler
from .reconstruction import build_network, for_inference
from .settings import Settings

_WEIGHTS, _SETTINGS = "autoencoder.safetensors", "sam_bloodcell.json"
_Autoencoder = TypeVar("_Autoencoder", bound="PretrainedAutoencoder")


class PretrainedAutoencoder(PushToHubMixin, BaseEstimator):
    """The base of `CrossDomainAutoencoder`: its fitted state, and how that is saved, loaded and pickled."""

    network_: Any
    settings_: Settings
    domains_: NDArray[Any]
    scaler_: DomainScaler
    shifts_: ClusterShifts | None
    history_: pd.DataFrame
    n_features_in_: int

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        metrics: Mapping[str, float] | None = None,
        data: str | None = None,
        licence: str | None = None,
    ) -> Path:
        """Write the network (autoencoder.safetensors), the settings (sam_bloodcell.json) and a model card.

        Parameters
        ----------
        folder, metrics, data, licence
            As in `SAMLoRAEmbedder.save_pretrained`.

        Returns
        -------
        folder : Path

        Raises
        ------
        NotFittedError, OSError
            Before `fit`; if a file cannot be written.
        """
        check_is_fitted(self)
        folder = make_folder(folder)
        state = self.__getstate__()
        tensors = {name: torch.from_numpy(array) for name, array in state.pop("network_").items()}
        write_tensors(tensors, folder / _WEIGHTS)
        if isinstance(state["random_state"], np.random.RandomState):
            state["random_state"] = None  # only another fit would use it
        settings = json.dumps({"kind": "autoencoder", "state": state}, default=lambda value: value.tolist())
        write_text(folder / _SETTINGS, settings + "\n")
        write_model_card(
            folder,
            title="Cross-domain autoencoder for blood cell embeddings",
            summary=f"Turns embeddings {self.n_features_in_} wide into {self.settings_.n_components} features. "
            f"Laboratories seen in training: {', '.join(map(str, self.domains_)) or 'not named'}.",
            code="from sam_bloodcell import CrossDomainAutoencoder\n\n"
            'autoencoder = CrossDomainAutoencoder.from_pretrained("this folder or repo")\n'
            "features = autoencoder.transform(embeddings, domain=domain)",
            metrics=metrics,
            data=data,
            licence=licence,
            tags=("autoencoder", "domain-adaptation"),
        )
        return folder

    @classmethod
    def from_pretrained(
        cls: type[_Autoencoder],
        folder_or_repo: str | os.PathLike,
        revision: str | None = None,
        *,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> _Autoencoder:
        """Return a fitted autoencoder from a folder or Hub repo.

        Parameters
        ----------
        folder_or_repo : str or path
            "vit_tiny" is the packaged one, fitted on vit_tiny's embeddings of three laboratories; works offline.
        revision, token, local_files_only
            For the Hub, as in `SAMLoRAEmbedder.from_pretrained`.

        Raises
        ------
        WeightsUnavailableError
            If a file is missing, damaged or cannot be fetched.
        """
        folder = packaged_folder(str(folder_or_repo), "autoencoder")
        if folder is None:
            files = (_SETTINGS, _WEIGHTS)
            folder = locate_folder(
                folder_or_repo, files, revision, kind="autoencoder", token=token, local_files_only=local_files_only
            )
        settings = read_json(folder / _SETTINGS)
        if settings.get("kind") != "autoencoder":
            raise WeightsUnavailableError(
                f"'{folder_or_repo}' holds no autoencoder. Fix: pass a folder made by save_pretrained."
            )
        state = settings["state"]
        tensors = read_tensors(folder / _WEIGHTS, keep_dtype=True)
        state["network_"] = {name: tensor.numpy() for name, tensor in tensors.items()}
        autoencoder = cls.__new__(cls)
        arrays = {name: np.array(state[name]) for name in ("domains_", "feature_names_in_") if name in state}
        autoencoder.__setstate__(state | arrays)
        return autoencoder

    def __getstate__(self) -> dict[str, Any]:
        """Hold numpy arrays and plain values alone: skops then builds no class but this one."""
        state = dict(super().__getstate__())
        if "network_" in state:
            state["network_"] = {key: tensor.float().numpy() for key, tensor in self.network_.state_dict().items()}
            state["settings_"] = asdict(self.settings_)
            state["scaler_"] = self.scaler_.to_plain()
            state["shifts_"] = None if self.shifts_ is None else self.shifts_.to_plain()
            state["history_"] = self.history_.to_dict("list")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "network_" in state:
            settings = Settings(**state["settings_"])
            network = build_network(settings, state["n_features_in_"])
            network.load_state_dict({key: torch.tensor(array) for key, array in state["network_"].items()})
            state["network_"], state["settings_"] = for_inference(network), settings
            state["scaler_"] = DomainScaler.from_plain(state["scaler_"])
            if state["shifts_"] is not None:
                state["shifts_"] = ClusterShifts.from_plain(state["shifts_"])
            state["history_"] = pd.DataFrame(state["history_"])
        super().__setstate__(state)
