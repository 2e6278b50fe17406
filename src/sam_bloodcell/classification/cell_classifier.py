"""`CellClassifier`: embedder, autoencoder and classifier as one scikit-learn estimator from images to classes."""

import os
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ..alignment.autoencoder import CrossDomainAutoencoder
from ..alignment.settings import parts_to_keep
from ..embedding.base import CellEmbedder
from ..embedding.embedder import SAMLoRAEmbedder
from ..embedding.embeddings import CellEmbeddings, without_domain
from ..evaluation.checks import seed_of, values_of_cells
from ..evaluation.shift import near_duplicates
from ..exceptions import warn_caller
from .adaptation import AdaptableClassifier, with_plain_output
from .final_step import check_probabilities, with_probabilities
from .mixture import ignored_spread
from .neighbor_smoothing import with_domain_if_needed
from .sources import given_columns, paths_of
from .stain_augmented import StainAugmentedClassifier, divides_cells, view_size, with_stain_views

_FEW = 5  # a benchmark with five folds leaves out classes with fewer cells, so it cannot measure them


class CellClassifier(ClassifierMixin, AdaptableClassifier):
    """Classify images of single blood cells: embed them, align the laboratories, and classify the features.

    This is the pipeline `SAMLoRAEmbedder` -> `CrossDomainAutoencoder` -> classifier with tested default settings. For
    each cell, `predict_table` returns the class, its probability, how much the cell differs from the training cells,
    how reliable its mask is, and whether the image looks like a duplicate of a training image.

    Parameters
    ----------
    backbone : str, default="vit_tiny"
        Weights of the encoder, as in `SAMLoRAEmbedder`. The default is packaged and needs no network connection.
    classifier : classifier, default=None
        Any scikit-learn classifier of the features. None stands for logistic regression on standardised features, with
        C=0.1 and classes of equal weight: of the settings tried, its probabilities were among the best calibrated
        across laboratories (:doc:`/results/classifier`). A classifier without ``predict_proba``, such as ``SVC``, gets
        calibrated probabilities from `CalibratedClassifierCV`. A `NeighborSmoothedClassifier` smooths each laboratory
        of a call separately.
    adapter : str or path, optional
        Adapter of the encoder, as in `SAMLoRAEmbedder`.
    embedder : SAMLoRAEmbedder, ViTEmbedder or FunctionEmbedder, optional
        Embedder of the cells, used instead of `backbone` and `adapter`. `fit` fits a copy of it, with the `cache_dir`,
        `device`, `batch_size`, `n_jobs` and `verbose` of this classifier.
    autoencoder : "auto", CrossDomainAutoencoder or None, default="auto"
        Alignment of the laboratories. "auto" stands for ``CrossDomainAutoencoder(random_state=random_state)``. With
        None, the embeddings are classified without alignment.
    coverage : float, default=0.95
        Share of cells like the training cells that are not called unknown, between 0 and 1, as in
        `AbstainingClassifier`. Cells of a new laboratory differ from the training cells, so more of them are called
        unknown.
    n_stain_views : int, default=0
        Number of views of each training cell in other stains, on which the classifier is also trained
        (`StainAugmentedClassifier` explains them). Training embeds ``1 + n_stain_views`` times as many images. Use
        views if you have no images of the new laboratory and predict cells without a domain. With `vit_tiny`, whose
        training included such views, they changed the balanced accuracy by at most 0.01, up or down (default
        classifier, no autoencoder; :doc:`/results/six_laboratories`). The classifier must not split its training cells
        into folds, as a search does. `adapt` with labels fits the classifier again without views, so their gain is
        lost.
    cache_dir : str or path, optional
        Folder that caches embeddings, as in `SAMLoRAEmbedder`. A saved model does not contain `cache_dir`, `device`,
        `batch_size` and `n_jobs`, because they depend on the machine.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    batch_size : int or "auto", default="auto"
        Number of images per forward pass. "auto" chooses it by memory.
    n_jobs : int or None, default=None
        Number of processes that embed, as in `SAMLoRAEmbedder`.
    random_state : int, RandomState instance or None, default=None
        Seed of the autoencoder, of the views and of the threshold of `coverage`.
    verbose : int, default=1
        If above 0, show progress bars.

    Attributes
    ----------
    pipeline_ : Pipeline
        The fitted steps "embedder", "autoencoder" (unless `autoencoder` is None) and "classifier".
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted.
    novelty_ : AbstainingClassifier
        Measures how much the features of a cell differ from those of the training cells. ``novelty_.threshold_`` is the
        limit of "unknown".
    training_embeddings_ : float16 array of shape (n_samples, C)
        Embeddings of the training cells, among which `predict_table` searches for copies.
    training_paths_ : ndarray of shape (n_samples,), str
        Paths of the training cells, or "row 0" and so on if the images were not paths.
    training_features_, training_labels_, training_domains_ : arrays of length n_samples
        Features, labels and laboratories of the training cells, on which `adapt` fits the classifier again.
    temperatures_ : dict of str to float
        Temperature of the probabilities in each laboratory for which `adapt` had labels. `pipeline_` does not use them.

    See Also
    --------
    sam_bloodcell.evaluation.run_benchmark : Measures how good such a classifier is in another laboratory.
    StainAugmentedClassifier : Trains any pipeline of images on stain views.

    Examples
    --------
    >>> import pandas as pd
    >>> from sam_bloodcell import CellClassifier
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(6, classes=["eosinophil", "lymphocyte"], random_state=0)
    >>> frame = pd.DataFrame({"path": list(cells.images), "domain": cells.domain})
    >>> classifier = CellClassifier(random_state=0, verbose=0).fit(frame, cells.labels)
    >>> classifier.predict_table(frame)[["domain", "predicted"]].head(2)
      domain   predicted
    0  lab_a  lymphocyte
    1  lab_a  lymphocyte
    """

    _parameter_constraints = {
        "backbone": [str, os.PathLike],
        "classifier": [HasMethods(["fit"]), None],
        "adapter": [str, os.PathLike, None],
        "embedder": [CellEmbedder, None],
        "autoencoder": [StrOptions({"auto"}), HasMethods(["fit", "transform"]), None],
        "coverage": [Interval(Real, 0, 1, closed="neither")],
        "n_stain_views": [Interval(Integral, 0, None, closed="left")],
        "cache_dir": [str, os.PathLike, None],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # Also here, because models that were saved before these parameters existed lack them.
    n_stain_views: int = 0
    embedder: CellEmbedder | None = None

    def __init__(
        self,
        backbone: str | os.PathLike = "vit_tiny",
        classifier: Any = None,
        *,
        adapter: str | os.PathLike | None = None,
        embedder: CellEmbedder | None = None,
        autoencoder: Any = "auto",
        coverage: float = 0.95,
        n_stain_views: int = 0,
        cache_dir: str | os.PathLike | None = None,
        device: str = "auto",
        batch_size: int | str = "auto",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 1,
    ) -> None:
        self.backbone = backbone
        self.classifier = classifier
        self.adapter = adapter
        self.embedder = embedder
        self.autoencoder = autoencoder
        self.coverage = coverage
        self.n_stain_views = n_stain_views
        self.cache_dir = cache_dir
        self.device = device
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def make_pipeline(self) -> Pipeline | StainAugmentedClassifier:
        """Return the unfitted pipeline that `fit` fits; stain views wrap it in a `StainAugmentedClassifier`.

        The functions of `sam_bloodcell.evaluation` use it for a `CellClassifier`. They cannot combine views with an
        autoencoder, because an autoencoder gets the domains as a step of a pipeline, and views are drawn before its
        first step.

        Returns
        -------
        Pipeline or StainAugmentedClassifier
            The unfitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, or if there are stain views and also an autoencoder.
        """
        pipeline = self._make_steps()
        if not self.n_stain_views:
            return pipeline
        if self.autoencoder is not None:
            raise ValueError(
                f"Got n_stain_views={self.n_stain_views} and an autoencoder, which an evaluation cannot combine. "
                "Fix: autoencoder=None, or n_stain_views=0."
            )
        return StainAugmentedClassifier(pipeline, self.n_stain_views, random_state=self.random_state)

    def _make_steps(self) -> Pipeline:
        """Return the unfitted steps."""
        self._validate_params()
        autoencoder = self.autoencoder
        if isinstance(autoencoder, str):
            autoencoder = CrossDomainAutoencoder(
                device=self.device, random_state=self.random_state, verbose=self.verbose
            )
        keep = parts_to_keep(getattr(autoencoder, "architecture", "auto"), getattr(autoencoder, "preset", None))
        embedder = self._make_embedder(keep)
        classifier = with_probabilities(self.classifier)
        if self.n_stain_views and divides_cells(classifier):
            raise ValueError(
                f"Got n_stain_views={self.n_stain_views} and classifier={self.classifier!r}, whose folds split cells "
                "from their views. Fix: n_stain_views=0, or a classifier without folds, such as LogisticRegression(); "
                "put a search around CellClassifier."
            )
        steps = [("embedder", embedder), ("autoencoder", autoencoder), ("classifier", classifier)]
        return Pipeline([(name, clone(step)) for name, step in steps if step is not None])

    def _make_embedder(self, keep: tuple[str, ...]) -> CellEmbedder:
        """Return the unfitted embedder, which also keeps the parts that the autoencoder reads."""
        if self.embedder is None:
            return SAMLoRAEmbedder(self.backbone, self.adapter, keep=keep, **self._of_the_machine())
        if self.adapter is not None or self.backbone != "vit_tiny":
            given = f"backbone={self.backbone!r}" if self.adapter is None else f"adapter={self.adapter!r}"
            fix = "Fix: set this parameter on the embedder."
            raise ValueError(f"Got an embedder and {given} but expected only one of them. {fix}")
        kept = tuple(dict.fromkeys([*self.embedder.keep, *keep]))
        return clone(self.embedder).set_params(keep=kept, **self._of_the_machine())

    def _checked_labels(self, y: Any, n: int, classifier: Any) -> NDArray[Any]:
        """Return the labels of n cells, and give a calibration as many folds as the rarest class allows."""
        labels = values_of_cells(y, "y")
        if len(labels) != n:
            raise ValueError(f"Got {n} cells and {len(labels)} labels. Fix: pass one label per cell.")
        check_classification_targets(labels)
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) < 2:
            raise ValueError(
                f"Got one class, {classes.tolist()[0]!r}, but expected two or more. Fix: add cells of another class."
            )
        if (few := counts < _FEW).any():
            pairs = zip(classes[few].tolist(), counts[few].tolist(), strict=True)
            named = ", ".join(f"{name!r} ({count})" for name, count in pairs)
            warn_caller(
                f"Classes of fewer than {_FEW} cells: {named}. Answers of such a class are rarely right. "
                "Fix: add cells, or leave the class out."
            )
        if isinstance(classifier, CalibratedClassifierCV) and not isinstance(self.classifier, CalibratedClassifierCV):
            if counts.min() < 2:
                found = (
                    f"one cell of class {classes.tolist()[counts.argmin()]!r} and a classifier without predict_proba"
                )
                fix = "Fix: add cells of this class, leave it out, or pass a classifier with probabilities."
                raise ValueError(f"Got {found}, but calibration needs two cells of each class. {fix}")
            classifier.set_params(cv=int(min(5, counts.min())))
        return labels

    @with_plain_output
    def fit(self, X: Any, y: Any) -> "CellClassifier":
        """Embed the cells, align their laboratories and fit the classifier.

        Parameters
        ----------
        X : n images, as in `SAMLoRAEmbedder.fit`
            The training cells. A DataFrame with the columns path and domain lets the autoencoder align laboratories.
        y : array-like of shape (n,)
            Class of each cell, strings or ints, with at least two classes.

        Returns
        -------
        self : object
            The fitted classifier.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range, X and y differ in length, a label is missing, there is only one class, the
            classifier gives no probabilities, or it separates stain views from their cells.
        ImageReadError, WeightsUnavailableError
            As in `SAMLoRAEmbedder.fit`.

        Warns
        -----
        UserWarning
            If a class has fewer than 5 cells.
        """
        pipeline = self._make_steps()
        X = list(X) if isinstance(X, Iterator) else X
        paths = paths_of(X)
        labels = self._checked_labels(y, len(paths), pipeline[-1])
        embeddings = pipeline[0].fit_transform(X)
        features = embeddings
        for step in pipeline[1:-1]:
            features = step.fit(features).transform(features)
        features = with_domain_if_needed(features, embeddings, pipeline[-1])
        pipeline[-1].fit(*self._with_views(X, pipeline, features, labels))
        check_probabilities(pipeline[-1], self.classifier)
        self.pipeline_, self.classes_ = pipeline, pipeline[-1].classes_
        self._keep_training(embeddings, features, labels, paths)
        return self

    def _with_views(self, X: Any, pipeline: Pipeline, features: Any, labels: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        """Return the features and labels of the cells and, after them, of their stain views."""
        if not self.n_stain_views:
            return features, labels
        seed = seed_of(self.random_state)
        table, rows = with_stain_views(X, n_views=self.n_stain_views, size=view_size(pipeline[0]), seed=seed)
        views = table.iloc[len(labels) :] if isinstance(table, pd.DataFrame) else table[len(labels) :]
        # A view stands for a cell of an unknown laboratory.
        seen = without_domain(pipeline[0].transform(views))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The domain of .* is unknown")
            for step in pipeline[1:-1]:
                seen = step.transform(seen)
        return np.concatenate([np.asarray(features), np.asarray(seen)]), labels[rows]

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of each image.

        The features of an unseen laboratory are scaled by its cells in this call (`CrossDomainAutoencoder.transform`),
        so pass many cells of it, or let `adapt` learn the laboratory first.

        Parameters
        ----------
        X : n images, as in `fit`
            Cells to classify.

        Returns
        -------
        ndarray of shape (n,)
            The class of each image.

        Raises
        ------
        NotFittedError, ValueError, ImageReadError
            If the classifier is not fitted, or as in `SAMLoRAEmbedder.transform`.

        Warns
        -----
        UserWarning
            If a new laboratory has fewer than 20 cells in X, or if fewer than 60% of its cells get the same answer with
            and without its name. Its cells are then probably of one class. If so, the answers without its name are
            better.
        """
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    @with_plain_output
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class; it raises the errors of `predict`.

        Parameters
        ----------
        X : n images, as in `fit`
            Cells to classify.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Probabilities, in the order of `classes_`.
        """
        embeddings = self._embed(X)
        return self._probabilities(embeddings, self._features(embeddings))

    @with_plain_output
    def predict_table(self, X: Any) -> pd.DataFrame:
        """Return a table of answers with columns that help to judge them.

        Parameters
        ----------
        X : n images, as in `fit`
            Cells to classify.

        Returns
        -------
        pandas.DataFrame
            A row per cell, in the order of X and with its index if it has one. The first columns are those of X if X is
            a table, or ``path`` if X is a list of paths. Columns of earlier answers are replaced. The next columns are:

            - ``predicted``, the most probable class, and ``confidence``, its probability;
            - ``probability_<class>`` for each class;
            - ``novelty``, the distance to the fifth nearest training cell, and ``unknown``, whether it is above the
              limit that `coverage` sets;
            - ``quality_<name>``, the mask's quality (`CellEmbeddings.quality`);
            - ``copy_of``, the path of the training image that looks like a duplicate of the image
              (`evaluation.near_duplicates`), or "" if there is none.
        """
        X = list(X) if isinstance(X, Iterator) else X
        embeddings = self._embed(X)
        features = self._features(embeddings)
        probabilities = self._probabilities(embeddings, features)
        novelty = self.novelty_.novelty(features)
        answers = {
            "predicted": self.classes_[probabilities.argmax(1)],
            "confidence": probabilities.max(1),
            **{f"probability_{name}": column for name, column in zip(self.classes_, probabilities.T, strict=True)},
            "novelty": novelty,
            "unknown": novelty > self.novelty_.threshold_,
            **{f"quality_{name}": embeddings.quality[name] for name in embeddings.quality.dtype.names},
            "copy_of": self._copies(embeddings),
        }
        given = {
            name: values
            for name, values in given_columns(X).items()
            if name not in answers and not str(name).startswith("probability_")
        }
        table = pd.DataFrame({**given, **answers})
        return table.set_index(X.index) if isinstance(X, pd.DataFrame | pd.Series) else table

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _embed(self, X: Any) -> CellEmbeddings:
        check_is_fitted(self)
        self._validate_params()
        return self.pipeline_[0].set_params(**self._of_the_machine()).transform(X)

    def _features(self, embeddings: CellEmbeddings) -> Any:
        features: Any = embeddings
        for step in self.pipeline_[1:-1]:
            if self.device != "auto" and "device" in step.get_params(deep=False):
                step.set_params(device=self.device)
            with ignored_spread():
                features = step.transform(features)
        return with_domain_if_needed(features, embeddings, self.pipeline_[-1])

    def _copies(self, embeddings: CellEmbeddings) -> NDArray[np.object_]:
        """Return the path of the training cell of which each cell looks like a copy, or ""."""
        pairs = near_duplicates(embeddings, self.training_embeddings_).drop_duplicates("a")  # the closest comes first
        copies = np.full(len(embeddings), "", dtype=object)
        copies[pairs["a"]] = self.training_paths_[pairs["b"]]
        return copies
