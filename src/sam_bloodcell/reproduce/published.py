"""The papers' published accuracies, and ours beside them."""

from pathlib import Path

import pandas as pd

PAPERS = ("bc-sam", "dorl")
_KEYS = ["classifier", "train_domain", "test_domain"]


def published_results(paper: str) -> pd.DataFrame:
    """Return a paper's published accuracies in percent.

    DoRL's notebook prints other numbers than its paper.

    Parameters
    ----------
    paper : {"bc-sam", "dorl"}
        Name of the paper.

    Returns
    -------
    pandas.DataFrame
        A row per classifier and pair of laboratories. The column ``published`` has the numbers of the paper's table,
        and the column ``notebook`` those that the authors' notebook prints, NaN if they are not known.

    Raises
    ------
    ValueError
        If the paper is unknown.
    """
    if paper not in PAPERS:
        fix = "Fix: paper='bc-sam' or paper='dorl'."
        raise ValueError(f"Got paper={paper!r} but expected one of {', '.join(PAPERS)}. {fix}")
    table = pd.read_csv(Path(__file__).with_name("published_results.csv"), comment="#")
    return table[table["paper"] == paper].reset_index(drop=True)


def compare_with_published(published: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Compare our accuracies with the published ones, in percent.

    `scores` has a row per fold, for the features of one autoencoder. ``ours`` and ``spread`` are the mean and the
    standard deviation (ddof 0, as in the authors' notebooks) over folds of the accuracy over every cell. ``difference``
    is ours minus the published one, and ``in_spreads`` the same in units of the spread, NaN if the folds do not differ.
    If the notebook of a paper is known, the same columns exist for it.
    """
    folds = scores.groupby(_KEYS, sort=False)["accuracy_all"]
    ours = pd.DataFrame({"ours": 100 * folds.mean(), "spread": 100 * folds.std(ddof=0)}).reset_index()
    table = published.drop(columns="paper").merge(ours, on=_KEYS, how="left")
    table = table[[*_KEYS, "ours", "spread", "published", "notebook"]]
    spread = table["spread"].where(table["spread"] > 0)
    table.insert(6, "difference", table["ours"] - table["published"])
    table.insert(7, "in_spreads", table["difference"] / spread)
    if table["notebook"].isna().all():
        return table.drop(columns="notebook")
    beside = table["ours"] - table["notebook"]
    return table.assign(notebook_difference=beside, notebook_in_spreads=beside / spread)
