"""The cells that a trained classifier is to predict: files, folders and tables as one table of cells."""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from ..bulk import list_sources
from ..datasets.cells import told_unreadable, unreadable_images
from ..images.collections import as_image_list, table_columns
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
        Names of known classes. Where images of a folder lie below folders of such names, the folders of this level are
        the labels. A warning counts the images that have none.

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
            if labels is not None and "" in labels:
                some = listing.below(listing.images[labels.index("")])
                warnings.warn(
                    f"{labels.count('')} of {len(labels)} images of '{listing.root}' lie in no folder of a class, such "
                    f"as '{some}': they have no label. Fix: move them, if they have one.",
                    stacklevel=2,
                )
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
    """Return the class of each image of a folder, "" where it has none; None where no image has one.

    The classes are the folders of the level at which most images have a folder with the name of a known class: those
    that the model does not know are there, too.
    """
    folders = [(listing.root.resolve().name, *image.relative_to(listing.root).parts[:-1]) for image in listing.images]
    levels = Counter(level for names in folders for level, name in enumerate(names) if name in classes)
    if not levels:
        return None
    (level, _), *_ = levels.most_common(1)
    return [names[level] if level < len(names) else "" for names in folders]


def paths_of(X: Any) -> list[str]:
    """Return the images' paths, and "row 0" and so on where they are no paths."""
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
