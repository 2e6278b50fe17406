"""`CrossDomainAutoencoder`: a few features per cell that survive a change of laboratory."""

import copy
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..embedding.containers import carried_embeddings
from ..models import devices
from ..models.isolation import own_settings
from ..models.training import check_resumable
from .domains import domain_for_transform, name_to_add, read_domain, warn_of_nothing_to_align, warn_of_poor_statistics
from .inputs import NetworkInputs, check_size, held_out_rows, refuse_not_finite, token_maps
from .normalization import ClusterShifts, DomainScaler
from .reconstruction import run_network, train_network
from .saving import PretrainedAutoencoder
from .settings import CONSTRAINTS, Settings, resolve_settings


class CrossDomainAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, PretrainedAutoencoder):
    """Compress embeddings to a few features from which the cell, but not its laboratory, can be reconstructed.

    A domain is a laboratory. `CellEmbeddings` contain the domain of each cell. For other arrays, pass ``domain``, which
    takes precedence. Inputs are standardised by domain, and a network is trained to reconstruct them (and, from token
    maps, the cell's crop) from a few features. The features of clusters of similar cells are then aligned across
    domains. No class labels are used.

    Parameters
    ----------
    n_components : int, default=50
        Number of features, at least 1. With ``preset="dorl"`` there are as many features as the embedding has channels
        (768 for vit_b), and `n_components` is the size of the layer that is aligned.
    architecture : {"auto", "linear", "vector", "conv", "masked"}, default="auto"
        Network. "linear" (the features span the principal components) and "vector" (an MLP) read any 2-D array, such as
        pooled embeddings. "conv" (BC-SAM) and "masked" (DoRL) read the token maps of ``SAMLoRAEmbedder(...,
        keep=("tokens", "crops"))`` and also reconstruct the cells' crops. "auto" is the preset's network or, without a
        preset, "linear", which had about the same scores as "vector" on real cells and is faster. "linear" has a
        closed-form solution, so the parameters of the training, such as `epochs` and `device`, do not affect it.
    preset : {"bc-sam", "dorl"} or None, default=None
        Network and training of a paper, with its settings for every parameter that is "auto". The remaining
        differences are listed under :doc:`/method`. None uses our own settings.
    alignment : {"auto", "mean", "first", "mmd"} or None, default="auto"
        Distance between the domains' features that training minimises (``sam_bloodcell.models.alignment``). None, and
        "auto" without a preset, use no such distance. "first", which presets use, compares all domains with the first.
    alignment_weight : float or "auto", default="auto"
        Weight of the alignment in the loss, at least 0. The 1 - SSIM of the crops has weight 1. "auto" is 1.0, or 5.0
        for "bc-sam" and 2.0 for "dorl".
    normalization : {"auto", "cluster", "domain", "raw"} or None, default="auto"
        "domain" standardises each domain's inputs by the statistics of that domain. "cluster" also shifts the features
        of each domain, cluster by cluster, to those of the others. None standardises all domains together. "raw" uses
        the inputs unchanged, as the presets do. "auto" without a preset is "cluster".
    embedding_weight : float or "auto", default="auto"
        Weight of the embedding's squared error in the loss, at least 0. "auto" is 1.0, or 5.0 for "conv" and 0.0 for
        "bc-sam".
    crop_size : {32, 64, 128} or "auto", default="auto"
        Side in pixels of the reconstructed crops. "auto" is 32, or 128 for presets, as in the papers. A training step
        takes much longer with 128.
    epochs : int or "auto", default="auto"
        Number of epochs, at least 1. "auto" is the number that makes 600 optimiser steps ("vector") or 300 ("conv",
        "masked"), and 10 for "bc-sam" and 300 for "dorl".
    learning_rate : float or "auto", default="auto"
        Highest learning rate of AdamW, above 0. It decays by a cosine schedule. "auto" is 2e-3 for "vector", 1e-3 for
        "conv", 5e-4 for "masked" and "bc-sam", and 1e-4 for "dorl".
    weight_decay : float or "auto", default="auto"
        Weight decay of AdamW, at least 0. In presets it also applies to biases and norms. "auto" is 0.05.
    batch_size : int or "auto", default="auto"
        Number of cells per training step, at least 2, with equal numbers of every domain except in presets. "auto" is
        256 for "vector", 128 for "conv" and "bc-sam", and 64 for "masked" and "dorl".
    warmup_steps : int or "auto", default="auto"
        Number of steps of linear warm-up, at least 0. "auto" is 500. Except in presets, the warm-up is limited to a
        tenth of the training.
    patience : int or None, default=None
        Number of epochs without a better reconstruction of held-out cells, after which training stops. The weights of
        the best epoch are kept. None trains to the end on all cells.
    validation_fraction : float, default=0.1
        Share of the cells that is held out if `patience` is set, between 0 and 1.
    checkpoint : str or path, optional
        File that `fit` writes after every epoch, from which it resumes if interrupted. It needs an int `random_state`.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name. "vector" is trained there, but always runs on the CPU afterwards.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights, the batches, the clusters and the cells that `patience` holds out.
    verbose : int, default=0
        If above 0, show a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module, on CPU
        A network of ``sam_bloodcell.models.autoencoders`` or, with a preset, of ``sam_bloodcell.models.published``.
    settings_ : Settings
        The values that replaced the parameters that are "auto", and further settings of the training.
    domains_ : ndarray
        Sorted names of the domains in `fit` and of those that `add_domain` added; empty if the domain of no cell was
        known.
    scaler_ : DomainScaler
        Statistics of the inputs of each domain.
    shifts_ : ClusterShifts or None
        Offset of each domain's features in each cluster; None if `normalization` is not "cluster" or no domain was
        known.
    history_ : DataFrame
        One row per epoch ("linear" has one row in total). Columns: epoch, loss, reconstruction; if they apply,
        learning_rate, alignment, crops and embedding (the parts of the reconstruction), and validation_score.
    n_features_in_ : int
        Number of channels C of the embeddings.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024; Li et al., DoRL, 2024 (the presets). Li et al., "Revisiting batch normalization for
    practical domain adaptation", 2016 (statistics by domain).

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell import CrossDomainAutoencoder
    >>> X, domain = np.random.default_rng(0).normal(size=(60, 192)), np.repeat(["acevedo", "matek"], 30)
    >>> autoencoder = CrossDomainAutoencoder(random_state=0).fit(X, domain=domain)
    >>> autoencoder.transform(X, domain=domain).shape
    (60, 50)
    """

    __metadata_request__fit = {"domain": True}
    __metadata_request__partial_fit = {"domain": True}
    __metadata_request__transform = {"domain": True}

    _parameter_constraints = CONSTRAINTS

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
        checkpoint: str | os.PathLike | None = None,
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
        self.checkpoint = checkpoint
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @own_settings()
    def fit(self, X: Any, y: Any = None, *, domain: ArrayLike | None = None) -> "CrossDomainAutoencoder":
        """Train on the cells of all domains.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
            Embeddings of the cells, such as those of a `SAMLoRAEmbedder`.
        y : object, default=None
            Ignored.
        domain : array-like of shape (n,), optional
            Domain of each cell, strings or ints, by default ``X.domain`` of `CellEmbeddings`. Without it, or with a
            single domain, nothing is aligned, and a warning says so.

        Returns
        -------
        self : object
            The fitted autoencoder.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is out of range, `domain` and X differ in length, or X lacks the token maps and crops
            that the architecture needs.
        """
        inputs = self._prepare_training(X, domain)
        check_resumable(self.checkpoint, self.random_state)
        seed = int(check_random_state(self.random_state).randint(2**31))
        share = 0 if self.patience is None else self.validation_fraction
        return self._train(inputs, self.settings_, seed, held_out_rows(len(inputs), share, seed))

    @own_settings()
    def partial_fit(self, X: Any, y: Any = None, *, domain: ArrayLike | None = None) -> "CrossDomainAutoencoder":
        """Train on one part of the data.

        A network is trained for one epoch at a constant learning rate. "linear" is solved again for all parts so far.
        The parameters `epochs`, `patience` and `checkpoint` are ignored.

        The statistics of the domains are gathered over all parts, but the clusters are those of the last part. A part
        should contain cells of all domains. The first call starts a new training. A call after `fit` continues it. The
        method raises the errors of `fit`.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
            Embeddings of the cells of this part.
        y : object, default=None
            Ignored.
        domain : array-like of shape (n,), optional
            Domain of each cell, as in `fit`.

        Returns
        -------
        self : object
            The autoencoder, trained on this part.
        """
        n_epochs = len(self.history_) if hasattr(self, "network_") else 0
        inputs = self._prepare_training(X, domain, part=True)
        seed = (int(check_random_state(self.random_state).randint(2**31)) + n_epochs) % 2**31
        return self._train(inputs, replace(self.settings_, epochs=1), seed, np.array([], int), part=True)

    @own_settings()
    def transform(self, X: Any, *, domain: ArrayLike | None = None) -> NDArray[np.float32]:
        """Compute the features.

        If the domain is given, **unlabelled statistics of each domain** are used, according to `normalization`. For a
        domain of the fit or of `add_domain`, the stored statistics are used. For a new domain, they are computed from
        its rows in X, so pass many rows. Rows of an unknown domain are scaled by the mean statistics of the domains.
        Their features are worse, and a warning says so after a fit with domains.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
            Embeddings of the cells.
        domain : array-like of shape (n,), optional
            Domain of each cell, as in `fit`.

        Returns
        -------
        float32 array of shape (n, n_components), or (n, C) with ``preset="dorl"``
            The features.

        Raises
        ------
        NotFittedError, ValueError, TypeError
            If the autoencoder is not fitted, or as in `fit`.
        """
        inputs = self._prepare_inference(X, domain)
        features = self._run_network(inputs)
        if self.shifts_ is None or inputs.domain is None:
            return features
        return self.shifts_.correct(features, inputs.domain)

    def fit_transform(self, X: Any, y: Any = None, *, domain: ArrayLike | None = None) -> NDArray[np.float32]:
        """Fit, then transform the same cells in the way in which later cells will be transformed.

        A pipeline can pass `domain` to a later `transform` only if scikit-learn's metadata routing is enabled. Without
        routing, `domain` is used only in `fit`, unless X contains domains, and a warning says so. The method raises
        the errors of `fit`.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
            Embeddings of the cells.
        y : object, default=None
            Ignored.
        domain : array-like of shape (n,), optional
            Domain of each cell, as in `fit`.

        Returns
        -------
        float32 array of shape (n, n_components), or (n, C) with ``preset="dorl"``
            The features, as from `transform`.
        """
        self.fit(X, y, domain=domain)
        with domain_for_transform(carried_embeddings(X), domain, self.settings_) as later:
            return self.transform(X, domain=later)

    @own_settings()
    def reconstruct(self, X: Any, *, domain: ArrayLike | None = None) -> NDArray:
        """Reconstruct the cells' crops or embeddings; it raises the errors of `transform`.

        Parameters
        ----------
        X : CellEmbeddings of n cells, or array-like of shape (n, C)
            Embeddings of the cells.
        domain : array-like of shape (n,), optional
            Domain of each cell, as in `fit`.

        Returns
        -------
        ndarray
            Crops of shape (n, crop_size, crop_size, 3), uint8, from token maps; vectors (n, C), float32, from vectors.
        """
        inputs = self._prepare_inference(X, domain)
        made = self._run_network(inputs, reconstruct=True)
        if self.settings_.reads_vectors:
            return inputs.unscaled_again(made)
        return (np.moveaxis(made, 1, -1).clip(0, 1) * 255).round().astype(np.uint8)

    def add_domain(self, X: Any, name: str | int) -> "CrossDomainAutoencoder":
        """Learn a new laboratory once from its unlabelled cells, so that later cells are transformed consistently.

        Without this method, `transform` computes the statistics of a new domain from the rows in X. These statistics
        differ between calls and are unreliable for few cells. The network does not change.

        Parameters
        ----------
        X : CellEmbeddings of n cells or array-like of shape (n, C)
            At least 20 cells, of the cell types that are usual in the laboratory.
        name : str or int
            The domain that these cells will have in `transform`.

        Returns
        -------
        self : object
            The autoencoder, which now knows the domain.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            If the autoencoder is not fitted, the domain is already known, the settings align nothing, or as in
            `transform`.

        Examples
        --------
        >>> import numpy as np
        >>> from sam_bloodcell import CrossDomainAutoencoder
        >>> X = np.random.default_rng(0).normal(size=(90, 192))
        >>> autoencoder = CrossDomainAutoencoder(random_state=0).fit(X[:60], domain=["acevedo", "matek"] * 30)
        >>> autoencoder.add_domain(X[60:], "ours").transform(X[60:61], domain=["ours"]).shape
        (1, 50)
        """
        check_is_fitted(self)
        name = name_to_add(X, name, self._known_domains, self.settings_.normalization)
        inputs = self._prepare_inference(X, [name] * len(X))
        if self.shifts_ is not None:
            self.shifts_.shifts[name] = self.shifts_.shift_of(self._run_network(inputs))
        self.scaler_ = inputs.scaler
        self.domains_ = np.unique([*self.domains_.tolist(), name])
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.network_.n_features

    @property
    def _known_domains(self) -> list[Any]:
        """Return the domains with complete statistics; the clusters of a later `partial_fit` may lack a domain."""
        return [name for name in self.domains_.tolist() if self.shifts_ is None or name in self.shifts_.shifts]

    def _prepare_training(self, X: Any, domain: ArrayLike | None, *, part: bool = False) -> NetworkInputs:
        """Check the parameters, X and domain for training, and add the cells to the statistics.

        If X is a `part` of the data, its cells are added to the statistics of the earlier parts.
        """
        self._validate_params()
        continues = part and hasattr(self, "network_")
        settings = self.settings_ if continues else resolve_settings(self.get_params())
        inputs = self._check_inputs(X, domain, settings, reset=not continues, needs_crops=True)
        # A copy, so that a part that is refused half-way does not change the statistics.
        scaler = copy.deepcopy(self.scaler_) if continues else DomainScaler()
        for rows in inputs.chunks():
            scaler.update(inputs.read(rows), inputs.domain_of(rows))
        self.settings_, self.scaler_ = settings, scaler
        self.domains_ = np.unique([name for name in self.scaler_.statistics if name is not None])
        if len(self.domains_) < 2 and (settings.alignment or settings.by_domain):
            warn_of_nothing_to_align(self.domains_.tolist())
        inputs.scale_by(self.scaler_, settings)
        return inputs

    def _prepare_inference(self, X: Any, domain: ArrayLike | None) -> NetworkInputs:
        """Check X and domain for the fitted network."""
        check_is_fitted(self)
        inputs = self._check_inputs(X, domain, self.settings_, reset=False, needs_crops=False)
        inputs.scale_by(self.scaler_, self.settings_)
        if self.settings_.by_domain and len(self.domains_):
            warn_of_poor_statistics(inputs.domain, len(inputs), self._known_domains, inputs.scaler)
        return inputs

    def _check_inputs(
        self, X: Any, domain: ArrayLike | None, settings: Settings, *, reset: bool, needs_crops: bool
    ) -> NetworkInputs:
        """Check X and domain; with `reset` a fit starts, otherwise X must match the X of the fit."""
        least = 2 if reset else 1
        carried = carried_embeddings(X)
        if settings.reads_vectors:
            pooled = validate_data(
                self, X, reset=reset, dtype=(np.float64, np.float32), ensure_min_samples=least, ensure_all_finite=False
            )
            unscaled, crops = pooled, None
        else:
            unscaled, crops = token_maps(carried, settings.architecture, needs_crops=needs_crops)
            pooled = np.asarray(X)
            if reset:
                self.n_features_in_ = pooled.shape[1]
            check_size(pooled, self.n_features_in_, least)
        refuse_not_finite(pooled, np.arange(len(pooled)))
        return NetworkInputs(unscaled, pooled, crops, settings.crop_size, read_domain(carried, domain, len(pooled)))

    def _train(
        self, inputs: NetworkInputs, settings: Settings, seed: int, held_out: NDArray[np.intp], *, part: bool = False
    ) -> "CrossDomainAutoencoder":
        """Train the network, then find the clusters' shifts among the features of these cells.

        If X is a `part` of the data, training continues from the earlier parts, at a constant learning rate.
        """
        continues = part and hasattr(self, "network_")
        self.network_, history = train_network(
            self.network_ if continues else None, inputs, settings, held_out=held_out, patience=self.patience,
            decay=not part, device=devices.choose(str(self.device)), seed=seed, verbose=self.verbose,
            checkpoint=None if part else self.checkpoint,
        )  # fmt: skip
        if continues:
            history["epoch"] += len(self.history_)
            history = pd.concat([self.history_, history], ignore_index=True)
        self.history_, self.shifts_ = history, None
        if settings.normalization == "cluster" and len(self.domains_) and inputs.domain is not None:
            known = pd.notna(inputs.domain)
            self.shifts_ = ClusterShifts.fit(self._run_network(inputs)[known], inputs.domain[known], seed)
        return self

    def _run_network(self, inputs: NetworkInputs, reconstruct: bool = False) -> NDArray[np.float32]:
        """Return the features of all rows, or their reconstructions."""
        device = devices.choose("cpu" if self.settings_.reads_vectors else str(self.device))
        return run_network(self.network_, inputs, device, reconstruct=reconstruct)
