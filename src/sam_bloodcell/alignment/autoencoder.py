"""`CrossDomainAutoencoder`: a few features per cell that survive a change of laboratory."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ..embedding.embeddings import CellEmbeddings
from ..files import make_folder, write_text
from ..models import devices
from ..models.alignment import ALIGNMENTS
from ..models.autoencoders import CROP_SIZES
from ..models.training import TrainingPlan, Validation, train
from ..weights import hub, remote
from ..weights.model_card import write_model_card
from .domains import ClusterShifts, DomainScaler, balanced_batches, domain_column
from .reconstruction import OURS, PRESETS, Batch, Cells, Settings, build_network, loss_terms, ready, split_rows

_WEIGHTS, _SETTINGS = "autoencoder.safetensors", "sam_bloodcell.json"


class CrossDomainAutoencoder(remote.PushToHubMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Compress embeddings to a few features from which the cell, but not the laboratory, can be reconstructed.

    Inputs are standardised by laboratory, a network is trained to reconstruct them (and, from token maps, the cell's
    crop) from `n_components` features, and the features of groups of like cells are moved together across
    laboratories. No class labels are used.

    Parameters
    ----------
    n_components : int, default=50
        Number of features.
    architecture : {"auto", "vector", "conv", "masked"}, default="auto"
        "vector" is an MLP on any 2-D array, and on the pooled embeddings of `CellEmbeddings`. "conv" (BC-SAM) and
        "masked" (DoRL) read the token maps of `CellEmbeddings` and also paint the cells' crops. "auto" is the preset's,
        else "vector", which measured best on real cells.
    preset : {"bc-sam", "dorl"} or None, default=None
        The papers' settings for every parameter that is "auto". None takes ours.
    alignment : {"auto", "mean", "mmd", "coral", "sinkhorn"} or None, default="auto"
        Distance between the laboratories' features that training lowers, see ``sam_bloodcell.models.alignment``. None
        trains without; so does "auto" without a preset.
    alignment_weight : float or "auto", default="auto"
        Weight of the alignment in the loss.
    normalization : {"auto", "cluster", "domain"} or None, default="auto"
        "domain" standardises each laboratory's inputs by that laboratory's own statistics. "cluster" also moves the
        features of each laboratory, cluster by cluster, onto those of the others. None standardises all laboratories
        alike, as presets do.
    embedding_weight : float or "auto", default="auto"
        Weight of the embedding's squared error in the loss; the crops' 1 - SSIM weighs 1.
    crop_size : {32, 64, 128} or "auto", default="auto"
        Side in pixels of the painted crops. The papers' 128 costs about nine times as much per step as our 32
        (``benchmarks/autoencoder_step.py``).
    epochs : int or "auto", default="auto"
        "auto" without a preset: as many as make 600 steps ("vector") or 300 steps.
    learning_rate, weight_decay : float or "auto", default="auto"
        Of AdamW, with a cosine decay.
    batch_size : int or "auto", default="auto"
        Cells in a training step, the same number of every laboratory.
    warmup_steps : int or "auto", default="auto"
        Steps of linear warm-up, at most a tenth of the training.
    patience : int or None, default=None
        Stop after so many epochs in which the reconstruction of held-out cells did not improve, and keep the best
        epoch's weights. None trains to the end on all cells.
    validation_fraction : float, default=0.1
        Share of the cells held out where `patience` is set.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    network_ : VectorAutoencoder, ConvAutoencoder or MaskedAutoencoder
        On CPU.
    settings_ : Settings
        What "auto" came to.
    domains_ : ndarray
        The domains seen in `fit`; empty without `domain`.
    scaler_ : DomainScaler
        Statistics of the inputs by laboratory.
    shifts_ : ClusterShifts or None
        None without at least two laboratories or ``normalization="cluster"``.
    history_ : DataFrame
        One row an epoch: epoch, learning_rate, loss, reconstruction, alignment; crops and embedding, the parts of the
        reconstruction, where there are both; validation_score, where `patience` is set.
    n_features_in_ : int
        Width C of the embeddings.

    See Also
    --------
    SAMLoRAEmbedder : makes the `CellEmbeddings` that this transformer takes.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024; Li et al., DoRL, 2024 (the presets). Li et al., "Revisiting batch normalization for
    practical domain adaptation", 2016 (statistics by domain).

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell import CrossDomainAutoencoder
    >>> X, lab = np.random.default_rng(0).normal(size=(60, 192)), np.repeat(["acevedo", "matek"], 30)
    >>> autoencoder = CrossDomainAutoencoder(random_state=0).fit(X, domain=lab)
    >>> autoencoder.transform(X, domain=lab).shape
    (60, 50)
    """

    __metadata_request__fit = {"domain": True}
    __metadata_request__partial_fit = {"domain": True}
    __metadata_request__transform = {"domain": True}

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "architecture": [StrOptions({"auto", *OURS})],
        "preset": [StrOptions(set(PRESETS)), None],
        "alignment": [StrOptions({"auto", *ALIGNMENTS}), None],
        "alignment_weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "normalization": [StrOptions({"auto", "cluster", "domain"}), None],
        "embedding_weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "crop_size": [Options(Integral, set(CROP_SIZES)), StrOptions({"auto"})],
        "epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
        "warmup_steps": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    network_: Any
    settings_: Settings
    domains_: NDArray[Any]
    scaler_: DomainScaler
    shifts_: ClusterShifts | None
    history_: pd.DataFrame

    def __init__(
        self,
        n_components: int = 50,
        *,
        architecture: str = "auto",
        preset: str | None = None,
        alignment: str | None = "auto",
        alignment_weight: float | str = "auto",
        normalization: str | None = "auto",
        embedding_weight: float | str = "auto",
        crop_size: int | str = "auto",
        epochs: int | str = "auto",
        learning_rate: float | str = "auto",
        weight_decay: float | str = "auto",
        batch_size: int | str = "auto",
        warmup_steps: int | str = "auto",
        patience: int | None = None,
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.architecture = architecture
        self.preset = preset
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.normalization = normalization
        self.embedding_weight = embedding_weight
        self.crop_size = crop_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.warmup_steps = warmup_steps
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, domain: ArrayLike | None = None) -> "CrossDomainAutoencoder":
        """Train on the cells of all laboratories.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
        y : ignored
        domain : array-like of shape (n,), optional
            Each cell's laboratory, strings or ints. With None or one laboratory nothing is aligned, and a warning says
            so.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `domain` has another length than X, or X or a parameter is out of range.
        TypeError
            If the architecture needs token maps and X is no CellEmbeddings.
        """
        self._validate_params()
        cells, settings = self._start(X, domain)
        seed = int(check_random_state(self.random_state).randint(2**31))
        rows = np.random.default_rng(seed).permutation(len(cells))
        held_out = 0
        if self.patience is not None:
            held_out = min(max(1, round(self.validation_fraction * len(cells))), len(cells) - 2)
            if held_out < 1:
                raise ValueError(f"Got {len(cells)} cells but patience needs at least 3. Fix: patience=None.")
        self.history_ = self._train(cells, np.sort(rows[held_out:]), np.sort(rows[:held_out]), settings, seed)
        return self._finish(cells, seed)

    def partial_fit(self, X: Any, y: Any = None, *, domain: ArrayLike | None = None) -> "CrossDomainAutoencoder":
        """Train one epoch on one part of the data, at a constant learning rate.

        The statistics of the laboratories are gathered over all parts; the groups of like cells are found anew in each
        part, so that the parts should be shuffled, and the last one hold all laboratories. A first call starts anew,
        a call after `fit` trains on.

        Parameters
        ----------
        X, y, domain
            As in `fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As in `fit`.
        """
        self._validate_params()
        goes_on = hasattr(self, "network_")
        past = self.history_ if goes_on else pd.DataFrame()
        cells, settings = self._start(X, domain, goes_on)
        seed = (int(check_random_state(self.random_state).randint(2**31)) + len(past)) % 2**31
        everything = np.arange(len(cells))
        history = self._train(cells, everything, everything[:0], replace(settings, epochs=1), seed, goes_on)
        history["epoch"] += len(past)
        self.history_ = pd.concat([past, history], ignore_index=True) if goes_on else history
        return self._finish(cells, seed)

    def transform(self, X: Any, *, domain: ArrayLike | None = None) -> NDArray[np.float32]:
        """Compute the features.

        Without `domain` this goes row by row: all cells are scaled by the mean statistics of the laboratories of the
        fit. With `domain`, **unlabelled statistics of each laboratory** are used, as `normalization` says: those of the
        fit for a laboratory seen there, those of its rows in X for a new one, which should be many. Treat the cells
        that a classifier is trained on and those it is tested on alike: both with `domain`, or both without.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
        domain : array-like of shape (n,), optional
            Each cell's laboratory.

        Returns
        -------
        features : float32 array of shape (n, n_components)

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError, TypeError
            As in `fit`.
        """
        cells = self._seen(X, domain)
        features = self._encode(cells)
        if self.shifts_ is not None and cells.domain is not None:
            features = self.shifts_.correct(features, cells.domain)
        return features

    def fit_transform(self, X: Any, y: Any = None, *, domain: ArrayLike | None = None) -> NDArray[np.float32]:
        """Fit, then transform the same cells as later ones will be.

        A pipeline can hand `domain` to `transform` only where scikit-learn's metadata routing is enabled. Therefore
        this is ``fit(X, domain=domain).transform(X, domain=domain)`` with metadata routing and
        ``fit(X, domain=domain).transform(X)`` without.

        Parameters
        ----------
        X, y, domain
            As in `fit`.

        Returns
        -------
        features : float32 array of shape (n, n_components)

        Raises
        ------
        ValueError, TypeError
            As in `fit`.
        """
        self.fit(X, y, domain=domain)
        return self.transform(X, domain=domain if _routing_enabled() else None)

    def reconstruct(self, X: Any, *, domain: ArrayLike | None = None) -> NDArray:
        """Go to the features and back.

        Parameters
        ----------
        X, domain
            As in `transform`.

        Returns
        -------
        crops : uint8 array of shape (n, crop_size, crop_size, 3)
            From "conv" and "masked".
        embeddings : float32 array of shape (n, C)
            From "vector".
        """
        cells = self._seen(X, domain)
        back = np.concatenate(list(self._each_chunk(cells, lambda network, x: network.decode(network.encode(x)))))
        if self.settings_.architecture == "vector":
            return cells.scaler.unscale(back, cells.domain)
        return (np.moveaxis(back, 1, -1) * 255).round().astype(np.uint8)

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
        folder = make_folder(folder)
        state = self.__getstate__()
        tensors = {key: torch.from_numpy(array) for key, array in state.pop("network_").items()}
        hub.write_tensors(tensors, folder / _WEIGHTS)
        if isinstance(state["random_state"], np.random.RandomState):
            state["random_state"] = None  # only a next fit would use it
        settings = json.dumps({"kind": "autoencoder", "state": state}, default=_as_json)
        write_text(folder / _SETTINGS, settings + "\n")
        write_model_card(
            folder,
            title="Cross-domain autoencoder for blood cell embeddings",
            summary=f"Turns embeddings {self.n_features_in_} wide into {self._n_features_out} features. "
            f"Laboratories seen in training: {', '.join(map(str, self.domains_)) or 'not named'}.",
            code="from sam_bloodcell import CrossDomainAutoencoder\n\n"
            'autoencoder = CrossDomainAutoencoder.from_pretrained("this folder or repo")\n'
            "features = autoencoder.transform(embeddings, domain=laboratories)",
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
            "vit_tiny" is the packaged one, fitted on vit_tiny's embeddings of three laboratories; works offline.
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
        folder = hub.packaged_autoencoder(str(folder_or_repo)) or Path(folder_or_repo)
        if folder.is_dir():
            files = [folder / name for name in (_SETTINGS, _WEIGHTS)]
        else:
            files = remote.fetch_all(
                str(folder_or_repo), (_SETTINGS, _WEIGHTS), revision, token=token, local_files_only=local_files_only
            )
        missing = [path.name for path in files if not path.is_file()]
        settings = {} if missing else hub.read_json(files[0])
        if settings.get("kind") != "autoencoder":
            raise remote.WeightsUnavailableError(
                f"'{folder_or_repo}' holds no autoencoder"
                f"{': it lacks ' + ', '.join(missing) if missing else ''}. Fix: pass a folder made by save_pretrained."
            )
        weights = {key: tensor.numpy() for key, tensor in hub.read_tensors(files[1], keep_dtype=True).items()}
        state = settings["state"] | {"network_": weights}
        arrays = {name: np.array(state[name]) for name in ("domains_", "feature_names_in_") if name in state}
        autoencoder = cls.__new__(cls)
        autoencoder.__setstate__(state | arrays)
        return autoencoder

    def __getstate__(self) -> dict[str, Any]:
        """Hold numpy arrays and plain values alone."""
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
            network.load_state_dict(
                {key: torch.from_numpy(np.array(array)) for key, array in state["network_"].items()}
            )
            shifts = state["shifts_"]
            state |= {
                "network_": ready(network),
                "settings_": settings,
                "scaler_": DomainScaler.from_plain(state["scaler_"]),
                "shifts_": None if shifts is None else ClusterShifts.from_plain(shifts),
                "history_": pd.DataFrame(state["history_"]),
            }
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.settings_.n_components

    def _settle(self) -> Settings:
        """Return the settings of a fit: the preset's or ours, then what the user set."""
        preset = PRESETS.get(self.preset) if self.preset else None
        architecture = self.architecture
        if architecture == "auto":
            architecture = preset.architecture if preset else "vector"
        given = {field.name: getattr(self, field.name) for field in fields(Settings) if hasattr(self, field.name)}
        given = {name: value for name, value in given.items() if value != "auto"} | {"architecture": architecture}
        settings = replace(preset or OURS[architecture], **given)
        if architecture == "vector" and settings.embedding_weight == 0:
            raise ValueError(
                "Got embedding_weight=0 but a vector autoencoder has nothing else to learn from. Fix: 1.0."
            )
        return settings

    def _read(self, X: Any, domain: ArrayLike | None, settings: Settings, reset: bool) -> Cells:
        """Check X and domain; `reset` starts a fit, else X must look like that of the fit."""
        if settings.architecture == "vector":
            least = 2 if reset else 1
            values = validate_data(
                self,
                np.asarray(X) if isinstance(X, CellEmbeddings) else X,
                reset=reset,
                dtype=(np.float64, np.float32),
                ensure_min_samples=least,
            )
            cells = Cells(values, values, None, settings.crop_size)
        else:
            self._check_maps(X, settings, reset)
            cells = Cells(X.tokens, X.pooled, X.crops, settings.crop_size)
        if domain is not None:
            cells.domain = domain_column(domain, len(cells))
            cells.codes = np.unique(cells.domain, return_inverse=True)[1]
        return cells

    def _check_maps(self, X: Any, settings: Settings, reset: bool) -> None:
        if not isinstance(X, CellEmbeddings):
            raise TypeError(
                f"Got X of type {type(X).__name__} but architecture={settings.architecture!r} expected CellEmbeddings "
                "with token maps and crops. Fix: put SAMLoRAEmbedder before this step, and no step in between, or set "
                "architecture='vector'."
            )
        if reset:
            self.n_features_in_ = X.shape[1]
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Got embeddings {X.shape[1]} wide but expected {self.n_features_in_}. "
                "Fix: use the backbone of the fit."
            )
        if len(X) < 1 + reset:
            raise ValueError(f"Got {len(X)} cells but expected at least {1 + reset}. Fix: add cells.")

    def _start(self, X: Any, domain: ArrayLike | None, goes_on: bool = False) -> tuple[Cells, Settings]:
        """Read X for training, and gather its statistics."""
        settings = self.settings_ if goes_on else self._settle()
        cells = self._read(X, domain, settings, reset=not goes_on)
        names = np.array([]) if cells.domain is None else cells.domain
        self.domains_ = np.union1d(self.domains_, names) if goes_on and len(self.domains_) else np.unique(names)
        if len(self.domains_) < 2 and (settings.alignment or settings.normalization):
            got = f"one domain, {self.domains_.tolist()[0]!r}" if len(self.domains_) else "no domain"
            warnings.warn(
                f"Got {got}: nothing is aligned between laboratories. Fix: pass one laboratory a cell as `domain` "
                "(in a pipeline: fit(X, y, domain=...) with scikit-learn's metadata routing enabled).",
                stacklevel=3,
            )
        self.settings_, self.scaler_ = settings, self.scaler_ if goes_on else DomainScaler()
        for rows in cells.chunks():
            self.scaler_.update(cells.inputs[rows], cells.domain_of(rows))
        return self._scaled(cells), settings

    def _scaled(self, cells: Cells) -> Cells:
        """Cells with the statistics to scale them by; presets scale all laboratories alike."""
        cells.scaler = self.scaler_
        if self.settings_.normalization is None:
            cells.domain = None
        return cells

    def _seen(self, X: Any, domain: ArrayLike | None) -> Cells:
        """Read X for a fitted network."""
        check_is_fitted(self)
        cells = self._scaled(self._read(X, domain, self.settings_, reset=False))
        if cells.domain is not None and not set(cells.domain.tolist()) <= self.scaler_.moments.keys():
            cells.scaler = self.scaler_.including((cells.inputs[rows], cells.domain[rows]) for rows in cells.chunks())
        return cells

    def _train(
        self, cells: Cells, rows: NDArray, held_out: NDArray, settings: Settings, seed: int, goes_on: bool = False
    ) -> pd.DataFrame:
        device = devices.choose(self.device)
        steps = max(1, len(rows) // settings.batch_size)
        plan = TrainingPlan(
            epochs=settings.epochs or math.ceil(settings.steps / steps),
            steps_per_epoch=steps,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            amp_dtype=None if settings.architecture == "vector" else devices.half_dtype(device),
            decay=not goes_on,
        )

        def batches(epoch: int) -> Iterator[Batch]:
            rng = np.random.default_rng([seed, epoch])
            for batch in balanced_batches(cells.codes[rows], settings.batch_size, steps, rng):
                yield cells.batch(np.sort(rows[batch]), device)

        @torch.inference_mode()
        def score(network: nn.Module) -> dict[str, float]:
            parts = [(len(part), cells.batch(part, device)) for part in split_rows(held_out)]
            losses = [n * loss_terms(network, batch, settings)["reconstruction"].item() for n, batch in parts]
            return {"validation_score": -sum(losses) / len(held_out)}

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network_.float() if goes_on else build_network(settings, self.n_features_in_)
            self.network_ = network.to(device)
            history = train(
                network,
                lambda network, batch: loss_terms(network, batch, settings),
                batches,
                plan,
                validation=Validation(score, "validation_score", self.patience) if len(held_out) else None,
                verbose=self.verbose,
                description="CrossDomainAutoencoder",
            )
            return pd.DataFrame(history)

    def _finish(self, cells: Cells, seed: int) -> "CrossDomainAutoencoder":
        self.network_ = ready(self.network_.cpu())
        self.shifts_ = None
        if self.settings_.normalization == "cluster" and cells.domain is not None and len(np.unique(cells.domain)) > 1:
            self.shifts_ = ClusterShifts.fit(self._encode(cells), cells.domain, seed)
        return self

    def _encode(self, cells: Cells) -> NDArray[np.float32]:
        return np.concatenate(list(self._each_chunk(cells, lambda network, inputs: network.encode(inputs))))

    def _each_chunk(self, cells: Cells, function: Callable[[Any, Tensor], Tensor]) -> Iterator[NDArray[np.float32]]:
        dtype = next(self.network_.parameters()).dtype
        for rows in cells.chunks():
            with torch.inference_mode():
                yield function(self.network_, torch.from_numpy(cells.scaled(rows)).to(dtype)).float().numpy()


def _as_json(value: Any) -> Any:
    """Turn numpy into what JSON can hold."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be saved")
