"""Loaders of the field's public datasets, from their original folders, with harmonised labels."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import pandas as pd

from ..cells import Cells
from ..extras import require
from ..files import replacing
from ..images.listing import list_images
from .cells import as_cells
from .download import fetch_file
from .labels import SCHEMES, harmonise_labels
from .tables import check_columns, read_table

# Each dataset's title, page, licence, citation and layout, by its name in the label maps.
_SOURCES = read_table(Path(__file__).with_name("sources.csv")).set_index("name", drop=False).to_dict("index")
_DESCRIPTION = "{title}\nSource: {page}\nLicence: {licence}\nPlease cite: {citation}"
_FIX = "Fix: download the dataset from {page}, unpack it and pass its folder (expected: {layout})."
_FIXES = {name: _FIX.format_map(source) for name, source in _SOURCES.items()}
_BLOODMNIST_MD5 = {
    28: "7053d0359d879ad8a5505303e11de1dc",
    64: "2b94928a2ae4916078ca51e05b6b800b",
    128: "adace1e0ed228fccda1f39692059dd4c",
    224: "b718ff6835fcbdb22ba9eacccd7b2601",
}

_SHARED_DOCSTRING = """

    Parameters
    ----------
    folder : path
        The unpacked dataset: {layout}.
    scheme : {{"common", "harmonised", "original"}}, default="common"
        Vocabulary of the labels: 5 shared classes, 13 shared classes, or the dataset's own class codes.{parameters}

    Returns
    -------
    Cells
        The cells, as from `load_cells`, with code : str array (n,), the dataset's own class codes; audit : DataFrame,
        the class of each code under `scheme` and the reason; DESCR : str, licence and citation.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or does not contain such images. The message says where to get the dataset.
    ValueError
        If a code is unknown or no cell is left.

    Notes
    -----
    {title}.
    Licence: {licence}. Cite: {citation}.
    """


_ANNOTATION = """
    annotation : {"first", "second", "third"} or None, default=None
        Column of the dataset's annotations.dat from which the classes are taken: the first annotation or one of two
        re-annotations. Cells without one are left out. None takes the classes from the folders."""


def _documented(name: str, parameters: str = "") -> Callable:
    """Complete a loader's docstring with the part that all loaders share and the details of its source."""

    def complete(loader: Callable) -> Callable:
        details = {**_SOURCES[name], "parameters": parameters}
        loader.__doc__ = (loader.__doc__ or "").rstrip() + _SHARED_DOCSTRING.format_map(details)
        return loader

    return complete


@_documented("acevedo-20")
def load_acevedo20(folder: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load Acevedo-20 (the PBC dataset), with the finer class from the prefix of the file name."""
    return _load("acevedo-20", folder, scheme, lambda path: path.stem.split("_")[0])


@_documented("matek-19", _ANNOTATION)
def load_matek19(folder: str | os.PathLike, *, scheme: str = "common", annotation: str | None = None) -> Cells:
    """Load Matek-19 (AML-Cytomorphology_LMU)."""
    if annotation is None:
        return _load("matek-19", folder, scheme)
    columns = ["first", "second", "third"]
    if annotation not in columns:
        fix = "Fix: annotation=None, or pass one of these."
        raise ValueError(f"Got annotation={annotation!r} but expected one of {', '.join(columns)} or None. {fix}")
    files = sorted(Path(folder).rglob("annotations.dat"))
    if not files:
        raise FileNotFoundError(f"'{folder}' contains no annotations.dat. {_FIXES['matek-19']}")
    table = pd.read_csv(files[0], sep=r"\s+", header=None, names=["path", *columns], index_col="path", dtype=str)
    codes = table[annotation].dropna().to_dict()
    return _load("matek-19", folder, scheme, lambda path: codes.get(f"{path.parent.name}/{path.name}", ""))


@_documented("mll23")
def load_mll23(folder: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load MLL23."""
    return _load("mll23", folder, scheme)


@_documented("bccd")
def load_bccd(folder: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load BCCD in its version sorted by cell type."""
    return _load("bccd", folder, scheme)


@_documented("raabin-wbc")
def load_raabin(folder: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load the cropped cells of Raabin-WBC."""
    return _load("raabin-wbc", folder, scheme)


@_documented("lisc")
def load_lisc(folder: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load LISC's images by class, without its ground truth of whole fields."""

    def code_of(path: Path) -> str:
        return "" if "expert" in str(path.relative_to(folder)).casefold() else path.parent.name

    return _load("lisc", folder, scheme, code_of)


@_documented("zheng-18")
def load_zheng18(folder: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load Zheng's two sets with masks, as the laboratories "tecom" and "cellavision"."""
    rows = []
    for number, domain in ((1, "tecom"), (2, "cellavision")):
        for csv in sorted(Path(folder).rglob(f"Class Labels of Dataset {number}.csv"))[:1]:
            for image_id, code in pd.read_csv(csv).iloc[:, :2].dropna().astype(int).to_numpy().tolist():
                path = csv.parent / f"Dataset {number}" / f"{image_id:03d}.bmp"
                if not path.is_file():
                    problem = f"'{csv}' names image {image_id}, but '{path}' is missing."
                    raise FileNotFoundError(f"{problem} {_FIXES['zheng-18']}")
                mask = path.with_suffix(".png")
                rows.append((str(path), domain, str(code), str(mask) if mask.is_file() else ""))
    return _harmonised("zheng-18", rows, folder, scheme)


def fetch_zheng18(
    data_folder: str | os.PathLike | None = None, *, scheme: str = "common", digest: str | None = None,
    url: str = "https://github.com/zxaoyou/segmentation_WBC/archive/HEAD.zip", verbose: int = 1,
) -> Cells:  # fmt: skip
    """Download Zheng's two sets and load them.

    Parameters
    ----------
    data_folder : path, optional
        Folder for the download, as in `data_home`.
    scheme : {"common", "harmonised", "original"}, default="common"
        Vocabulary of the labels, as in `load_zheng18`.
    digest : str, optional
        Digest of the archive, as in `fetch_file`. Its authors do not publish one.
    url : str, optional
        Address of the archive or of a mirror. By default, it is the authors' archive.
    verbose : int, default=1
        If above 0, show a progress bar.

    Returns
    -------
    Cells
        The cells, as from `load_zheng18`.

    Raises
    ------
    OSError, ValueError
        As in `fetch_file`.
    """
    archive = fetch_file(url, digest, name="zheng18.zip", folder=data_folder, verbose=verbose)
    return load_zheng18(_unpack(archive), scheme=scheme)


def fetch_bloodmnist(
    data_folder: str | os.PathLike | None = None, *, image_size: int = 224, scheme: str = "common",
    url: str | None = None, verbose: int = 1,
) -> Cells:  # fmt: skip
    """Download BloodMNIST and load it.

    Its images are scaled-down images of Acevedo-20, so it is not a separate laboratory.

    Parameters
    ----------
    data_folder : path, optional
        Folder for the download, as in `data_home`.
    image_size : {28, 64, 128, 224}, default=224
        Side of the images in pixels.
    scheme : {"common", "harmonised", "original"}, default="common"
        Vocabulary of the labels, as in `load_acevedo20`.
    url : str, optional
        Address of a mirror.
    verbose : int, default=1
        If above 0, show a progress bar.

    Returns
    -------
    Cells
        The cells, as from `read_bloodmnist`.

    Raises
    ------
    OSError, ValueError
        If `image_size` is not one of these sizes, or as in `fetch_file`.
    """
    if image_size not in _BLOODMNIST_MD5:
        known = ", ".join(map(str, _BLOODMNIST_MD5))
        raise ValueError(f"Got image_size={image_size!r} but expected one of {known}. Fix: image_size=224.")
    name = "bloodmnist.npz" if image_size == 28 else f"bloodmnist_{image_size}.npz"
    url = url or f"https://zenodo.org/records/10519652/files/{name}?download=1"
    file = fetch_file(url, f"md5:{_BLOODMNIST_MD5[image_size]}", name=name, folder=data_folder, verbose=verbose)
    return read_bloodmnist(file, scheme=scheme)


def read_bloodmnist(file: str | os.PathLike, *, scheme: str = "common") -> Cells:
    """Load a BloodMNIST file from disk.

    Parameters
    ----------
    file : path
        BloodMNIST file (.npz) of any image size: 28, 64, 128 or 224 px.
    scheme : {"common", "harmonised", "original"}, default="common"
        Vocabulary of the labels, as in `load_acevedo20`.

    Returns
    -------
    Cells
        The cells, with images : uint8 array (n, S, S, 3), where S is the image size in pixels; split : str array (n,)
        of "train", "val" and "test"; and target, target_names, domain ("acevedo-20"), code, audit and DESCR, as from
        `load_acevedo20`.

    Raises
    ------
    ValueError
        If the file is not a BloodMNIST file.
    """
    splits = ("train", "val", "test")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images = np.concatenate([arrays[f"{split}_images"] for split in splits])
            labels = [arrays[f"{split}_labels"].ravel() for split in splits]
    except (ValueError, LookupError, BadZipFile, AttributeError, TypeError) as exc:
        raise ValueError(f"'{file}' is not a BloodMNIST file: {exc}. Fix: call fetch_bloodmnist.") from exc
    split = np.repeat(splits, [len(part) for part in labels])
    rows = [(row, "acevedo-20", str(code), "") for row, code in enumerate(np.concatenate(labels))]
    cells = _harmonised("bloodmnist", rows, file, scheme)
    kept = np.asarray(cells.pop("paths"))
    return Cells(images=images[kept], split=split[kept], **cells)


def load_image_dataset(
    dataset: Any, *, domain: str, image: str = "image", label: str = "label", classes: list[str] | None = None
) -> Cells:
    """Load a Hugging Face image dataset.

    Parameters
    ----------
    dataset : datasets.Dataset, or path
        One split, or a folder that `datasets` reads as an image folder (label/image), with its split "train".
    domain : str
        Laboratory from which the dataset comes.
    image : str, default="image"
        Name of the column of images.
    label : str, default="label"
        Name of the column of labels.
    classes : list of str, optional
        Labels to keep. By default, all are kept.

    Returns
    -------
    Cells
        The cells, with images : list of PIL images; target, target_names, domain and dropped as from `load_cells`.

    Raises
    ------
    ImportError
        If `dataset` is a path and ``datasets`` is not installed.
    TypeError
        If `dataset` is neither a Hugging Face dataset nor a path.
    ValueError
        If a column is missing or no cell is left.
    """
    if isinstance(dataset, str | os.PathLike):
        library = require("datasets", extra="huggingface", purpose="Image folders need datasets")
        dataset = library.load_dataset("imagefolder", data_dir=os.fspath(dataset), split="train")
    if not hasattr(dataset, "column_names"):
        fix = "Fix: pass datasets.load_dataset(..., split=...), or the path of an image folder."
        raise TypeError(f"Got dataset of type {type(dataset).__name__} but expected a Hugging Face dataset. {fix}")
    source = f"dataset of {domain}"
    check_columns(dataset.column_names, [image, label], source, "pass image= and label=.")
    names = getattr(dataset.features[label], "names", None)
    codes = list(dataset[label])
    for row, code in enumerate(codes):
        if pd.isna(code) or (names and code < 0):  # the library's -1 for a missing label would be the last name
            raise ValueError(f"'{source}' row {row}: {label} is missing. Fix: fill it in or leave the row out.")
    labels = pd.Series([names[code] if names else str(code) for code in codes], dtype=str)
    table = pd.DataFrame({"path": np.arange(len(labels)), "domain": domain, "label": labels, "mask": ""})
    cells = as_cells(table, classes, source)
    return Cells(images=[dataset[row][image] for row in cells.pop("paths")], **cells)


def _load(
    name: str, folder: str | os.PathLike, scheme: str, code_of: Callable[[Path], str] = lambda path: path.parent.name
) -> Cells:
    """Load the images below a folder; `code_of` returns an image's code from its path, or "" to leave it out."""
    rows = [(str(path), name, code, "") for path in list_images(folder) if (code := code_of(path))]
    return _harmonised(name, rows, folder, scheme)


def _harmonised(name: str, rows: list[tuple], folder: str | os.PathLike, scheme: str) -> Cells:
    """Convert rows of path, domain, code and mask into cells with the labels of a scheme."""
    if scheme not in (*SCHEMES, "original"):
        known = ", ".join(SCHEMES)
        raise ValueError(f"Got scheme={scheme!r} but expected one of {known} or original. Fix: pass one of these.")
    if not rows:
        raise FileNotFoundError(f"'{folder}' contains no images of {_SOURCES[name]['title']}. {_FIXES[name]}")
    table = pd.DataFrame(rows, columns=["path", "domain", "code", "mask"])
    codes = table["code"].tolist()
    try:
        found = harmonise_labels(codes, name, scheme="common" if scheme == "original" else scheme)
    except ValueError as exc:
        raise ValueError(f"{table['path'].iloc[0]} and others below '{folder}': {exc}") from exc
    if scheme == "original":
        found.label, found.kept = np.asarray(codes), np.ones(len(codes), bool)
        found.audit = found.audit.assign(label=found.audit["code"], note="")
    classes = None if scheme == "original" else [label for label in SCHEMES[scheme] if label in found.label]
    cells = as_cells(table.assign(label=found.label), classes, folder)
    gone = found.audit[(found.audit["label"] == "") & (found.audit["n"] > 0)]
    cells.dropped = gone.set_index("code")["n"].to_dict()
    description = _DESCRIPTION.format_map(_SOURCES[name])
    return Cells(**cells, code=table["code"].to_numpy(str)[found.kept], audit=found.audit, DESCR=description)


def _unpack(archive: Path) -> Path:
    """Unpack a zip into its own folder, whole or not at all; refuse names that lead out of the folder."""
    folder = archive.with_suffix("")
    if folder.is_dir():
        return folder
    with replacing(folder) as draft, ZipFile(archive) as zipped:
        for member in zipped.namelist():
            if not (draft / member).resolve().is_relative_to(draft.resolve()):
                raise ValueError(f"'{archive}' contains '{member}', which leads out of its folder. Fix: do not use it.")
        zipped.extractall(draft)
    return folder
