"""`CrossDomainAutoencoder`: a few features per cell that survive a change of laboratory."""

import json
import os
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import save_file
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from . import devices, hub, remote
from .embeddings import CellEmbeddings
from .model_card import write_model_card
from .models.autoencoders import ConvAutoencoder
from .models.losses import mean_discrepancy, ssim
from .training import TrainingPlan, train

_INFERENCE_BATCH = 256
_WEIGHTS, _SETTINGS = "autoencoder.safetensors", "sam_bloodcell.json"


class CrossDomainAutoencoder(remote.PushToHubMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Compress token maps to features from which the cell, but not the laboratory, can be reconstructed.

    A convolutional encoder turns each token map into `n_components` features; a decoder paints the cell's crop from
    them. The loss is 1 - SSIM of the crops, plus a penalty on the distance between the laboratories' mean features.
    No class labels are used.

    Parameters
    ----------
    n_components : int, default=50
        Number of features.
    architecture : {"auto", "conv"}, default="auto"
        "conv" is BC-SAM's. "auto" chooses by the input.
    alignment : {"mean", None}, default="mean"
        "mean" is the squared distance between the means of all pairs of domains; None trains without.
    alignment_weight : float, default=5.0
        Weight of the alignment against the reconstruction.
    crop_size : {32, 64, 128}, default=32
        Side in pixels of the reconstruction. The papers' 128 costs about nine times as much per step as 32
        (``benchmarks/autoencoder_step.py``).
    epochs : int, default=10
    learning_rate : float, default=5e-4
    weight_decay : float, default=0.05
    batch_size : int, default=128
        Least cells in a training step; what is left over is spread over the batches of an epoch.
    warmup_steps : int, default=500
        Steps of linear warm-up, at most a tenth of the training.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    network_ : ConvAutoencoder
        On CPU.
    domains_ : ndarray
        The domains seen in `fit`; empty without `domain`.
    history_ : DataFrame
        One row an epoch: epoch, learning_rate, loss, reconstruction, alignment.
    n_features_in_ : int
        Width C of the embeddings.

    See Also
    --------
    SAMLoRAEmbedder : makes the `CellEmbeddings` that this transformer takes.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024 (the "conv" architecture and its loss).

    Examples
    --------
    >>> from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(2, random_state=0)
    >>> embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)
    >>> autoencoder = CrossDomainAutoencoder(epochs=1, random_state=0)
    >>> autoencoder.fit_transform(embeddings, domain=cells.domain).shape
    (20, 50)
    """

    __metadata_request__fit = {"domain": True}

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "architecture": [StrOptions({"auto", "conv"})],
        "alignment": [StrOptions({"mean"}), None],
        "alignment_weight": [Interval(Real, 0, None, closed="left")],
        "crop_size": [Interval(Integral, 1, None, closed="left")],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "warmup_steps": [Interval(Integral, 0, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int = 50,
        *,
        architecture: str = "auto",
        alignment: str | None = "mean",
        alignment_weight: float = 5.0,
        crop_size: int = 32,
        epochs: int = 10,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.05,
        batch_size: int = 128,
        warmup_steps: int = 500,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.architecture = architecture
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.crop_size = crop_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.warmup_steps = warmup_steps
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: CellEmbeddings, y: Any = None, *, domain: ArrayLike | None = None) -> "CrossDomainAutoencoder":
        """Train on the cells of all laboratories.

        Parameters
        ----------
        X : CellEmbeddings of n cells
        y : ignored
        domain : array-like of shape (n,), optional
            Each cell's laboratory, strings or ints. None trains without alignment.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `domain` has another length than X, or a parameter is out of range.
        TypeError
            If X is no CellEmbeddings.
        """
        self._validate_params()
        cells = self._check(X)
        if len(cells) < 2:
            raise ValueError(f"Got {len(cells)} cell but expected at least 2. Fix: add cells to train on.")
        codes = self._domain_codes(domain, len(cells))
        seed = int(check_random_state(self.random_state).randint(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ConvAutoencoder(cells.shape[1], self.n_components, self.crop_size)
        device = devices.choose(self.device)
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        crops = _shrink(cells.crops, self.crop_size)
        steps = max(1, len(cells) // self.batch_size)
        plan = TrainingPlan(
            epochs=self.epochs,
            steps_per_epoch=steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            amp_dtype=devices.half_dtype(device),
        )

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            order = np.random.default_rng([seed, epoch]).permutation(len(cells))
            for rows in np.array_split(order, steps):
                rows.sort()  # in file order, for memory-mapped tokens
                yield (
                    _as_tokens(cells.tokens[rows], device),
                    torch.from_numpy(crops[rows]).to(device).movedim(-1, 1).float() / 255,
                    torch.from_numpy(codes[rows]).to(device),
                )

        self.history_ = train(
            network, self._loss, batches, plan, verbose=self.verbose, description="CrossDomainAutoencoder"
        )
        self.network_ = network.cpu()
        self.n_features_in_ = cells.shape[1]
        return self

    def transform(self, X: CellEmbeddings) -> NDArray[np.float32]:
        """Compute the features, row by row: float32 array of shape (n, n_components)."""
        check_is_fitted(self)
        cells = self._check(X)
        with torch.inference_mode():
            parts = [self.network_.encode(tokens).numpy() for tokens in self._inference_batches(cells)]
        return np.concatenate(parts)

    def reconstruct(self, X: CellEmbeddings) -> NDArray[np.uint8]:
        """Paint the crops back from the features: uint8 array of shape (n, crop_size, crop_size, 3)."""
        check_is_fitted(self)
        cells = self._check(X)
        with torch.inference_mode():
            parts = [self.network_(tokens)[1] for tokens in self._inference_batches(cells)]
        return (torch.cat(parts).movedim(1, -1) * 255).round().to(torch.uint8).numpy()

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
        folder : path
            Made if need be.
        metrics, data, licence
            For the model card: numbers by name, what it was trained on, an SPDX identifier.

        Returns
        -------
        folder : Path
        """
        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.__getstate__()
        arrays = state.pop("network_")["weights"]
        tensors = {key: torch.from_numpy(array).contiguous() for key, array in arrays.items()}
        save_file(tensors, folder / _WEIGHTS)
        settings = {"kind": "autoencoder", "network": self._shape(), "state": _as_json(state)}
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2, default=np.generic.item) + "\n")
        write_model_card(
            folder,
            title="Cross-domain autoencoder for blood cell embeddings",
            summary=f"Turns token maps {self.n_features_in_} wide into {self.network_.n_components} features. "
            f"Laboratories seen in training: {', '.join(map(str, self.domains_)) or 'not named'}.",
            code="from sam_bloodcell import CrossDomainAutoencoder\n\n"
            'autoencoder = CrossDomainAutoencoder.from_pretrained("this folder or repo")\n'
            "features = autoencoder.transform(embeddings)",
            metrics=metrics,
            data=data,
            licence=licence,
            tags=("autoencoder", "domain-adaptation"),
        )
        return folder

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike,
        revision: str | None = None,
        *,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> "CrossDomainAutoencoder":
        """Return a fitted autoencoder from a folder or Hub repo.

        Parameters
        ----------
        folder_or_repo : str or path
        revision : str, optional
            Commit, tag or branch on the Hub.
        token : str, optional
            Default that of ``HF_TOKEN`` or ``hf auth login``.
        local_files_only : bool
            Look into the Hub's local cache alone.

        Raises
        ------
        WeightsUnavailableError
            If a file is missing, damaged or cannot be fetched.
        """
        folder = Path(folder_or_repo)
        if folder.is_dir():
            files = [folder / name for name in (_SETTINGS, _WEIGHTS)]
        else:
            files = remote.fetch_all(
                str(folder_or_repo), (_SETTINGS, _WEIGHTS), revision, token=token, local_files_only=local_files_only
            )
        missing = [path.name for path in files if not path.is_file()]
        settings = {} if missing else json.loads(files[0].read_text())
        if settings.get("kind") != "autoencoder":
            raise remote.WeightsUnavailableError(
                f"'{folder_or_repo}' holds no autoencoder"
                f"{': it lacks ' + ', '.join(missing) if missing else ''}. Fix: pass a folder made by save_pretrained."
            )
        weights = {key: tensor.numpy() for key, tensor in hub.read_tensors(files[1], keep_dtype=True).items()}
        state = settings["state"] | {"network_": settings["network"] | {"weights": weights}}
        autoencoder = cls.__new__(cls)
        autoencoder.__setstate__(state | {"domains_": np.array(state["domains_"])})
        return autoencoder

    def __getstate__(self) -> dict[str, Any]:
        """Hold numpy arrays and plain values alone."""
        state = dict(super().__getstate__())
        if "network_" in state:
            weights = {key: tensor.numpy() for key, tensor in self.network_.state_dict().items()}
            state["network_"] = self._shape() | {"weights": weights}
            state["history_"] = self.history_.to_dict("list")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "network_" in state:
            shape = dict(state["network_"])
            weights = {key: torch.from_numpy(np.array(array)) for key, array in shape.pop("weights").items()}
            network = ConvAutoencoder(**shape).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
            network.load_state_dict(weights)
            state |= {"network_": network, "history_": pd.DataFrame(state["history_"])}
        super().__setstate__(state)

    def _shape(self) -> dict[str, int]:
        network = self.network_
        return {name: int(getattr(network, name)) for name in ("token_width", "n_components", "crop_size")}

    @property
    def _n_features_out(self) -> int:
        return self.n_components

    def _check(self, X: Any) -> CellEmbeddings:
        if not isinstance(X, CellEmbeddings):
            raise TypeError(
                f"Got X of type {type(X).__name__} but expected CellEmbeddings with token maps and crops. "
                "Fix: put SAMLoRAEmbedder before this step, and no step in between."
            )
        expected = getattr(self, "n_features_in_", X.shape[1])
        if X.shape[1] != expected:
            raise ValueError(
                f"Got embeddings {X.shape[1]} wide but expected {expected}. Fix: use the backbone of the fit."
            )
        return X

    def _domain_codes(self, domain: ArrayLike | None, n: int) -> NDArray[np.int64]:
        if domain is None:
            self.domains_ = np.array([])
            return np.full(n, -1)
        values = np.asarray(domain)
        if values.shape != (n,):
            raise ValueError(
                f"Got domain of shape {values.shape} but expected ({n},), one laboratory per row of X. "
                "Fix: pass the domain column of the same rows."
            )
        missing = np.flatnonzero(pd.isna(values))
        if len(missing):
            raise ValueError(f"Row {missing[0]}: domain is missing. Fix: name its laboratory or leave the cell out.")
        self.domains_, codes = np.unique(values, return_inverse=True)
        return codes.astype(np.int64)

    def _loss(self, network: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        tokens, crops, codes = batch
        features, painted = network(tokens)
        reconstruction = 1 - ssim(painted, crops)
        weight = self.alignment_weight if self.alignment else 0.0
        alignment = mean_discrepancy(features.float(), codes)
        return {
            "loss": reconstruction + weight * alignment,
            "reconstruction": reconstruction,
            "alignment": alignment,
        }

    def _inference_batches(self, cells: CellEmbeddings) -> Iterator[torch.Tensor]:
        for start in range(0, len(cells), _INFERENCE_BATCH):
            yield _as_tokens(cells.tokens[start : start + _INFERENCE_BATCH], torch.device("cpu"))


def _as_tokens(tokens: NDArray, device: torch.device) -> torch.Tensor:
    batch = torch.from_numpy(np.asarray(tokens, dtype=np.float32)).to(device)
    return batch.contiguous(memory_format=torch.channels_last)


def _shrink(crops: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Average (n, S, S, 3) crops down to (n, size, size, 3), S a multiple of size."""
    n, side = crops.shape[:2]
    factor = side // size
    if factor == 1:
        return crops
    blocks = crops.reshape(n, size, factor, size, factor, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def _as_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without what JSON cannot hold: a RandomState, which only a next fit would use."""
    state = state | {"domains_": state["domains_"].tolist()}
    if isinstance(state["random_state"], np.random.RandomState):
        state["random_state"] = None
    return state
