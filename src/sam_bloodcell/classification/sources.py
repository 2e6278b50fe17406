"""The cells that a trained classifier predicts: files, folders and tables as one table of cells."""

import os
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from ..bulk import list_sources
from ..datasets.cells import told_unreadable, unreadable_images
from ..exceptions import warn_caller
from ..images.collections import as_image_list, table_columns
from ..images.listing import Listing


def list_cells(
    sources: Iterable[str | os.PathLike], *, domain: str | None = None, classes: Collection[str] = (),
    root: str | os.PathLike | None = None,
) -> tuple[pd.DataFrame, list[Listing]]:  # fmt: skip
    """List images as `bulk.find_images` does, with their laboratory and, if folders give it, their class.

    Parameters
    ----------
    sources, root
        Sources and root as in `bulk.find_images`.
    domain : str, optional
        Laboratory of all cells. By default, it is taken from a table's column domain or from the folders
        laboratory/class/image.
    classes : collection of str
        Names of known classes. If images are in folders with such names, the folders of this level are the labels. A
        warning counts the images without a label.

    Returns
    -------
    table : DataFrame
        The columns path and, if they are known, domain and label, and the other columns of tables.
    listings : list of Listing
        The other contents of each folder.
    """
    tables, listings = [], []
    for source in sources:
        table, found = list_sources([source], root=root)
        for listing in found:  # a folder has one, a file or a table none
            labels = _labels_below(listing, classes)
            read = table["label"].tolist() if "label" in table else None
            # The folders class/patient/image look like laboratory/class/image, unless one knows the classes.
            if labels is not None and "" in labels:
                some = listing.below(listing.images[labels.index("")])
                warn_caller(
                    f"{labels.count('')} of {len(labels)} images of '{listing.root}' are not in the folder of a class, "
                    f"such as '{some}', so they have no label. Fix: move the images whose class you know."
                )
            if domain is not None or (labels is not None and labels != read):
                table = table[["path"]] if labels is None else table[["path"]].assign(label=labels)
        tables.append(table)
        listings += found
    cells = pd.concat(tables, ignore_index=True)
    return (cells if domain is None else cells.assign(domain=domain)), listings


def keep_readable(cells: pd.DataFrame) -> pd.DataFrame:
    """Open every image and leave out, with a warning, rows that cannot be read; raise if none is left."""
    reasons = unreadable_images(cells["path"])
    if not reasons:
        return cells
    told = told_unreadable(reasons, len(cells))
    if len(reasons) == len(cells):
        raise ValueError(f"{told}. Fix: check the folder.")
    warn_caller(told)
    return cells.drop(index=list(reasons)).reset_index(drop=True)


def _labels_below(listing: Listing, classes: Collection[str]) -> list[str] | None:
    """Return the class of each image of a folder, or "" if it has none; None if no image has one.

    The classes are the folders of the level at which most images have a folder with the name of a known class. Other
    folders of this level are classes that the model does not know.
    """
    folders = [(listing.root.resolve().name, *image.relative_to(listing.root).parts[:-1]) for image in listing.images]
    levels = Counter(level for names in folders for level, name in enumerate(names) if name in classes)
    if not levels:
        return None
    (level, _), *_ = levels.most_common(1)
    return [names[level] if level < len(names) else "" for names in folders]


def paths_of(X: Any) -> list[str]:
    """Return the images' paths, or "row 0" and so on for images that are not paths."""
    images = as_image_list(X)
    return [os.fsdecode(image) if _is_path(image) else f"row {row}" for row, image in enumerate(images)]


def given_columns(X: Any) -> dict[str, Any]:
    """Return the columns that the table of answers begins with: those of X, or the paths."""
    if (columns := table_columns(X)) is not None:
        return columns
    images = as_image_list(X)
    return {"path": [os.fsdecode(image) for image in images]} if all(map(_is_path, images)) else {}


def _is_path(image: Any) -> bool:
    return isinstance(image, str | bytes | os.PathLike)
