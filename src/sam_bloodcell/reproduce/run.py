"""Reproduction of a paper's table from the folders of its two datasets."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch

from ..alignment.autoencoder import CrossDomainAutoencoder
from ..alignment.settings import PRESETS
from ..cells import Cells, some_of_each
from ..datasets import join_cells, load_acevedo20, load_matek19
from ..datasets.cells import check_cells, take_cells
from ..embedding.embedder import SAMLoRAEmbedder
from ..embedding.session import PUBLISHED_CROPS
from ..evaluation import BenchmarkResult, run_benchmark
from ..evaluation.checks import check_arguments, class_names
from ..evaluation.protocol import check_plan
from ..exceptions import warn_caller
from ..extras import tqdm
from ..files import make_folder
from .plan import check_space, estimate_cost, stored_bytes
from .published import compare_with_published, published_results
from .stages import MaskedCells, RememberedClassifier, adapt, align, paper_classifiers


def reproduce(
    paper: str, matek: str | os.PathLike, acevedo: str | os.PathLike, *, backbone: str = "vit_b", adapter: Any = None,
    masks: str | os.PathLike | None = None, adapter_epochs: int = 150, limit: int | None = None,
    epochs: int | None = None, cv: int = 5, random_state: int = 0, work_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None, device: str = "auto", batch_size: int | str = "auto",
    n_jobs: int | None = None, verbose: int = 0,
) -> tuple[pd.DataFrame, BenchmarkResult]:  # fmt: skip
    """Reproduce a paper's table with its adapter, its autoencoder (a preset) and its classifiers.

    An interrupted call resumes if it is repeated with the same `work_dir` and `cache_dir`: the trainings of the adapter
    and the autoencoder from their last completed epoch, the embedding from its last batch, and the classifiers from
    their last fit.

    Parameters
    ----------
    paper : {"bc-sam", "dorl"}
        Name of the paper.
    matek, acevedo : path
        Folders of Matek-19 and Acevedo-20 (`sam_bloodcell.datasets`).
    backbone : str, default="vit_b"
        Weights of the encoder. The papers use "vit_b".
    adapter : str or path, optional
        Adapter of the encoder, as in `SAMLoRAEmbedder`. The papers fine-tune their encoder, so pass their published
        adapter or your own. With neither an adapter nor masks, plain SAM is used, with a point in the middle as prompt,
        and a warning says so.
    masks : path or "auto", optional
        Masks on which an adapter is trained first: the path of the authors' ``Bloodcell_train.dat.gz``, or "auto" for
        up to 1000 cells of each laboratory with masks from the stain. Training starts from `adapter`, if there is one.
    adapter_epochs : int, default=150
        Maximum number of epochs of that training.
    limit : int, optional
        Maximum number of cells per class and laboratory, drawn at random, for a quick trial.
    epochs : int, optional
        Number of epochs of the autoencoder. By default, it is the paper's, which takes hours on a CPU.
    cv : int, default=5
        Number of folds, at least 2.
    random_state : int, default=0
        Seed of the draws, the trainings and the folds.
    work_dir : path, optional
        Folder that keeps the adapter, the autoencoder and the answers of the classifiers. Without it, only the
        embeddings in `cache_dir` are kept.
    cache_dir : path, optional
        Folder that caches the embeddings, as in `SAMLoRAEmbedder` (default: ``cache`` in `work_dir`). Token maps and
        crops of the two datasets take about 12 GB with vit_b. Without either folder, they are all in memory.
    device : str, default="auto"
        Device of the embedder and the autoencoder: "auto", "cpu", "cuda" or a torch device name.
    batch_size : int or "auto", default="auto"
        Number of images per forward pass of the embedder.
    n_jobs : int, optional
        Number of processes that embed, and of classifiers that are fitted in parallel.
    verbose : int, default=0
        If above 0, first print the time and disk space that the run needs, which takes a few training steps to measure,
        and show progress bars.

    Returns
    -------
    table : pandas.DataFrame
        A row per classifier and pair of laboratories: ``ours`` and ``spread`` (mean and standard deviation over folds,
        ddof=0), ``published``, ``difference`` (ours minus published) and ``in_spreads`` (the difference divided by the
        spread). Accuracy is in percent over every cell, and cells of a class that training lacks count as wrong. For
        DoRL, ``notebook``, ``notebook_difference`` and ``notebook_in_spreads`` compare with the numbers that its
        authors' notebook prints.
    result : BenchmarkResult
        The whole result, for `report.write_report`.

    Raises
    ------
    ValueError
        If the paper is unknown, or as in the loaders, `limit_cells` and `run_benchmark`.
    OSError
        If the disk is too small, or as in `datasets.mask_archives.read_mask_archive`.

    References
    ----------
    Li et al., "Towards Cross-Domain Single Blood Cell Image Classification via Large-Scale LoRA-based Segment Anything
    Model", ISBI 2024; Li et al., DoRL, 2024.
    """
    published = published_results(paper)
    classifiers = paper_classifiers(published["classifier"].unique().tolist(), random_state)
    cells = join_cells(load_matek19(matek, scheme="harmonised"), load_acevedo20(acevedo, scheme="harmonised"))
    if limit is not None:
        cells = limit_cells(cells, limit, random_state)
    check_arguments("reproduce", cv=cv, random_state=random_state, n_jobs=n_jobs, verbose=verbose)
    labels = class_names(cells.target, cells.target_names, "target")
    check_plan(classifiers, labels, cells.domain, None, cv, random_state)
    cache_dir = Path(work_dir, "cache") if cache_dir is None and work_dir is not None else cache_dir
    embedder = SAMLoRAEmbedder(
        backbone, adapter, keep=("tokens", PUBLISHED_CROPS), device=device, batch_size=batch_size, n_jobs=n_jobs,
        cache_dir=cache_dir, verbose=verbose,
    )  # fmt: skip
    autoencoder = CrossDomainAutoencoder(
        preset=paper, epochs=epochs or "auto", device=device, random_state=random_state, verbose=verbose
    )
    autoencoder._validate_params()
    masked = None if masks is None else MaskedCells(masks, cells.paths, cells.domain, random_state)
    _prepare(embedder, autoencoder, cells, masked, adapter_epochs)
    with _work_folder(work_dir) as folder:
        if masked is not None:
            embedder = adapt(embedder, masked, folder, epochs=adapter_epochs, random_state=random_state)
        embeddings = embedder.fit_transform(cells.paths)
        fitted = align(autoencoder, embeddings, cells.domain, embedder.encoder_.recipe.digest, folder)
        answers = str(make_folder(folder / "answers"))
        result = run_benchmark(
            cells, embedder, _Fitted(fitted),
            {name: RememberedClassifier(estimator, answers) for name, estimator in classifiers.items()},
            cv=cv, random_state=random_state, n_jobs=n_jobs, verbose=verbose,
        )  # fmt: skip
    named = {f"classifier {name}": repr(estimator) for name, estimator in classifiers.items()}
    settings = result.settings | named | {"autoencoder": repr(fitted)}
    result = replace(result, autoencoder=fitted, settings=settings)
    return compare_with_published(published, result.scores[result.scores["features"] == "autoencoder"]), result


class _Fitted(FrozenEstimator):
    """An autoencoder that does not change when a benchmark fits it."""

    def fit(self, X: Any, y: Any = None, **_: Any) -> "_Fitted":
        """Do nothing; unlike in the original, y is optional."""
        return self


def _prepare(
    embedder: SAMLoRAEmbedder, autoencoder: CrossDomainAutoencoder, cells: Bunch, masked: MaskedCells | None,
    adapter_epochs: int,
) -> None:  # fmt: skip
    """Load the weights, check the space, warn of a missing adapter and, if verbose, print the cost of the run."""
    loaded = clone(embedder).fit(cells.paths[:1])
    if masked is None and loaded.adapter_ is None:
        warn_caller(
            "Got neither an adapter nor masks, so plain SAM is asked for the cell in the middle, and the numbers "
            "will differ from the papers'. Fix: adapter=... (--adapter), or masks=... (--masks) to train one."
        )
    check_space(stored_bytes(len(cells.paths), loaded.n_features_out_, loaded.image_size), embedder.cache_dir)
    if embedder.verbose:
        given = PRESETS[str(autoencoder.preset)].epochs if autoencoder.epochs == "auto" else autoencoder.epochs
        cost = estimate_cost(
            loaded, autoencoder, n_cells=len(cells.paths), training_cells=0 if masked is None else len(masked),
            adapter_epochs=adapter_epochs, autoencoder_epochs=int(given or 0),
        )  # fmt: skip
        tqdm.write(str(cost), file=sys.stderr)


@contextmanager
def _work_folder(work_dir: str | os.PathLike | None) -> Iterator[Path]:
    """Yield the folder that keeps the results, which is temporary if none is given."""
    if work_dir is not None:
        yield make_folder(work_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def limit_cells(cells: Bunch, n: int, random_state: int) -> Cells:
    """Draw some cells of each class and laboratory at random.

    Parameters
    ----------
    cells : Bunch
        Cells with ``paths``, from a loader.
    n : int
        Maximum number of cells of each class and laboratory, at least 1.
    random_state : int
        Seed of the draw.

    Returns
    -------
    Cells
        The drawn cells, in their original order.

    Raises
    ------
    ValueError
        If `n` is below 1, or the cells have no paths, target or domain.
    """
    check_arguments("limit_cells", n=n, random_state=random_state)
    check_cells(cells, "paths", "target", "domain")
    return take_cells(cells, some_of_each(cells.target, cells.domain, n, np.random.default_rng(random_state)))
