"""The cells that a trained classifier is to predict: files, folders and tables as one table of cells."""

import os
import warnings
from collections.abc import Collection, Iterable

import pandas as pd

from ..bulk import list_sources
from ..datasets.cells import told_unreadable, unreadable_images
from ..images.listing import Listing


def list_cells(
    sources: Iterable[str | os.PathLike], *, domain: str | None = None, classes: Collection[str] = (),
    root: str | os.PathLike | None = None,
) -> tuple[pd.DataFrame, list[Listing]]:  # fmt: skip
    """List images as `bulk.find_images`, with their laboratory and, where folders tell it, their class.

    Parameters
    ----------
    sources, root
        As in `bulk.find_images`.
    domain : str, optional
        The laboratory of all cells; default what a table's column domain or the folders laboratory/class/image say.
    classes : collection of str
        Names of known classes. Where every image of a folder lies below a folder of such a name, that is its label.

    Returns
    -------
    table : DataFrame
        The columns path and, where they are known, domain and label; those of tables, too.
    listings : list of Listing
        What else each of the folders holds.
    """
    tables, listings = [], []
    for source in sources:
        table, found = list_sources([source], root=root)
        for listing in found:  # a folder has one, a file or a table none
            labels = _labels_below(listing, classes)
            read = table["label"].tolist() if "label" in table else None
            # The folders class/patient/image look like laboratory/class/image, unless one knows the classes.
            if domain is not None or (labels is not None and labels != read):
                table = table[["path"]] if labels is None else table[["path"]].assign(label=labels)
        tables.append(table)
        listings += found
    cells = pd.concat(tables, ignore_index=True)
    return (cells if domain is None else cells.assign(domain=domain)), listings


def keep_readable(cells: pd.DataFrame) -> pd.DataFrame:
    """Open every image and leave out the rows of those that cannot be read, with a warning; raise if none is left."""
    reasons = unreadable_images(cells["path"])
    if not reasons:
        return cells
    told = told_unreadable(reasons, len(cells))
    if len(reasons) == len(cells):
        raise ValueError(f"{told}. Fix: check the folder.")
    warnings.warn(told, stacklevel=2)
    return cells.drop(index=list(reasons)).reset_index(drop=True)


def _labels_below(listing: Listing, classes: Collection[str]) -> list[str] | None:
    """Return the class of each image of a folder: its nearest folder that has the name of one; None if any has none."""
    labels = []
    for image in listing.images:
        folders = [*listing.root.parts[-1:], *image.relative_to(listing.root).parts[:-1]]
        named = [name for name in reversed(folders) if name in classes]
        if not named:
            return None
        labels.append(named[0])
    return labels
