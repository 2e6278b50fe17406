"""Saving, loading and sharing of fitted pipelines, as skops files, which are read without unpickling."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..exceptions import WeightsUnavailableError
from ..files import make_folder, replacing
from . import hub
from .pretrained import write_model_card

_MODEL = "pipeline.skops"
_PLAIN = """from sam_bloodcell import from_pretrained

pipeline = from_pretrained("this folder or repo")
pipeline.predict(["cell.png"])"""
_ALIGNED = """import pandas as pd
from sam_bloodcell import from_pretrained

pipeline = from_pretrained("this folder or repo")
# A new laboratory is learned from the cells of the call: pass at least 20 at once, of all types that are usual there.
cells = pd.DataFrame({"path": paths, "domain": "name of the laboratory"})
pipeline.predict(cells)"""
_TABLE = """import pandas as pd
from sam_bloodcell import CellClassifier

classifier = CellClassifier.from_pretrained("this folder or repo")
# A new laboratory is learned from the cells of the call: pass at least 20 at once, of all types that are usual there.
cells = pd.DataFrame({"path": paths, "domain": "name of the laboratory"})
classifier.predict_table(cells)"""
# This package's estimators. They are named one by one because a file could have any trusted function called, and some
# functions of this package delete files (`files.remove`).
_ESTIMATORS = (
    "sam_bloodcell.alignment.autoencoder.CrossDomainAutoencoder",
    "sam_bloodcell.classification.cell_classifier.CellClassifier",
    "sam_bloodcell.classification.neighbor_smoothing.NeighborSmoothedClassifier",
    "sam_bloodcell.classification.stain_augmented.StainAugmentedClassifier",
    "sam_bloodcell.embedding.embedder.SAMLoRAEmbedder",
    "sam_bloodcell.embedding.function_embedder.FunctionEmbedder",
    "sam_bloodcell.embedding.vit_embedder.ViTEmbedder",
    "sam_bloodcell.evaluation.novelty.AbstainingClassifier",
    "sam_bloodcell.morphology.CellMorphology",
    "sam_bloodcell.segmentation.lora_training.LoRATraining",
)
# A file may name scikit-learn's functions from these modules only: some of the others delete folders or run any code.
_SKLEARN_FUNCTIONS = ("sklearn.feature_selection.", "sklearn.metrics.", "sklearn.preprocessing.")


def save_pretrained(
    pipeline: BaseEstimator, folder: str | os.PathLike, *, metrics: Mapping[str, float] | None = None,
    data: str | None = None, licence: str | None = None,
) -> Path:  # fmt: skip
    """Write a fitted pipeline, with a reference to the base weights, and a model card into a folder.

    Parameters
    ----------
    pipeline : estimator
        Fitted scikit-learn estimator that contains a `SAMLoRAEmbedder` or a `CrossDomainAutoencoder`.
    folder : str or path
        Folder for pipeline.skops and README.md (the model card); created if it is missing.
    metrics : dict of str to float, optional
        Numbers for the model card, by name.
    data : str, optional
        Description of the training data for the model card.
    licence : str, optional
        SPDX identifier of the licence for the model card.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    """
    check_is_fitted(pipeline)
    from skops import io as skops

    folder = make_folder(folder)
    with replacing(folder / _MODEL) as draft:
        skops.dump(pipeline, draft)
    best = getattr(pipeline, "best_estimator_", pipeline)  # the best estimator of a search
    aligned = any(hasattr(part, "add_domain") for part in best.get_params().values())
    code = _TABLE if hasattr(best, "predict_table") else _ALIGNED if aligned else _PLAIN
    best = getattr(best, "pipeline_", best)  # the pipeline of a CellClassifier
    parts = [step for _, step in getattr(best, "steps", [("", best)])]
    backbones = [part.backbone_ for part in parts if hasattr(part, "backbone_")]
    base, revision = backbones[0].resolved() if backbones else (None, None)
    write_model_card(
        folder,
        title="Blood cell classifier",
        summary=f"A fitted pipeline: {' -> '.join(type(part).__name__ for part in parts)}.",
        code=code,
        base=base,
        base_revision=revision,
        metrics=metrics,
        data=data,
        licence=licence,
    )
    return folder


def from_pretrained(
    folder_or_repo: str | os.PathLike, *, revision: str | None = None, token: str | None = None,
    local_files_only: bool = False, trusted: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Load a pipeline that `save_pretrained` or `push_to_hub` stored.

    Nothing is unpickled. The file may use this package's estimators, scikit-learn's classes, and its functions that
    score predictions, select features or scale them. Other classes and functions must be named in `trusted`.

    Parameters
    ----------
    folder_or_repo : str or path
        Folder, or repo on the Hugging Face Hub.
    revision : str, optional
        Commit, tag or branch of the repo (default: main).
    token : str, optional
        Token of the Hub (default: that of ``HF_TOKEN`` or ``hf auth login``).
    local_files_only : bool, default=False
        Whether to use only files that are already in the Hub's cache.
    trusted : sequence of str, default=()
        Full names of further classes and functions that the file may use. XGBoost's are not trusted by default,
        because a manipulated file can crash its reader.

    Returns
    -------
    estimator
        The fitted pipeline.

    Raises
    ------
    WeightsUnavailableError
        If a file is missing, damaged or cannot be fetched.
    ValueError
        If the file needs classes or functions that are not trusted; the message lists them.
    """
    if isinstance(trusted, str):
        raise TypeError(f"Got trusted={trusted!r} but expected a list of names. Fix: trusted=[{trusted!r}].")
    from skops import io as skops

    access: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
    path = hub.locate_folder(folder_or_repo, "pipeline", [_MODEL], revision, **access) / _MODEL
    try:
        needed = skops.get_untrusted_types(file=path)
    except (BadZipFile, LookupError, ValueError) as exc:
        raise WeightsUnavailableError(
            f"'{path}' is not a readable pipeline: {exc}. Fix: download it again, or pass a folder made by "
            "save_pretrained."
        ) from exc
    allowed = [name for name in needed if name in (*_ESTIMATORS, *trusted) or _is_safe_in_sklearn(name)]
    unknown = sorted(set(needed) - set(allowed))
    if unknown:
        raise ValueError(
            f"'{folder_or_repo}' builds objects of types that are not trusted: {', '.join(unknown)}. Fix: if you trust "
            "its author, name these types as trusted: trusted=[...], or --trusted NAME for each on the command line."
        )
    return skops.load(path, trusted=allowed)


def push_to_hub(
    pipeline: BaseEstimator, repo_id: str, *, revision: str | None = None, private: bool | None = None,
    token: str | None = None, **card: Any,
) -> str:  # fmt: skip
    """Save a fitted pipeline and upload it to a Hub repo.

    Parameters
    ----------
    pipeline : estimator
        Fitted scikit-learn estimator, as in `save_pretrained`.
    repo_id : str
        Repo on the Hugging Face Hub, as "owner/name". It is created if it is missing.
    revision : str, optional
        Branch to write (default: main).
    private : bool, optional
        Whether a new repo is private.
    token : str, optional
        Token with write access (default: that of ``HF_TOKEN`` or ``hf auth login``).
    **card : dict
        Arguments of `save_pretrained`: metrics, data and licence.

    Returns
    -------
    str
        URL of the commit.

    Raises
    ------
    WeightsUnavailableError
        If the Hub refuses or cannot be reached.
    """
    save = partial(save_pretrained, pipeline)
    return hub.push(save, repo_id, revision=revision, private=private, token=token, **card)


def _is_safe_in_sklearn(name: str) -> bool:
    """Return whether a name is that of a scikit-learn class, or of a scikit-learn function that a file may use."""
    if not name.startswith("sklearn."):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    # An object that a module only imports, such as os.remove, has the name of another module.
    is_own = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}" == name
    return is_own and (isinstance(found, type) or name.startswith(_SKLEARN_FUNCTIONS))
