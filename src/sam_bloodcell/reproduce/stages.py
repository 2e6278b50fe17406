"""The adapter, autoencoder and classifiers of a reproduction; a folder keeps their results for later runs."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metaestimators import available_if

from ..alignment.autoencoder import CrossDomainAutoencoder
from ..datasets.mask_archives import read_mask_archive
from ..embedding.embedder import SAMLoRAEmbedder
from ..evaluation import default_classifiers
from ..files import remove, replacing
from ..images.reading import load_rgb
from ..models.sam import PixelStats
from ..segmentation import LoRATraining

# Maximum number of cells per laboratory for masks="auto", because training holds all their pixels in memory.
MOST_STAINED = 1000


class MaskedCells:
    """The cells with masks on which the adapter is trained.

    Parameters
    ----------
    masks : "auto" or path
        "auto" finds masks by the stain; otherwise a ``*.dat.gz`` file of the authors (`read_mask_archive`).
    paths : sequence of str
        Images from which cells are drawn for "auto".
    domain : array (n,)
        Laboratories of the images; at most `MOST_STAINED` cells of each are drawn.
    random_state : int
        Seed of the draw.
    """

    def __init__(self, masks: str | os.PathLike, paths: Sequence[str], domain: NDArray, random_state: int) -> None:
        self.images: Sequence[Any]
        self.masks: Any
        if masks == "auto":
            order = np.random.default_rng(random_state).permutation(len(paths))
            drawn = [order[domain[order] == name][:MOST_STAINED] for name in np.unique(domain)]
            self.images = [paths[row] for row in np.sort(np.concatenate(drawn))]
            self.masks, self._files = "auto", self.images
        else:
            self.images, self.masks = read_mask_archive(masks)
            self._files = [os.fspath(masks)]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """The digest that identifies the cells and masks."""
        contents = hashlib.sha256(repr(type(self.masks)).encode())
        for file in self._files:
            contents.update(hashlib.sha256(Path(file).read_bytes()).digest())
        return contents.hexdigest()


def paper_pixel_stats(images: Iterable[Any]) -> PixelStats:
    """Return the papers' statistics: the means over images of each image's channel means and standard deviations."""
    pictures = (load_rgb(image, row) for row, image in enumerate(images))
    means, stds = np.mean([(pixels.mean((0, 1)), pixels.std((0, 1))) for pixels in pictures], axis=0).tolist()
    return tuple(means), tuple(stds)


def adapt(
    embedder: SAMLoRAEmbedder, cells: MaskedCells, folder: Path, *, epochs: int, random_state: int
) -> SAMLoRAEmbedder:
    """Return the embedder with an adapter that was trained on cells and masks.

    Training starts from the embedder's adapter, if it has one. If interrupted, it resumes from the last whole epoch.
    """
    loaded = clone(embedder).fit(cells.images[:1])
    digest = joblib.hash((cells.digest, loaded.encoder_.recipe.digest, epochs, random_state))
    target = folder / f"adapter-{digest[:16]}"
    if not target.is_dir():
        checkpoint = folder / f"{target.name}.unfinished.pt"
        training = LoRATraining(epochs=epochs, checkpoint=checkpoint, random_state=random_state)
        stats = "auto" if loaded.adapter_ else paper_pixel_stats(cells.images)
        trained = clone(embedder).set_params(training=training, pixel_stats=stats).fit(cells.images, masks=cells.masks)
        with replacing(target) as draft:
            trained.save_pretrained(draft)
        remove(checkpoint)
    return clone(embedder).set_params(adapter=str(target))


def align(
    autoencoder: CrossDomainAutoencoder, embeddings: Any, domain: NDArray, recipe: str, folder: Path
) -> CrossDomainAutoencoder:
    """Return the autoencoder, fitted on the embeddings of a recipe, or loaded if it was fitted before.

    If interrupted, training resumes from the last whole epoch.
    """
    settings = {name: value for name, value in autoencoder.get_params().items() if name not in ("device", "verbose")}
    digest = joblib.hash((settings, recipe, np.asarray(embeddings), domain.tolist()))
    target = folder / f"autoencoder-{digest[:16]}"
    if not target.is_dir():
        checkpoint = folder / f"{target.name}.unfinished.pt"
        fitted = clone(autoencoder).set_params(checkpoint=checkpoint).fit(embeddings, domain=domain)
        with replacing(target) as draft:
            fitted.set_params(checkpoint=None).save_pretrained(draft)
        remove(checkpoint)
    here = {"device": autoencoder.device, "verbose": autoencoder.verbose}
    return CrossDomainAutoencoder.from_pretrained(target).set_params(**here)


def paper_classifiers(names: Sequence[str], random_state: int) -> dict[str, Any]:
    """Return the classifiers of the authors' notebooks, by their names in `published_results`.

    They are those of `default_classifiers`, except that the MLP holds out scikit-learn's default of a tenth of the
    cells for early stopping, and has up to 1000 iterations.
    """
    network = MLPClassifier(early_stopping=True, max_iter=1000, random_state=random_state)
    classifiers = default_classifiers(random_state) | {"MLP": make_pipeline(StandardScaler(), network)}
    return {name: classifiers[name] for name in names}


class RememberedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A classifier whose answers are stored in a folder.

    It is fitted only if the folder does not yet have the answers for these cells after training on those cells. The
    folder stores answers instead of fitted classifiers, which are large and would have to be unpickled.

    Parameters
    ----------
    estimator : classifier
        The classifier. If it has a random state, it is an int.
    folder : str
        An existing folder.
    """

    def __init__(self, estimator: Any, folder: str) -> None:
        self.estimator = estimator
        self.folder = folder

    def fit(self, X: NDArray, y: NDArray) -> "RememberedClassifier":
        """Store the training cells."""
        self.classes_ = np.unique(y)
        self.training_ = X, y
        self.name_ = joblib.hash((self.estimator, X, y), coerce_mmap=True)
        self.fitted_: Any = None
        return self

    def predict(self, X: NDArray) -> NDArray:
        """Return the classes of cells."""
        return self._answer("predict", X)

    @available_if(lambda self: hasattr(self.estimator, "predict_proba"))
    def predict_proba(self, X: NDArray) -> NDArray:
        """Return the probability of each class."""
        return self._answer("predict_proba", X)

    def _answer(self, method: str, X: NDArray) -> NDArray:
        file = Path(self.folder, f"{method}-{joblib.hash((self.name_, X), coerce_mmap=True)}.npy")
        if not file.is_file():
            if self.fitted_ is None:
                self.fitted_ = clone(self.estimator).fit(*self.training_)
            with replacing(file) as draft:
                np.save(draft, getattr(self.fitted_, method)(X), allow_pickle=False)
        return np.load(file, allow_pickle=False)
