"""The base class of embedders that use a `SAMLoRAEmbedder`, the segmenter, to find the cells."""

import copy
import os
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ..images.collections import as_image_list
from ..models import devices
from ..models.isolation import own_settings
from .base import CellEmbedder
from .embedder import BLANK, SAMLoRAEmbedder
from .encoder import Encoder
from .recipe import Features
from .session import PUBLISHED_CROPS

_Embedder = TypeVar("_Embedder", bound="SegmentedEmbedder")


class SegmentedEmbedder(CellEmbedder):
    """The base class of embedders with a segmenter; a subclass defines the features that embed the cells."""

    segmenter: str | os.PathLike | SAMLoRAEmbedder
    segmenter_: SAMLoRAEmbedder

    _parameter_constraints = {
        **CellEmbedder._parameter_constraints,
        "segmenter": [str, os.PathLike, SAMLoRAEmbedder],
    }

    def fit(self: _Embedder, X: Any, y: Any = None, *, masks: Any = None) -> _Embedder:
        """Load the weights.

        Parameters
        ----------
        X : n images
            Images to check, as in `SAMLoRAEmbedder.fit`.
        y : object, default=None
            Ignored.
        masks : None, default=None
            Not supported: anything but None raises a ValueError, because only a `SAMLoRAEmbedder` can be fine-tuned.

        Returns
        -------
        self
            The fitted embedder.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is empty, or masks are passed.
        WeightsUnavailableError
            If weights can neither be found nor fetched.
        """
        if masks is not None:
            raise ValueError(
                f"Got masks but {type(self).__name__} is not fine-tuned: only Segment Anything learns by segmenting "
                "cells. Fix: leave masks out. For better masks, fine-tune SAMLoRAEmbedder().fit(X, masks=...) and pass "
                "it as segmenter."
            )
        self._validate_params()
        self._checked_keep()
        as_image_list(X)
        with own_settings(devices.choose(str(self.device))):
            self.segmenter_ = self._fitted_segmenter()
            self._load_features()
            self.n_features_out_ = self.encoder_.shapes()[0]
        return self

    @property
    def encoder_(self) -> Encoder:
        """Return the forward passes that `transform` runs: first the segmenter's, then that of the features."""
        check_is_fitted(self, "segmenter_")
        # The segmenter belongs to this embedder only, and must run on the same device.
        segmenter = self.segmenter_.set_params(device=str(self.device)).encoder_
        recipe = replace(
            segmenter.recipe,
            published_crops=PUBLISHED_CROPS in self.keep,
            features=self._features(),
        )
        folder, keep = self._cache_folder(), self._checked_keep()
        return Encoder(recipe, segmenter.adapter, self.batch_size, self.n_jobs, folder, keep)

    @abstractmethod
    def _load_features(self) -> None:
        """Set the fitted attributes that `_features` reads."""

    @abstractmethod
    def _features(self) -> Features:
        """Return the features that embed the cells."""

    def _fitted_segmenter(self) -> SAMLoRAEmbedder:
        segmenter = self.segmenter
        if isinstance(segmenter, SAMLoRAEmbedder):
            # This embedder uses a copy, so that it does not change if the user fits the segmenter again.
            own = copy.copy(segmenter) if _is_fitted(segmenter) else clone(segmenter)
            return own.set_params(device=str(self.device))._update()
        if (Path(segmenter) / "adapter_config.json").is_file():
            return SAMLoRAEmbedder.from_pretrained(segmenter, device=self.device, dtype=self.dtype)
        return SAMLoRAEmbedder(segmenter, device=self.device, dtype=self.dtype).fit(BLANK)

    def __sklearn_clone__(self: _Embedder) -> _Embedder:
        # A clone of a fitted segmenter would lose the weights that were trained on masks.
        fresh = super().__sklearn_clone__()
        if _is_fitted(self.segmenter):
            fresh.segmenter = copy.copy(self.segmenter)  # so that `set_params` on the clone changes only the clone
        return fresh


def _is_fitted(segmenter: Any) -> bool:
    return hasattr(segmenter, "adapter_")
