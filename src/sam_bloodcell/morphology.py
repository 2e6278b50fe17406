"""Morphology features: size, shape, nucleus and stain of a cell, measured from its mask and crop."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .extras import require
from .segmentation.cell import GREY

FEATURES = (
    "area", "eccentricity", "solidity", "roundness", "nucleus_to_cell", "nucleus_to_cytoplasm", "nucleus_lobes",
    "nucleus_solidity", "nucleus_eccentricity", "nucleus_red", "nucleus_green", "nucleus_blue", "cytoplasm_red",
    "cytoplasm_green", "cytoplasm_blue", "cytoplasm_granularity",
)  # fmt: skip

_skimage = partial(require, "skimage", extra="masks", purpose="Measuring cells needs scikit-image")


class CellMorphology(TransformerMixin, BaseEstimator):
    """Measure 16 features of each cell that a haematologist can interpret.

    Combine it with an embedding in a ``FeatureUnion``, or compare its `set_output` table between laboratories.

    Attributes
    ----------
    n_features_in_ : int
        Number of channels of the embeddings in `fit`.

    Notes
    -----
    The features are ``area``, the mask's share of the (square) image; ``eccentricity`` and ``solidity`` (area divided
    by that of the convex hull) of cell and nucleus; ``roundness``, 4 pi area divided by the squared perimeter;
    ``nucleus_to_cell`` and ``nucleus_to_cytoplasm``, ratios of areas (the latter at most 99); ``nucleus_lobes``, the
    number of pieces of the nucleus that are at least 8% of it; optical density of nucleus and cytoplasm in red, green
    and blue; ``cytoplasm_granularity``, the standard deviation of the cytoplasm's density in green. The nucleus is the
    part of the cell that absorbs most red light (Otsu's threshold). Densities (raw image) change with stain and camera.

    References
    ----------
    Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 1979.

    Examples
    --------
    >>> from sam_bloodcell import SAMLoRAEmbedder
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> from sam_bloodcell.morphology import CellMorphology
    >>> cells = SAMLoRAEmbedder("vit_tiny").fit_transform(make_blood_cells(1, random_state=0).images)
    >>> table = CellMorphology().set_output(transform="pandas").fit_transform(cells)
    >>> table.shape, bool(table["nucleus_to_cell"].between(0, 1).all())
    ((10, 16), True)
    """

    def fit(self, X: Any, y: Any = None) -> "CellMorphology":
        """Check that X has masks and crops; nothing is learned.

        Parameters
        ----------
        X : CellEmbeddings of n cells
            Embeddings with masks and crops.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            The transformer.

        Raises
        ------
        TypeError
            If X has no masks or no crops.
        ImportError
            If scikit-image is not installed.
        """
        _check(X)
        _skimage()
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Measure cells; X is checked as in `fit`.

        Parameters
        ----------
        X : CellEmbeddings of n cells
            Embeddings with masks and crops.

        Returns
        -------
        ndarray of shape (n, 16)
            Features, in the order of `get_feature_names_out`.
        """
        check_is_fitted(self)
        _check(X)
        return np.array([measure_cell(X.masks[row], X.crops[row]) for row in range(len(X))]).reshape(len(X), -1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray:
        """Return the names of the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        ndarray of shape (16,)
            The names.
        """
        return np.array(FEATURES, dtype=object)


def measure_cell(mask: NDArray[np.bool_], crop: NDArray[np.uint8]) -> list[float]:
    """Measure the 16 features of `CellMorphology` on one cell.

    Parameters
    ----------
    mask : bool array of shape (H, W)
        Mask of the cell, True inside.
    crop : uint8 array of shape (S, S, 3)
        Picture of the cell on grey (128).

    Returns
    -------
    list of float
        Features, in the order of `CellMorphology.get_feature_names_out`.

    Raises
    ------
    ValueError
        If the shapes differ from these, or there is no cell in the mask or the crop.
    """
    mask, crop = np.asarray(mask), np.asarray(crop)
    if mask.ndim != 2 or crop.ndim != 3 or crop.shape[-1] != 3 or not mask.any() or (crop == GREY).all():
        found = f"a mask of shape {mask.shape} and a crop of shape {crop.shape}"
        fix = "Fix: take one row of CellEmbeddings.masks and .crops."
        raise ValueError(f"Got {found} but expected (H, W) and (S, S, 3) with a cell in each. {fix}")
    measure, filters = _skimage().measure, _skimage().filters
    cell = measure.regionprops(mask.astype(np.uint8))[0]
    roundness = min(1.0, 4 * np.pi * cell.area / max(cell.perimeter, 1.0) ** 2)
    shape = [mask.mean(), cell.eccentricity, cell.solidity, roundness]
    inside = (crop != GREY).any(-1)
    density = -np.log((crop.astype(np.float64) + 1) / 256)
    red = density[..., 0]
    nucleus = inside & (red > filters.threshold_otsu(red[inside])) if np.ptp(red[inside]) > 0 else inside
    cytoplasm = inside & ~nucleus
    area = nucleus.sum()
    ratios = [area / inside.sum(), min(99.0, area / max(cytoplasm.sum(), 1))]
    whole = measure.regionprops(nucleus.astype(np.uint8))[0]
    pieces = np.bincount(measure.label(nucleus)[nucleus])  # their areas
    lobes = [(pieces >= 0.08 * area).sum(), whole.solidity, whole.eccentricity]
    measured = density[cytoplasm if cytoplasm.any() else inside]  # for a cell without cytoplasm, the whole cell
    stain = [*density[nucleus].mean(0), *measured.mean(0), measured[:, 1].std()]
    return [float(value) for value in (*shape, *ratios, *lobes, *stain)]


def _check(X: Any) -> None:
    if not (hasattr(X, "masks") and hasattr(X, "crops")):
        fix = "Fix: put CellMorphology directly after SAMLoRAEmbedder."
        raise TypeError(f"Got {type(X).__name__} but expected CellEmbeddings, with masks and crops. {fix}")
