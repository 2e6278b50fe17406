"""A fitted autoencoder on disk and in pickles, with the network's weights as arrays and the rest as plain values."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..exceptions import WeightsUnavailableError
from ..files import make_folder, replacing_files, write_text
from ..models.isolation import own_settings
from ..weights.backbones import packaged_folder
from ..weights.hub import locate_folder
from ..weights.pretrained import Pretrained
from ..weights.tensors import read_json, read_tensors, write_tensors
from .normalization import ClusterShifts, DomainScaler
from .reconstruction import build_network, for_inference
from .settings import Settings

_WEIGHTS, _SETTINGS = "autoencoder.safetensors", "sam_bloodcell.json"
_Autoencoder = TypeVar("_Autoencoder", bound="PretrainedAutoencoder")


class PretrainedAutoencoder(Pretrained):
    """The base of `CrossDomainAutoencoder` that saves, loads and pickles its fitted state."""

    network_: Any
    settings_: Settings
    domains_: NDArray[Any]
    scaler_: DomainScaler
    shifts_: ClusterShifts | None
    history_: pd.DataFrame
    n_features_in_: int

    checkpoint: str | os.PathLike | None = None  # autoencoders that were saved before this parameter existed lack it

    _packing = {
        "settings_": (asdict, lambda values: Settings(**values)),
        "scaler_": (DomainScaler.to_plain, DomainScaler.from_plain),
        "shifts_": (ClusterShifts.to_plain, ClusterShifts.from_plain),
        "history_": (lambda table: table.to_dict("list"), pd.DataFrame),
    }

    @classmethod
    def from_pretrained(
        cls: type[_Autoencoder], folder_or_repo: str | os.PathLike, revision: str | None = None, *,
        token: str | None = None, local_files_only: bool = False,
    ) -> _Autoencoder:  # fmt: skip
        """Return a fitted autoencoder from a folder or Hub repo.

        Parameters
        ----------
        folder_or_repo : str or path
            Folder, or repo on the Hugging Face Hub. "vit_tiny" is the packaged autoencoder, which was fitted on
            vit_tiny's embeddings of five laboratories and works offline.
        revision : str, optional
            Commit, tag or branch of the repo (default: main).
        token : str, optional
            Token of the Hub (default: that of ``HF_TOKEN`` or ``hf auth login``).
        local_files_only : bool, default=False
            Whether to use only files that are already in the Hub's cache.

        Returns
        -------
        CrossDomainAutoencoder
            The fitted autoencoder.

        Raises
        ------
        WeightsUnavailableError
            If a file is missing, damaged or cannot be fetched.
        """
        source = packaged_folder(str(folder_or_repo), "autoencoder") or folder_or_repo
        files = (_SETTINGS, _WEIGHTS)
        folder = locate_folder(source, "autoencoder", files, revision, token=token, local_files_only=local_files_only)
        settings = read_json(folder / _SETTINGS)
        if settings.get("kind") != "autoencoder":
            fix = "Fix: pass a folder made by save_pretrained."
            raise WeightsUnavailableError(f"'{folder_or_repo}' does not contain an autoencoder. {fix}")
        tensors = read_tensors(folder / _WEIGHTS)
        autoencoder = cls.__new__(cls)
        try:
            state = settings["state"] | {"network_": {name: tensor.numpy() for name, tensor in tensors.items()}}
            arrays = {name: np.array(state[name]) for name in ("domains_", "feature_names_in_") if name in state}
            if lacking := {"settings_", "domains_", "scaler_", "n_features_in_"} - state.keys():
                raise ValueError(f"its settings lack {', '.join(sorted(lacking))}")
            autoencoder.__setstate__(state | arrays)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as exc:
            raise WeightsUnavailableError(
                f"'{folder_or_repo}' contains an autoencoder that is incomplete or of another version of this package: "
                f"{' '.join(str(exc).split()):.300}. Fix: fetch or save it again, {_SETTINGS} and {_WEIGHTS} together."
            ) from exc
        return autoencoder

    def _write_files(self, folder: str | os.PathLike) -> Path:
        folder = make_folder(folder)
        state = self.__getstate__()
        tensors = {name: torch.from_numpy(array) for name, array in state.pop("network_").items()}
        if isinstance(state["random_state"], np.random.RandomState):
            state["random_state"] = None  # only another fit would use it
        settings = json.dumps({"kind": "autoencoder", "state": state}, default=lambda value: value.tolist())
        with replacing_files(folder) as draft:
            write_tensors(tensors, draft / _WEIGHTS)
            write_text(draft / _SETTINGS, settings + "\n")
        return folder

    def _card(self) -> dict[str, Any]:
        return {
            "title": "Cross-domain autoencoder for blood cell embeddings",
            "summary": f"Turns embeddings of {self.n_features_in_} channels into {self.network_.n_features} features. "
            f"Laboratories seen in training: {', '.join(map(str, self.domains_)) or 'not named'}.",
            "code": "from sam_bloodcell import CrossDomainAutoencoder\n\n"
            'autoencoder = CrossDomainAutoencoder.from_pretrained("this folder or repo")\n'
            "features = autoencoder.transform(embeddings, domain=domain)",
            "tags": ("autoencoder", "domain-adaptation"),
        }

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "network_" in state:
            state["network_"] = {name: tensor.float().numpy() for name, tensor in self.network_.state_dict().items()}
        return state

    @own_settings()
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "network_" in state:
            network = build_network(self.settings_, self.n_features_in_)
            network.load_state_dict({name: torch.tensor(array) for name, array in state["network_"].items()})
            self.network_ = for_inference(network)
