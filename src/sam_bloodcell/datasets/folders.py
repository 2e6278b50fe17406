"""Folders of cells, read as domain/label/image, and the messages if the levels differ."""

import os
from collections import Counter
from pathlib import Path

import pandas as pd

from ..exceptions import warn_caller
from ..files import is_utf8
from ..images.listing import Listing, describe

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_EXPECTED = "domain/label/image, such as 'munich/lymphocyte/1.png'"
_CSV = "pass a CSV with the columns path, domain and label"


class LevelsError(ValueError):
    """Images are in too few levels of folders to have a laboratory and a class."""


def read_folder(listing: Listing) -> pd.DataFrame:
    """List the images of domain/label/image as path, domain, label and mask; warn of other files that look like data.

    It raises a `LevelsError` if no image is deep enough, and a ValueError if there are no images or the name of a
    domain or a class is not UTF-8.
    """
    rows = []
    masks = {listing.image_of(mask): mask for mask in listing.masks}
    for file in listing.images:
        parts = file.relative_to(listing.root).parts
        if len(parts) > 2:
            rows.append((str(file), *parts[:2], str(masks.pop(file.with_suffix(""), ""))))
        else:
            lacking = "a class" if len(parts) == 2 else "a laboratory and a class"
            listing.lost[listing.below(file.parent), f"images without a folder of {lacking}"] += 1
    if not rows:
        raise (LevelsError if listing.images else ValueError)(_why_none(listing))
    for mask in masks.values():
        listing.lost[listing.below(mask.parent), "masks that belong to no image"] += 1
    table = pd.DataFrame(rows, columns=["path", "domain", "label", "mask"])
    _check_folders(listing, table)
    listing.warn()
    for doubt in (_too_deep(listing), _one_image_a_class(listing, table)):
        if doubt:
            warn_caller(doubt)
    return table


def domains_and_labels(listing: Listing) -> pd.DataFrame | None:
    """Return the domain and the label of each image by the rule of `read_folder`; None if an image has none."""
    parts = [file.relative_to(listing.root).parts for file in listing.images]
    if any(len(each) < 3 for each in parts):
        return None
    return pd.DataFrame([each[:2] for each in parts], columns=["domain", "label"])


def _why_none(listing: Listing) -> str:
    """Say why a folder has no image in a class of a laboratory, and what to do."""
    n, root = len(listing.images), listing.root
    if not n:
        found = f" It contains: {describe(listing.account())}." if listing.account() else ""
        packed = any(kind.endswith(f"({suffix})") for _, kind in listing.left_out for suffix in _ARCHIVES)
        fix = "unpack the archives in it" if packed else "arrange them as domain/label/image, or pass a CSV"
        return f"'{root}' contains no images. Fix: {fix}.{found}"
    depths = Counter(len(file.relative_to(root).parts) for file in listing.images)
    depth = depths.most_common(1)[0][0]
    example = next(file for file in listing.images if len(file.relative_to(root).parts) == depth)
    images, shown, above = f"{n} image{'s' * (n > 1)}", listing.below(example), example.parent.name
    if depth == 1:
        return (
            f"Got {images} in '{root}', but two levels too high: '{shown}' has neither laboratory nor class; "
            f"expected {_EXPECTED}. Fix: sort the images into such folders, or {_CSV}."
        )
    return (
        f"Got {images} in '{root}', but one level too high: '{shown}' has no laboratory; expected {_EXPECTED}. Fix: "
        f"if all are of one laboratory, move '{above}' and the other classes into a folder with the laboratory's name; "
        f"if '{above}' is a laboratory, sort its images into a folder for each class; or {_CSV}."
    )


def _too_deep(listing: Listing) -> str:
    """Say that the images may be arranged as laboratory/patient/class/image; "" if this seems unlikely.

    It is likely if a few folder names occur in most of the folders that were read as classes, and each of these
    belongs to one laboratory, as patients do. Folders of patients below a class are many, and classes are in all
    laboratories.
    """
    parts = [file.relative_to(listing.root).parts for file in listing.images]
    deep = [each for each in parts if len(each) > 3]
    if len(deep) < len(parts):
        return ""
    classes, inner = {each[:2] for each in deep}, Counter(third for _, _, third in {each[:3] for each in deep})
    shared = Counter(label for _, label in classes).most_common(1)[0][1] > 1
    everywhere = 2 * inner.total() > len(inner) * len(classes)
    if shared or not everywhere or len(inner) >= len(classes) or {name.casefold() for name in inner} <= _SPLITS:
        return ""
    names = ", ".join(map(repr, sorted(inner)[:5])) + " ..." * (len(inner) > 5)
    return (
        f"The {len(parts)} images of '{listing.root}' may be one level too deep: folders named {names} are in most of "
        f"the {len(classes)} folders that are read as classes, as in '{'/'.join(deep[0])}'. Fix: if these are the "
        f"classes, arrange the images as laboratory/class/patient/image, or {_CSV}, and group for the patient."
    )


def _one_image_a_class(listing: Listing, table: pd.DataFrame) -> str:
    """Say that each class has one image, for example because each cell has its own folder; "" otherwise."""
    if len(table) < 3 or table["label"].nunique() < len(table):
        return ""
    return (
        f"Each of the {len(table)} classes of '{listing.root}' has one image, as in "
        f"'{listing.below(Path(table['path'][0]))}'. The second folder is read as the class. "
        "Fix: if that folder is a cell or a patient, arrange the images as laboratory/class/image."
    )


def _check_folders(listing: Listing, table: pd.DataFrame) -> None:
    """Count classes without images or one level too deep; raise if a class or domain is not UTF-8."""
    taken = set(zip(table["domain"], table["label"], strict=True))
    domains, labels = set(table["domain"]), set(table["label"])
    for folder in listing.folders:
        parts = folder.relative_to(listing.root).parts
        if len(parts) == 1 and parts[0] not in domains:
            listing.lost[listing.below(folder), "laboratories without an image in a class"] += 1
        elif len(parts) == 2 and parts not in taken and parts[0] in domains:
            listing.lost[listing.below(folder), "classes without an image"] += 1
        elif len(parts) > 2 and parts[-1] in labels:
            listing.lost[listing.below(folder.parent), "folders named like a class, but taken as part of this one"] += 1
    for domain, label in taken:
        if not is_utf8(domain + label):
            name = os.fsencode(f"{domain}/{label}")
            raise ValueError(f"The folder {name!r} in '{listing.root}' has a name that is not UTF-8. Fix: rename it.")
