"""`StainAugmentedClassifier`: a pipeline that is also trained on views of each cell in other stains."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..embedding.columns import as_items
from ..evaluation.checks import seed_of, values_of_cells
from ..exceptions import warn_caller
from ..images.collections import as_image_list, domain_of, table_columns
from ..images.stain_views import draw_views

# Side of the views if the pipeline's first step does not have an image size.
_SIZE = 224


def _pipeline_has(method: str) -> Any:
    def check(classifier: "StainAugmentedClassifier") -> bool:
        getattr(getattr(classifier, "pipeline_", classifier.pipeline), method)  # its AttributeError says why
        return True

    return check


class StainAugmentedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Train a pipeline on views of each cell in other stains, so that it generalises to unseen laboratories.

    `fit` draws views of each training cell: it changes the optical densities of the colours, in most views towards the
    stain of another training cell (the donor), and rotates, mirrors and slightly zooms the picture. The pipeline is
    fitted to the cells and their views, which have the label and the laboratory of their cell. `predict` uses only the
    cells themselves. You need no image of the new laboratory. If you have some, aligning the laboratories
    (`CrossDomainAutoencoder`) improves the scores more. In a pipeline with such a step, views count as cells of their
    laboratory, also in its statistics, and do not improve the scores.

    Views are embedded lazily, one batch at a time, and cached under the digest of the cell, its donor and the seed.
    With the same `random_state`, another fit to the same cells reuses all embeddings, and in a cross-validation most
    views are the same in all folds. Views are made only of training cells, so a tested cell is never a donor.

    Parameters
    ----------
    pipeline : Pipeline
        Pipeline that begins with a `SAMLoRAEmbedder` or another transformer of images, and ends with a classifier. A
        step that splits its training cells into folds, such as a search or a calibration, would put a cell and its
        views into different folds. Put such a step around this estimator, or pass groups to it.
    n_views : int, default=4
        Number of views of each training cell, at least 1. Embedding takes ``1 + n_views`` times as long.
    random_state : int, RandomState instance or None, default=None
        Seed of the views. Pass an int if you want the views to be cached for later fits.

    Attributes
    ----------
    pipeline_ : Pipeline
        The pipeline, fitted to the cells and their views.
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted.

    See Also
    --------
    CrossDomainAutoencoder : Aligns laboratories with unlabelled cells of the new laboratory.

    References
    ----------
    Tellez et al., "Quantifying the effects of data augmentation and stain color normalization in convolutional neural
    networks for computational pathology", Medical Image Analysis 2019.

    Examples
    --------
    >>> from sam_bloodcell import SAMLoRAEmbedder, StainAugmentedClassifier
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> cells = make_blood_cells(4, classes=["eosinophil", "lymphocyte"], domains=["lab_a"], random_state=0)
    >>> pipeline = make_pipeline(SAMLoRAEmbedder("vit_tiny"), LogisticRegression(C=0.01, max_iter=2000))
    >>> classifier = StainAugmentedClassifier(pipeline, n_views=2, random_state=0).fit(cells.images, cells.labels)
    >>> classifier.predict(cells.images[:2])
    array(['eosinophil', 'lymphocyte'], dtype='<U10')
    """

    _parameter_constraints = {
        "pipeline": [HasMethods(["fit", "predict"])],
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self, pipeline: Any, n_views: int = 4, *, random_state: int | np.random.RandomState | None = None
    ) -> None:
        self.pipeline = pipeline
        self.n_views = n_views
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> "StainAugmentedClassifier":
        """Fit the pipeline to the cells and to their views.

        Parameters
        ----------
        X : n images, as in `SAMLoRAEmbedder.fit`
            Training cells. With a column domain, each laboratory is equally likely to be the donor of a view's stain.
        y : array-like of shape (n,)
            Class of each cell.
        sample_weight : array-like of shape (n,), optional
            Weights of the cells, for the last step. A view weighs as much as its cell.
        **params : dict
            Further arguments of the pipeline's `fit`, such as ``crossdomainautoencoder__domain``. Arguments with a
            value for each cell are repeated for its views.

        Returns
        -------
        self : object
            The fitted classifier.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range, X and y differ in length, a label is missing, or masks are passed.
        ImageReadError, WeightsUnavailableError
            As in `SAMLoRAEmbedder.fit`.

        Warns
        -----
        UserWarning
            If a step splits its training cells into folds, and no groups are passed.
        """
        self._validate_params()
        pipeline = self._checked_pipeline(has_groups=any(name.rpartition("__")[2] == "groups" for name in params))
        X = list(X) if isinstance(X, Iterator) else X
        labels = values_of_cells(y, "y")
        params = self._checked_params(len(as_image_list(X)), labels, sample_weight, params)
        seed = seed_of(self.random_state)
        table, rows = with_stain_views(X, n_views=self.n_views, size=view_size(pipeline[0]), seed=seed)
        n = rows.max() + 1
        repeated = {name: _repeat(values, rows, n) for name, values in params.items()}
        self.pipeline_ = pipeline.fit(table, labels[rows], **repeated)
        self.classes_ = self.pipeline_.classes_
        return self

    def predict(self, X: Any, **params: Any) -> NDArray[Any]:
        """Return the class of each image; it raises the errors of the pipeline.

        Parameters
        ----------
        X : n images, as in `fit`
            Cells to classify.
        **params : dict
            Further arguments of the pipeline's ``predict``.

        Returns
        -------
        ndarray of shape (n,)
            The class of each image.
        """
        check_is_fitted(self)
        return self.pipeline_.predict(X, **params)

    @available_if(_pipeline_has("predict_proba"))
    def predict_proba(self, X: Any, **params: Any) -> NDArray[np.float64]:
        """Return the probability of each class; it raises the errors of the pipeline.

        Parameters
        ----------
        X : n images, as in `fit`
            Cells to classify.
        **params : dict
            Further arguments of the pipeline's ``predict_proba``.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Probabilities, in the order of `classes_`.
        """
        check_is_fitted(self)
        return self.pipeline_.predict_proba(X, **params)

    @available_if(_pipeline_has("decision_function"))
    def decision_function(self, X: Any, **params: Any) -> NDArray[np.float64]:
        """Return the scores of the classes; it raises the errors of the pipeline.

        Parameters
        ----------
        X : n images, as in `fit`
            Cells to classify.
        **params : dict
            Further arguments of the pipeline's ``decision_function``.

        Returns
        -------
        ndarray of shape (n, n_classes), or (n,) for two classes
            Scores, in the order of `classes_`.
        """
        check_is_fitted(self)
        return self.pipeline_.decision_function(X, **params)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the metadata that the pipeline's steps request.

        Returns
        -------
        MetadataRouter
            The routing.
        """
        mapping = MethodMapping()
        for method in ("fit", "predict", "predict_proba", "decision_function"):
            mapping.add(caller=method, callee=method)
        return MetadataRouter(owner=self).add(pipeline=self.pipeline, method_mapping=mapping)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _checked_pipeline(self, *, has_groups: bool) -> Any:
        """Return an unfitted copy of the pipeline; warn if a step splits its training cells into folds."""
        if not isinstance(self.pipeline, Pipeline) or len(self.pipeline) < 2:
            raise ValueError(
                f"Got pipeline={self.pipeline!r} but expected a Pipeline that begins with a transformer of images. "
                "Fix: make_pipeline(SAMLoRAEmbedder('vit_tiny'), LogisticRegression())."
            )
        pipeline = clone(self.pipeline)
        parts = [name.split("__") for name in pipeline.get_params()]
        dividing = [step for step, *_, parameter in (part for part in parts if len(part) > 1) if parameter == "cv"]
        if dividing and not has_groups:
            warn_caller(
                f"The step {dividing[0]!r} splits its training cells into folds and separates views of one cell, so "
                "its scores and probabilities are too high. Fix: put the search or the calibration around "
                "StainAugmentedClassifier."
            )
        return pipeline

    def _checked_params(
        self, n: int, labels: NDArray[Any], sample_weight: Any, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the parameters of the pipeline's fit; raise unless they suit n cells."""
        if len(labels) != n:
            raise ValueError(f"Got {n} cells and {len(labels)} labels. Fix: pass one label per cell.")
        if masked := [name for name in params if name.rpartition("__")[2] == "masks"]:
            raise ValueError(
                f"Got {masked[0]} but expected none, because the masks of cells do not fit their rotated views. "
                "Fix: fine-tune a SAMLoRAEmbedder first, save it, and pass its folder as adapter."
            )
        if sample_weight is None:
            return params
        name = "sample_weight"
        if not get_config()["enable_metadata_routing"]:
            name = f"{self.pipeline.steps[-1][0]}__sample_weight"
        weights = np.asarray(sample_weight)
        if weights.shape != (n,):
            raise ValueError(
                f"Got sample_weight of shape {weights.shape} but expected ({n},). Fix: pass one weight per cell."
            )
        return {**params, name: weights}


def view_size(embedder: Any) -> int:
    """Return the side in pixels of the views that a transformer of images gets."""
    return int(getattr(embedder, "image_size", None) or _SIZE)  # None stands for the size of the weights


def with_stain_views(X: Any, *, n_views: int, size: int, seed: int) -> tuple[Any, NDArray[np.intp]]:
    """Append `n_views` views of each cell to the images of cells, with all columns of a table.

    Returns
    -------
    X : DataFrame, or list of images
        First the cells, then their views.
    rows : int array
        The cell that each row shows, by its row in the X that was given.
    """
    images = as_image_list(X)
    drawn = draw_views(images, domain_of(X), n_views, size, seed)
    rows = np.concatenate([np.arange(len(images)), drawn.rows])
    shown = as_items([*images, *drawn.views])
    columns = table_columns(X)
    if columns is None or "path" not in columns:
        return list(shown), rows
    table = X if isinstance(X, pd.DataFrame) else pd.DataFrame(columns)
    return table.iloc[rows].assign(path=shown), rows


def _repeat(values: Any, rows: NDArray[np.intp], n: int) -> Any:
    """Repeat values of n cells for their views; return anything else unchanged."""
    is_column = not isinstance(values, str) and hasattr(values, "__len__") and len(values) == n
    return np.asarray(values)[rows] if is_column else values


def divides_cells(classifier: Any) -> bool:
    """Return whether a classifier, or a part of it, splits its training cells, as a search or early stopping does."""
    parameters = [(name.rpartition("__")[2], value) for name, value in classifier.get_params().items()]
    # SVC(probability=True) calibrates in folds of its own.
    return any(
        name == "cv" or (name in ("probability", "early_stopping") and value is True) for name, value in parameters
    )
