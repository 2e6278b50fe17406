"""The papers' tables once more: Matek-19 and Acevedo-20 in 13 classes, our numbers beside the published ones."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from .alignment.autoencoder import CrossDomainAutoencoder
from .datasets import join_cells, load_acevedo20, load_matek19
from .datasets.cells import check_cells, take_cells
from .embedding.embedder import SAMLoRAEmbedder
from .evaluation import BenchmarkResult, default_classifiers, run_benchmark, summarise_scores
from .evaluation.checks import check_arguments

PAPERS = ("bc-sam", "dorl")


def reproduce(
    paper: str, matek: str | os.PathLike, acevedo: str | os.PathLike, *, backbone: str = "vit_b", adapter: Any = None,
    limit: int | None = None, epochs: int | None = None, cv: int = 5, random_state: int = 0,
    cache_dir: str | os.PathLike | None = None, device: str = "auto", batch_size: int | str = "auto",
    n_jobs: int | None = None, verbose: int = 0,
) -> tuple[pd.DataFrame, BenchmarkResult]:  # fmt: skip
    """Run a paper's table with its preset.

    Parameters
    ----------
    paper : {"bc-sam", "dorl"}
    matek, acevedo : path
        Folders of Matek-19 and Acevedo-20 (`sam_bloodcell.datasets`).
    backbone : str, default="vit_b"
        The papers' one.
    adapter : optional
        As in `SAMLoRAEmbedder`: the papers' own encoder is fine-tuned, so their published adapter or your own. None
        uses plain SAM, with a point in the middle as prompt.
    limit : int, optional
        Cells of a class and laboratory at most, drawn at random, for a trial.
    epochs : int, optional
        Of the autoencoder; default the paper's, which take hours on a CPU.
    cv, random_state, verbose : int
        As in `run_benchmark`, with defaults 5, 0 and 0.
    cache_dir : path, optional
        Folder that keeps the embeddings, as in `SAMLoRAEmbedder`: a run after a kill embeds nothing twice.
    device : str, default="auto"
        Of the embedder and the autoencoder: "auto", "cpu", "cuda" or a torch device name.
    batch_size : int or "auto", default="auto"
        Images in a forward pass of the embedder.
    n_jobs : int, optional
        Processes that embed, and fits of classifiers that run in parallel.

    Returns
    -------
    table : pandas.DataFrame
        A row per classifier and pair of laboratories: ``ours`` and ``spread`` (mean and standard deviation over folds)
        and ``published``, accuracy in percent over every cell: those of a class that training lacks count as wrong.
    result : BenchmarkResult
        All of it, for `report.write_report`.

    Raises
    ------
    ValueError
        If the paper is unknown, or as the loaders, `limit_cells` and `run_benchmark`.

    References
    ----------
    Li et al., "Towards Cross-Domain Single Blood Cell Image Classification via Large-Scale LoRA-based Segment Anything
    Model", ISBI 2024; Li et al., DoRL, 2024.
    """
    published = published_results(paper)
    classifiers = default_classifiers(random_state)
    wanted = published["classifier"].unique().tolist()
    cells = join_cells(load_matek19(matek, scheme="harmonised"), load_acevedo20(acevedo, scheme="harmonised"))
    if limit is not None:
        cells = limit_cells(cells, limit, random_state)
    result = run_benchmark(
        cells,
        SAMLoRAEmbedder(
            backbone, adapter, keep=("tokens", "crops"), device=device, batch_size=batch_size, n_jobs=n_jobs,
            cache_dir=cache_dir, verbose=verbose,
        ),
        CrossDomainAutoencoder(
            preset=paper, epochs=epochs or "auto", device=device, random_state=random_state, verbose=verbose
        ),
        {name: classifiers[name] for name in wanted},
        cv=cv, random_state=random_state, n_jobs=n_jobs, verbose=verbose,
    )  # fmt: skip
    scores = summarise_scores(result.scores[result.scores["features"] == "autoencoder"])
    ours = scores.assign(ours=100 * scores["accuracy_all_mean"], spread=100 * scores["accuracy_all_std"])
    keys = ["classifier", "train_domain", "test_domain"]
    table = published.drop(columns="paper").merge(ours[[*keys, "ours", "spread"]], on=keys, how="left")
    return table[[*keys, "ours", "spread", "published"]], result


def published_results(paper: str) -> pd.DataFrame:
    """Return a paper's published accuracies in percent, a row per classifier and pair of laboratories.

    Parameters
    ----------
    paper : {"bc-sam", "dorl"}

    Raises
    ------
    ValueError
        If the paper is unknown.
    """
    if paper not in PAPERS:
        raise ValueError(f"Got paper={paper!r} but expected one of {', '.join(PAPERS)}.")
    table = pd.read_csv(Path(__file__).with_name("published_results.csv"), comment="#")
    return table[table["paper"] == paper].reset_index(drop=True)


def limit_cells(cells: Bunch, n: int, random_state: int) -> Bunch:
    """Draw at most `n` (>= 1) of the cells of each class and laboratory; the cells have paths."""
    check_arguments("limit_cells", n=n, random_state=random_state)
    check_cells(cells, "paths", "target", "domain")
    order = np.random.default_rng(random_state).permutation(len(cells.target))
    table = pd.DataFrame({"target": cells.target, "domain": cells.domain}).iloc[order]
    rows = np.sort(table.groupby(["domain", "target"]).head(n).index.to_numpy())
    return take_cells(cells, rows)
