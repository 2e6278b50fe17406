"""Cells on disk: a CSV, or a folder of domain/label/image."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.utils import Bunch

from ..cells import Cells, warn_of_similar
from ..exceptions import ImageReadError, warn_caller
from ..files import as_path, how_to_find, is_utf8, make_folder, replacing, write_text
from ..images.collections import name_rows
from ..images.listing import Listing
from ..images.reading import load_rgb
from .folders import read_folder
from .tables import read_table, similar_columns

_REQUIRED = ("path", "domain", "label")
# Entries of loaders that describe all cells together, even if they are as long as the cells.
_OF_ALL_CELLS = ("target_names", "audit")
_COLUMNS = (list, tuple, np.ndarray, pd.Series, pd.DataFrame)


def load_cells(
    csv_or_folder: str | os.PathLike, *, classes: Sequence[str] | None = None, domains: Sequence[str] | None = None,
    root: str | os.PathLike | None = None,
) -> Cells:  # fmt: skip
    """List the cells of a CSV or a folder, without opening an image.

    Parameters
    ----------
    csv_or_folder : path
        CSV or folder of the cells. A CSV has the columns path, domain (the laboratory) and label (the class), and
        optionally mask and group (patient or slide; a cell without a group is its own group). Paths are relative to
        the CSV. A folder has files ``domain/label/image``, which may also be in folders below a label. Masks are named
        ``image_mask.png``, ``image_masks.tif`` or the like. Next to their image, they may also be named
        ``mask_image.png``, ``image_seg.png`` or ``image_label.png``. Hidden and system files and folders of masks are
        skipped. A warning names other files that look like data but were not read, such as images of other formats or
        without a class.
    classes : sequence of str, optional
        Labels to keep, in the order of ``target_names``. By default, all labels are kept and sorted.
    domains : sequence of str, optional
        Domains to keep. By default, all are kept.
    root : path, optional
        Folder that must contain all paths of the CSV (default: the CSV's folder).

    Returns
    -------
    Cells
        The n cells, a Bunch with these attributes:

        - ``frame`` (DataFrame): the table that embedders and pipelines accept, with the columns path, domain and
          label, and mask and group if the cells have them;
        - ``paths`` (list of str): the images;
        - ``labels`` (array of shape (n,)): the class names;
        - ``target`` (int array of shape (n,)): the classes as indices into ``target_names`` (list of str);
        - ``domain`` (str array of shape (n,)): the laboratories;
        - ``masks`` (list of length n): the path of each cell's mask, or None if the cell has no mask;
        - ``group`` (str array of shape (n,), or None if the CSV has no such column): the patients or slides;
        - ``dropped`` (dict): the number of cells of each label that `classes` left out;
        - ``left_out`` (dict): the number of files in the folder that were not read, by (folder, kind).

    Raises
    ------
    FileNotFoundError
        If the CSV, the folder, or a file that a row of the CSV names is missing.
    ValueError
        If columns or values are missing, a path leads out of `root`, a class or domain is unknown, a folder's name is
        not UTF-8, or no cell is left.

    Warns
    -----
    UserWarning
        If names of classes, laboratories or groups differ only in case, spaces, dashes, accents or a plural s, if a
        folder's images seem to be one level too deep (``domain/patient/label/image``), or if each class has only one
        image.

    Examples
    --------
    >>> import tempfile
    >>> from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     csv = save_cells(make_blood_cells(1, image_size=32), folder)
    ...     cells = load_cells(csv, classes=["lymphocyte", "monocyte"])
    >>> len(cells.paths), cells.dropped["neutrophil"]
    (4, 2)
    """
    source = as_path(csv_or_folder, "csv_or_folder")
    if not os.fspath(csv_or_folder) or not (source.is_dir() or source.is_file()):
        fix = f"Fix: pass a CSV file or a folder of domain/label/image.{how_to_find(source)}"
        raise FileNotFoundError(f"'{os.fsdecode(csv_or_folder)}' does not exist. {fix}")
    listing = Listing(source) if source.is_dir() else None
    table = _read_csv(source, root) if listing is None else read_folder(listing)
    if domains is not None:
        domains = _check_known(domains, table["domain"], "domain", source)
        table = table[table["domain"].isin(domains)]
    if classes is not None:
        classes = _check_known(classes, table["label"], "class", source)
    cells = as_cells(table, classes, source)
    cells.left_out = {} if listing is None else listing.account()
    return cells


def drop_unreadable(cells: Bunch) -> Cells:
    """Open every image and leave out the cells that cannot be read, with a warning that names them.

    Parameters
    ----------
    cells : Bunch
        Cells with ``paths``, from a loader.

    Returns
    -------
    Cells
        The readable cells, and unreadable : dict of path to the reason.

    Raises
    ------
    ValueError
        If no image can be read.
    """
    check_cells(cells, "paths", "target", "target_names", "domain")
    reasons = unreadable_images(cells.paths)
    first, n = next(iter(reasons.values()), ""), len(cells.paths)
    error = f"None of the {n} images can be read; the first: {first}"
    kept = _leave_out(cells, list(reasons), error, told_unreadable(reasons, n))
    kept.unreadable = {str(cells.paths[row]): reason for row, reason in reasons.items()}
    return kept


def unreadable_images(images: Iterable[Any]) -> dict[int, str]:
    """Open every image, and return the rows of those that cannot be read, with the reasons."""
    reasons = {}
    for row, image in enumerate(images):
        try:
            load_rgb(image)
        except ImageReadError as exc:
            reasons[row] = str(exc)
    return reasons


def told_unreadable(reasons: Mapping[int, str], n: int) -> str:
    """Return a sentence about the images, among n, that cannot be read and are left out."""
    rows, first = list(reasons), next(iter(reasons.values()), "")
    return f"{len(rows)} of {n} images cannot be read and are left out ({name_rows(rows)}); the first: {first}"


def keep_masked(cells: Bunch) -> Cells:
    """Leave out the cells without a mask, with a warning that counts them.

    Parameters
    ----------
    cells : Bunch
        Cells with ``paths``, from a loader.

    Returns
    -------
    Cells
        The cells that have a mask.

    Raises
    ------
    ValueError
        If no cell has a mask.
    """
    check_cells(cells, "paths", "target", "target_names", "domain")
    bare = [row for row, mask in enumerate(_masks(cells)) if mask is None]
    n = len(cells.paths)
    error = (
        f"None of the {n} cells has a mask. Fix: name the masks in a column 'mask' of the CSV, or as number_mask.png "
        'next to number.png, or make them from the stain with masks="auto".'
    )
    return _leave_out(cells, bare, error, f"{len(bare)} of {n} cells have no mask and are left out.")


def _leave_out(cells: Bunch, rows: list[int], error: str, warning: str) -> Cells:
    """Leave out some rows, with a warning if there are any, and raise if none is left."""
    n = len(cells.paths)
    if len(rows) == n:
        raise ValueError(error)
    if len(rows):
        warn_caller(warning)
    return take_cells(cells, np.setdiff1d(np.arange(n), rows))


def check_cells(cells: Any, *names: str) -> None:
    """Raise unless these are cells from a loader, with these parts and a name for each target."""
    lacking = [name for name in names if not isinstance(cells, Bunch) or cells.get(name) is None]
    if lacking:
        got = f"Got cells of type {type(cells).__name__} without {', '.join(lacking)}"
        fix = "Fix: sam_bloodcell.datasets.load_cells(csv_or_folder), or make_blood_cells()."
        raise ValueError(f"{got} but expected the result of load_cells. {fix}")
    if {"target", "target_names"} <= set(names):
        codes, n = np.asarray(cells.target), len(cells.target_names)
        unnamed = np.flatnonzero((codes < 0) | (codes >= n))
        if len(unnamed):  # -1 would be the last of the names
            got = f"Got target={codes[unnamed[0]]} in row {unnamed[0]}"
            raise ValueError(f"{got} but expected an index into the {n} target_names. Fix: leave unlabelled cells out.")


def take_cells(cells: Bunch, rows: np.ndarray) -> Cells:
    """Take some rows of cells with ``paths``; entries that do not describe single cells stay the same.

    A user's own entries describe single cells if they are columns (lists, arrays, Series, tables) as long as paths.
    """
    n = len(cells.paths)
    columns = {
        name: _take(column, rows)
        for name, column in cells.items()
        if name not in _OF_ALL_CELLS and isinstance(column, _COLUMNS) and len(column) == n
    }
    return Cells(**cells | columns | {"masks": _take(list(_masks(cells)), rows)})


def _take(column: Any, rows: np.ndarray) -> Any:
    if isinstance(column, list | tuple):
        return type(column)(column[row] for row in rows)
    return column.iloc[rows] if hasattr(column, "iloc") else column[rows]


def join_cells(*parts: Bunch) -> Cells:
    """Join the cells of several loaders under one vocabulary of classes.

    Parameters
    ----------
    *parts : Bunch
        Cells from loaders, all with ``paths`` or all with ``images``.

    Returns
    -------
    Cells
        All cells, with ``target_names`` in order of appearance. Groups of different parts are different patients or
        slides, even if they have the same name. A cell without a group is its own group.

    Raises
    ------
    ValueError
        If there are no parts, a part does not come from a loader, or some parts have paths and others images.

    Examples
    --------
    >>> from sam_bloodcell.datasets import join_cells, make_blood_cells
    >>> parts = [make_blood_cells(1, domains=[domain], image_size=32) for domain in ("lab_a", "lab_b")]
    >>> sorted(set(join_cells(*parts).domain.tolist()))
    ['lab_a', 'lab_b']
    """
    for part in parts:
        check_cells(part, "target", "target_names", "domain")
    kinds = {kind for part in parts for kind in ("paths", "images") if part.get(kind) is not None}
    if len(kinds) != 1:
        found = f"{len(parts)} parts with {' and '.join(sorted(kinds)) or 'no images'}"
        fix = "Fix: save the parts with images and load them again: load_cells(save_cells(part, folder))."
        raise ValueError(f"Got {found} but expected at least one part, all with paths or all with images. {fix}")
    (kind,) = kinds
    names = list(dict.fromkeys(str(name) for part in parts for name in part.target_names))
    target = [[names.index(str(part.target_names[code])) for code in part.target] for part in parts]
    warn_of_similar(names, "label", f"{len(parts)} parts")
    warn_of_similar((name for part in parts for name in part.domain), "domain", f"{len(parts)} parts")
    dropped = sum((Counter(part.get("dropped")) for part in parts), Counter[str]())
    grouped = any(part.get("group") is not None for part in parts)
    groups = [f"{at}: {name}" for at, part in enumerate(parts) for name in _groups(part)]
    return Cells(
        **{kind: [image for part in parts for image in part[kind]]},
        target=np.concatenate(target).astype(np.int64),
        target_names=names,
        domain=np.concatenate([np.asarray(part.domain, str) for part in parts]),
        masks=[mask for part in parts for mask in _masks(part)],
        group=np.array(groups, dtype=str) if grouped else None,
        dropped=dict(dropped),
    )


def _groups(part: Bunch) -> Sequence[Any]:
    groups = part.get("group")
    return [f"cell {row}" for row in range(len(part.target))] if groups is None else groups


def _masks(part: Bunch) -> Sequence[Any]:
    masks = part.get("masks")
    if masks is None:
        return [None] * len(part.target)
    # In a column of a table, a missing mask is NaN or pandas.NA; masks may be arrays or images.
    return [None if pd.api.types.is_scalar(mask) and (pd.isna(mask) or mask == "") else mask for mask in masks]


def as_cells(table: pd.DataFrame, classes: Sequence[str] | None, source: str | os.PathLike) -> Cells:
    """Convert a table of path, domain, label, mask and optionally group into `Cells`; None keeps all classes."""
    for kind in ("label", "domain", "group"):
        if kind in table:
            warn_of_similar(table[kind].unique(), kind, str(source))
    names = sorted(table["label"].unique()) if classes is None else list(classes)
    kept = table["label"].isin(names)
    if not kept.any():
        known = ", ".join(sorted(set(table["label"]) - {""})) or "none"
        fix = f"Fix: check the classes and domains asked for, or the scheme. Labels to choose from: {known}."
        raise ValueError(f"No cell of '{source}' is left. {fix}")
    dropped = table.loc[~kept, "label"].value_counts().sort_index().to_dict()
    table = table[kept]
    return Cells(
        paths=table["path"].tolist(),
        target=table["label"].map({name: code for code, name in enumerate(names)}).to_numpy(np.int64),
        target_names=names,
        domain=table["domain"].to_numpy(str),
        masks=[mask or None for mask in table["mask"]],
        group=table["group"].to_numpy(str) if "group" in table else None,
        dropped=dropped,
    )


def save_cells(cells: Bunch, folder: str | os.PathLike) -> Path:
    """Write cells with ``images`` as PNG files, their masks if they have any, and the CSV that `load_cells` reads.

    Parameters
    ----------
    cells : Bunch
        Cells with images, such as those of `make_blood_cells`, `read_bloodmnist` and `load_image_dataset`.
    folder : path
        Folder for cells.csv, ``domain/label/number.png`` and masks as ``number_mask.png``. It is created if it is
        missing.

    Returns
    -------
    pathlib.Path
        The CSV.

    Raises
    ------
    ValueError
        If there are no images, the masks have another length, or a domain or class cannot be a folder name.
    OSError
        If a file cannot be written.
    """
    check_cells(cells, "images", "target", "target_names", "domain")
    masks = _masks(cells)
    if len(masks) != len(cells.target):
        fix = "Fix: pass one mask, or None, per cell."
        raise ValueError(f"Got {len(cells.target)} cells and {len(masks)} masks. {fix}")
    folder = make_folder(folder)
    rows = []
    columns = zip(cells.images, masks, cells.target, map(str, cells.domain), strict=True)
    for number, (image, mask, target, domain) in enumerate(columns):
        label = str(cells.target_names[target])
        if len(Path(domain, label).parts) != 2 or ".." in (domain, label):
            raise ValueError(f"Got domain {domain!r} and class {label!r} but expected folder names. Fix: rename them.")
        if not is_utf8(domain + label):
            raise ValueError(f"Got domain {domain!r} and class {label!r}, which are not UTF-8. Fix: rename them.")
        stem = Path(domain, label, f"{number:05d}")
        make_folder((folder / stem).parent)
        names = f"{stem}.png", "" if mask is None else f"{stem}_mask.png"
        for name, pixels in zip(names, (load_rgb(image, number), mask), strict=True):
            if name:
                with replacing(folder / name) as draft:
                    Image.fromarray(pixels).save(draft)
        rows.append((names[0], domain, label, names[1]))
    csv = folder / "cells.csv"
    table = pd.DataFrame(rows, columns=[*_REQUIRED, "mask"])
    if cells.get("group") is not None:
        table["group"] = cells.group
    write_text(csv, table.to_csv(index=False))
    return csv


def _read_csv(csv: Path, root: str | os.PathLike | None) -> pd.DataFrame:
    table = read_table(csv, _REQUIRED, root=root)
    for name, written in similar_columns(table.columns.tolist(), ("mask", "group")).items():
        warn_caller(f"'{csv}' has a column '{written}', which is not read. Fix: name it {name}.")
    if "mask" not in table:
        table["mask"] = ""
    if "group" in table:
        table["group"] = [name if name.strip() else f"cell {row}" for row, name in enumerate(table["group"])]
    for name, kind in (("path", "image"), ("mask", "mask")):
        for row, path in enumerate(table[name]):
            if path and not Path(path).is_file():
                fix = f"Fix: paths are relative to the CSV's folder.{how_to_find(path)}"
                raise FileNotFoundError(f"'{csv}' row {row}: the {kind} '{path}' does not exist. {fix}")
    return table


def _check_known(wanted: Iterable[str], column: pd.Series, kind: str, source: Path) -> list[str]:
    """Return the names asked for as a list; raise unless they are different values of the column."""
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise TypeError(f"Got {wanted!r} as the names of a {kind} but expected a list. Fix: pass [{wanted!r}].")
    wanted = list(wanted)
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"Got a {kind} twice in {wanted} but expected each once. Fix: remove one of them.")
    unknown = sorted(set(wanted) - set(column))
    if unknown:
        known = ", ".join(sorted(column.unique()))
        raise ValueError(f"Got the {kind} {unknown[0]!r} but '{source}' has {known}. Fix: check the spelling.")
    return wanted
