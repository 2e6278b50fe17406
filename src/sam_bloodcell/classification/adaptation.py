"""Adaptation of a fitted `CellClassifier` to a new laboratory, from unlabelled cells and from a few labels."""

import copy
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..embedding.embeddings import CellEmbeddings, carried_domain
from ..evaluation.few_labels import Labelled, cells_to_label, check_number_to_label, fit_with_few, tempered
from ..evaluation.novelty import AbstainingClassifier
from ..evaluation.protocol import call_with_domain
from .mixture import ignored_spread, warn_of_unusual_mixture
from .neighbor_smoothing import NeighborSmoothedClassifier
from .saving import PretrainedClassifier
from .sources import paths_of

_Method = TypeVar("_Method", bound=Callable[..., Any])
_Adaptable = TypeVar("_Adaptable", bound="AdaptableClassifier")


def with_plain_output(method: _Method) -> _Method:
    """Let the steps of a method return their own output, because a table, which a user may have set, has no masks."""
    return config_context(transform_output="default")(method)


class AdaptableClassifier(PretrainedClassifier):
    """The base of `CellClassifier` that learns a new laboratory and suggests cells to label."""

    coverage: float
    random_state: Any
    classes_: NDArray[Any]
    novelty_: AbstainingClassifier
    training_embeddings_: NDArray[np.float16]
    training_features_: NDArray[np.float32]
    training_labels_: NDArray[Any]
    training_domains_: NDArray[np.str_]
    training_paths_: NDArray[np.str_]
    temperatures_: dict[str, float]
    _embed: Callable[[Any], CellEmbeddings]
    _features: Callable[[CellEmbeddings], Any]

    @with_plain_output
    def adapt(self: _Adaptable, X: Any, domain: str | int, y: Any = None) -> _Adaptable:
        """Learn a new laboratory once from its cells, so that later cells are classified independently of each other.

        The stain is learned from all cells, without labels. If some cells have labels, the classifier is fitted again
        on the training cells and the labelled cells. The labelled cells together weigh as much as the training cells of
        a laboratory, but each weighs at least as much as 10 training cells. With 30 or more labels, the temperature of
        the laboratory's probabilities is also fitted, by cross-validation on its labelled cells (``temperatures_``). A
        few labels change it little, because a prior keeps it near 1. The temperature of a `NeighborSmoothedClassifier`
        is fitted on the probabilities without smoothing. The labelled cells become training cells, and the limit of
        "unknown" is computed again.

        Parameters
        ----------
        X : n images, as in `fit`
            At least 20 cells, of the cell types that are usual in the laboratory.
        domain : str or int
            Name of the laboratory, which its cells will have in the column domain. A laboratory that was learned before
            can be given labels later: the statistics of its unlabelled cells stay, and the new labels replace earlier
            labels.
        y : array-like of shape (n,), optional
            Class of each cell, or None, NaN or "" if it is not known. `cells_to_label` returns the cells whose labels
            would help most.

        Returns
        -------
        self : object
            The adapted classifier.

        Raises
        ------
        NotFittedError, ValueError, TypeError
            If the classifier is not fitted, if there is neither an autoencoder nor a label, if a label is not a class
            of the fit, if the laboratory was in the fit, or as in `CrossDomainAutoencoder.add_domain`.

        Warns
        -----
        UserWarning
            If the cells do not seem to be the usual mixture of types, as in `predict`.
        """
        check_is_fitted(self)
        if isinstance(domain, bool) or not isinstance(domain, str | Integral):
            fix = "Fix: adapt(X, domain='name of the laboratory', y=labels)."
            raise TypeError(f"Got domain of type {type(domain).__name__} but expected a string or an int. {fix}")
        X = list(X) if isinstance(X, Iterator) else X
        paths = np.array(paths_of(X), dtype=str)
        rows, labels = self._given_labels(y, domain, len(paths))
        autoencoder = copy.deepcopy(self.pipeline_.named_steps.get("autoencoder"))
        learns = hasattr(autoencoder, "add_domain")
        if not learns and y is None:
            fix = "Fix: autoencoder='auto', or pass y, the labels of some cells."
            raise ValueError(f"Got autoencoder={self.autoencoder!r}, which cannot learn a laboratory. {fix}")
        known = learns and domain in autoencoder.domains_.tolist()
        if known and y is None:
            fix = "Fix: pass y, the labels of some cells, or adapt the earlier classifier to all cells at once."
            raise ValueError(f"Got domain={domain!r}, whose stain the classifier knows already, and no labels. {fix}")
        embeddings = self._embed(X)
        names = np.array([domain] * len(paths))
        if learns and not known:
            with ignored_spread():
                autoencoder.add_domain(embeddings, domain)
            warn_of_unusual_mixture(self.pipeline_, embeddings, names, "predict these cells without a domain")
        if y is not None:
            features: Any = embeddings
            if autoencoder is not None:
                features = call_with_domain(autoencoder.transform, embeddings, names)
            kept = (np.asarray(embeddings)[rows], np.asarray(features)[rows], labels, paths[rows])
            self._learn_labels(str(domain), *kept)
        steps = [(name, autoencoder if name == "autoencoder" else step) for name, step in self.pipeline_.steps]
        self.pipeline_ = Pipeline(steps)
        return self

    @with_plain_output
    def cells_to_label(self, X: Any, n: int) -> NDArray[np.intp]:
        """Return which cells of a new laboratory to label for `adapt`.

        The classifier is uncertain about these cells, and they differ from each other.

        Parameters
        ----------
        X : images, as in `fit`
            Cells of one laboratory.
        n : int
            Number of cells, at least 1 and at most the number of cells in X. As few as 32 help
            (:doc:`/results/classifier`).

        Returns
        -------
        ndarray of shape (n,), int
            Row numbers of X, the most uncertain cell first.

        Raises
        ------
        NotFittedError, ValueError
            If the classifier is not fitted, if n is out of range, or as in `predict`.
        """
        check_is_fitted(self)
        X = list(X) if isinstance(X, Iterator) else X
        check_number_to_label(n, len(paths_of(X)))
        embeddings = self._embed(X)
        features = np.asarray(self._features(embeddings))
        warn_of_unusual_mixture(self.pipeline_, embeddings, carried_domain(embeddings))
        return cells_to_label(features, self.pipeline_[-1].predict_proba(features), n, random_state=self.random_state)

    def _probabilities(self, embeddings: CellEmbeddings, features: Any) -> NDArray[np.float64]:
        """Return the probabilities of the cells, at the temperature of their laboratory."""
        domain = carried_domain(embeddings)
        warn_of_unusual_mixture(self.pipeline_, embeddings, domain)
        found = self.pipeline_[-1].predict_proba(features)
        for name, temperature in getattr(self, "temperatures_", {}).items():
            if domain is not None:
                rows = np.array([str(one) == name for one in domain])
                found[rows] = tempered(found[rows], temperature)
        return found

    def _keep_training(self, embeddings: CellEmbeddings, features: Any, labels: NDArray[Any], paths: list[str]) -> None:
        """Store the parts of the training cells that a later `adapt` needs, and set the limit of "unknown"."""
        domain = carried_domain(embeddings)
        names = [None] * len(paths) if domain is None else domain.tolist()
        self.training_embeddings_ = np.asarray(embeddings, np.float16)
        self.training_features_ = np.asarray(features, np.float32)
        self.training_labels_ = labels
        self.training_domains_ = np.array(["" if pd.isna(name) else str(name) for name in names], dtype=np.str_)
        self.training_paths_ = np.array(paths, dtype=str)
        self.temperatures_ = {}
        self._set_limit()

    def _set_limit(self) -> None:
        """Set the novelty above which a cell is called unknown."""
        limit = AbstainingClassifier(
            # Its answers are not used. None is never a class.
            FrozenEstimator(self.pipeline_[-1]),
            coverage=self.coverage,
            unknown=None,
            random_state=self.random_state,
        )
        self.novelty_ = limit.fit(self.training_features_, self.training_labels_)

    def _given_labels(self, y: Any, domain: Any, n: int) -> tuple[NDArray[np.intp], NDArray[Any]]:
        """Return the rows of the labelled cells and their labels; raise if the labels cannot be used."""
        if y is None:
            return np.array([], np.intp), self.classes_[:0]
        if isinstance(y, str) or not hasattr(y, "__iter__"):
            raise TypeError(f"Got y={y!r} but expected one label per cell. Fix: pass a list, with None if unknown.")
        labels = np.asarray(y if hasattr(y, "__array__") else list(y), dtype=object)
        if labels.shape != (n,):
            raise ValueError(
                f"Got {n} cells and labels of shape {labels.shape}. Fix: pass one label, or None, per cell."
            )
        if not hasattr(self, "training_features_"):
            found = "a model of an earlier version, which does not keep enough of its training cells to learn labels"
            raise ValueError(f"Got {found}. Fix: train it again.")
        if str(domain) in self.training_domains_ and str(domain) not in self.temperatures_:
            fix = "Fix: fit again with these cells, or choose another name."
            raise ValueError(f"Got labels of domain={domain!r}, which was in the fit. {fix}")
        rows = np.flatnonzero([not (pd.isna(label) or label == "") for label in labels])
        if not len(rows):
            raise ValueError("Got y without any label but expected some. Fix: leave y out, or label some cells.")
        known = self.classes_.tolist()
        for row in rows:
            if labels[row] not in known:
                raise ValueError(
                    f"Row {row}: got y={labels[row]!r} but the fit has {', '.join(map(repr, known))}. "
                    "Fix: leave this label out, or fit again with the class."
                )
        return rows, self.classes_[[known.index(labels[row]) for row in rows]]

    def _learn_labels(self, domain: str, *cells: NDArray[Any]) -> None:
        """Fit the classifier again with labelled cells of a domain: embeddings, features, labels and paths."""
        columns = ("training_embeddings_", "training_features_", "training_labels_", "training_paths_")
        stays = self.training_domains_ != domain
        kept = {name: getattr(self, name)[stays] for name in columns}
        training = {
            name: np.concatenate([kept[name], added.astype(kept[name].dtype) if added.dtype.kind == "f" else added])
            for name, added in zip(columns, cells, strict=True)
        }
        domains = np.concatenate([self.training_domains_[stays], [domain] * len(cells[0])])
        new = [*(name for name in self.temperatures_ if name != domain), domain]

        def labelled(rows: NDArray[np.bool_]) -> Labelled:
            return Labelled(training["training_features_"][rows], training["training_labels_"][rows])

        of_the_fit = ~np.isin(domains, new)
        few = [labelled(domains == name) for name in new]
        n_laboratories = len(np.unique(domains[of_the_fit]))
        classifier = self.pipeline_[-1]
        unsmoothed = classifier.estimator if isinstance(classifier, NeighborSmoothedClassifier) else None
        fitted, temperatures = fit_with_few(
            classifier, labelled(of_the_fit), n_laboratories, few, unsmoothed=unsmoothed
        )
        for name, column in training.items():
            setattr(self, name, column)
        self.training_domains_ = domains
        self.pipeline_ = Pipeline([*self.pipeline_.steps[:-1], ("classifier", fitted)])
        self.temperatures_ = dict(zip(new, temperatures, strict=True))
        self._set_limit()
