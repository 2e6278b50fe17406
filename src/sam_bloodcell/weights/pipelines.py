"""Whole fitted pipelines, saved, loaded and shared: skops files, which are read without unpickling anything."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..alignment.autoencoder import CrossDomainAutoencoder
from ..embedding.embedder import SAMLoRAEmbedder
from ..files import make_folder, replacing, write_text
from . import remote
from .model_card import write_model_card

_MODEL, _SETTINGS = "pipeline.skops", "sam_bloodcell.json"
_OURS = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in (SAMLoRAEmbedder, CrossDomainAutoencoder))
_PACKAGES = ("sam-bloodcell", "scikit-learn", "numpy", "torch")


def save_pretrained(
    pipeline: BaseEstimator,
    folder: str | os.PathLike,
    *,
    metrics: Mapping[str, float] | None = None,
    data: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write a fitted pipeline: what was fitted, and a reference to the base weights.

    Parameters
    ----------
    pipeline : estimator
        Fitted; any scikit-learn estimator around `SAMLoRAEmbedder` or `CrossDomainAutoencoder`.
    folder : path
        Made if need be; gets pipeline.skops, sam_bloodcell.json and README.md, a model card.
    metrics, data, licence
        For the model card: numbers by name, what was trained on, an SPDX identifier.

    Returns
    -------
    folder : Path

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    ImportError
        If skops is not installed.
    """
    check_is_fitted(pipeline)
    skops = _skops()
    folder = make_folder(folder)
    with replacing(folder / _MODEL) as draft:
        skops.dump(pipeline, draft)
    embedders = [part for part in _parts(pipeline) if isinstance(part, SAMLoRAEmbedder)]
    base, revision = embedders[0].backbone_.resolved() if embedders else (None, None)
    settings = {
        "kind": "pipeline",
        "backbone": base,
        "revision": revision,
        "digest": embedders[0].backbone_.digest if embedders else None,
        "trusted": [name for name in skops.get_untrusted_types(file=folder / _MODEL) if name not in _OURS],
        "versions": {name: version(name) for name in _PACKAGES},
    }
    write_text(folder / _SETTINGS, json.dumps(settings, indent=2) + "\n")
    write_model_card(
        folder,
        title="Blood cell classifier",
        summary=f"A fitted pipeline: {' -> '.join(type(part).__name__ for part in _parts(pipeline))}.",
        code='from sam_bloodcell import from_pretrained\n\npipeline = from_pretrained("this folder or repo")\n'
        'pipeline.predict(["cell.png"])',
        base=base,
        base_revision=revision,
        metrics=metrics,
        data=data,
        licence=licence,
    )
    return folder


def from_pretrained(
    folder_or_repo: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    trusted: Sequence[str] = (),
) -> Any:
    """Load a pipeline that `save_pretrained` or `push_to_hub` stored.

    Nothing is unpickled. Classes that neither scikit-learn nor this package owns are refused until named in `trusted`.

    Parameters
    ----------
    folder_or_repo : str or path
    revision : str, optional
        Commit, tag or branch on the Hub.
    token : str, optional
        Default that of ``HF_TOKEN`` or ``hf auth login``.
    local_files_only : bool
        Look into the Hub's local cache alone.
    trusted : sequence of str
        Full names of further classes that may be built.

    Raises
    ------
    WeightsUnavailableError
        If a file is missing, damaged or cannot be fetched.
    ValueError
        If the file needs classes that are not trusted; it lists them.
    ImportError
        If skops is not installed.
    """
    if isinstance(trusted, str):
        raise TypeError(f"Got trusted={trusted!r} but expected a list of names. Fix: trusted=[{trusted!r}].")
    skops = _skops()
    path = Path(folder_or_repo) / _MODEL
    if not Path(folder_or_repo).is_dir():
        path = remote.fetch(str(folder_or_repo), _MODEL, revision, token=token, local_files_only=local_files_only)
    elif not path.is_file():
        raise remote.WeightsUnavailableError(
            f"'{folder_or_repo}' is no pipeline folder: it lacks {_MODEL}. Fix: pass a folder made by save_pretrained; "
            "adapters and autoencoders load by their own class's from_pretrained."
        )
    try:
        needed = skops.get_untrusted_types(file=path)
    except (BadZipFile, LookupError, ValueError) as exc:
        raise remote.WeightsUnavailableError(
            f"'{path}' is no pipeline that can be read: {exc}. Fix: fetch it again, or pass a folder made by "
            "save_pretrained."
        ) from exc
    allowed = [name for name in needed if name in (*_OURS, *trusted) or name.startswith("sklearn.")]
    unknown = sorted(set(needed) - set(allowed))
    if unknown:
        raise ValueError(
            f"'{folder_or_repo}' builds objects of types that are not trusted: {', '.join(unknown)}. Fix: if you trust "
            f"its author, pass trusted={unknown}."
        )
    return skops.load(path, trusted=allowed)


def push_to_hub(
    pipeline: BaseEstimator,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    **card: Any,
) -> str:
    """Save a fitted pipeline and upload it to a Hub repo, made if need be.

    Parameters
    ----------
    pipeline : estimator
    repo_id : str
        "owner/name".
    revision : str, optional
        Branch; default main.
    private : bool, optional
        Of a new repo.
    token : str, optional
        One that may write; default that of ``HF_TOKEN`` or ``hf auth login``.
    **card
        metrics, data and licence, as in `save_pretrained`.

    Returns
    -------
    url : str
        Of the commit.

    Raises
    ------
    WeightsUnavailableError
        If the Hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(pipeline, folder, **card)
        return remote.push_folder(folder, repo_id, revision=revision, private=private, token=token)


def _parts(pipeline: Any) -> list[Any]:
    """Return the steps of a pipeline, or the estimator itself; a search stands for its best."""
    pipeline = getattr(pipeline, "best_estimator_", pipeline)
    return [step for _, step in getattr(pipeline, "steps", [("", pipeline)])]


def _skops() -> ModuleType:
    try:
        import skops.io as skops
    except ImportError as exc:
        raise ImportError('Whole pipelines need skops. Fix: pip install "sam-bloodcell[hub]"') from exc
    return skops
