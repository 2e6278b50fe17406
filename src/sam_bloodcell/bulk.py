"""Embedding of any number of images into one file, with near-constant memory; it resumes if interrupted."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .datasets.folders import domains_and_labels
from .datasets.tables import read_table
from .embedding.base import CellEmbedder
from .embedding.once import embed_once
from .embedding.store import EmbeddingStore
from .exceptions import ImageReadError, warn_caller
from .extras import require, tqdm
from .files import (
    allocate,
    as_path,
    how_to_find,
    is_utf8,
    make_folder,
    remove,
    replacing,
    unwritable,
    write_text,
)
from .images.listing import IMAGE_SUFFIXES, Listing, describe
from .images.reading import read_file
from .segmentation.cell import QUALITY

# Rows in memory at once. Only a few are embedded at a time, because data kept between forward passes fills the heap.
_EMBEDDED_AT_ONCE = 1024
_WRITTEN_AT_ONCE = 8192
# Suffixes of tables that are not read.
_OTHER_TABLES = frozenset({".feather", ".json", ".ods", ".parquet", ".tab", ".txt", ".xls", ".xlsm", ".xlsx"})
# Column names that a file uses itself.
_OWN_COLUMNS = {"embeddings", "features", "made_by", *(f"quality_{name}" for name in QUALITY.names or ())}


def find_images(
    sources: str | os.PathLike | Iterable[str | os.PathLike], *, root: str | os.PathLike | None = None
) -> pd.DataFrame:
    """List images in files, folders and tables.

    Parameters
    ----------
    sources : path or iterable of paths
        Image files, folders and tables. Folders are searched with all sub-folders, except for masks (names that end in
        "_mask") and hidden or system files. A warning names other files that look like data but were not read. Tables,
        ``.csv`` or ``.tsv``, have a column "path" (relative to the table). Their other columns are kept as text.
    root : path, optional
        Folder that must contain all paths of a table (default: the table's folder).

    Returns
    -------
    pandas.DataFrame
        The column "path" and the columns of the tables. Images of folders are in the order of their names. If all
        images of a folder are arranged as laboratory/class/image, as for `datasets.load_cells`, there are also columns
        "domain" and "label".

    Raises
    ------
    ValueError
        If there are no sources, a source does not exist or contains no image, a table has no column "path", or a path
        leads out of `root`.
    """
    table, listings = list_sources(sources, root=root)
    for listing in listings:
        listing.warn()
    return table


def list_sources(
    sources: str | os.PathLike | Iterable[str | os.PathLike], *, root: str | os.PathLike | None = None
) -> tuple[pd.DataFrame, list[Listing]]:
    """List images as `find_images` does, without its warnings, and also return the contents of each folder."""
    found = [_list(source, root) for source in _as_paths(sources)]
    return pd.concat([table for table, _ in found], ignore_index=True), [held for _, held in found if held is not None]


def describe_source(listing: Listing) -> str:
    """Say how many images a folder holds, and whether their laboratories and classes were read from their folders."""
    found, columns = f"{listing.root}: {len(listing.images)} images", domains_and_labels(listing)
    if columns is None:
        return f"{found}, not all in folders of laboratory/class, so there are no columns domain and label"
    domains, labels = columns.nunique()
    return f"{found} in laboratory/class: columns domain ({domains}) and label ({labels})"


def check_not_a_source(out: str | os.PathLike, sources: Iterable[str | os.PathLike]) -> None:
    """Raise if a file to write is one of the sources, because the table of the images would be lost."""
    for source in sources:
        if Path(out).exists() and Path(source).exists() and Path(out).samefile(source):
            raise ValueError(f"Got '{out}' as input and output. Fix: write to another file.")


def _as_paths(sources: Any) -> list[Path]:
    if isinstance(sources, str | bytes | os.PathLike):
        sources = [sources]
    if not hasattr(sources, "__iter__"):
        raise TypeError(f"Got sources={sources!r} but expected a path or an iterable of paths. Fix: pass a list.")
    sources = list(sources)
    paths = [as_path(source, "sources") for source in sources]
    if not paths or "" in sources:
        raise ValueError("Got no sources but expected at least one. Fix: name image files, folders or tables.")
    return paths


def _list(source: Path, root: str | os.PathLike | None) -> tuple[pd.DataFrame, Listing | None]:
    if not source.exists():
        fix = f"Fix: check the path and the working folder.{how_to_find(source)}"
        raise ValueError(f"'{source}' does not exist. {fix}")
    if source.is_dir():
        listing = Listing(source)
        if not listing.images:
            found = f" It contains: {describe(listing.account())}." if listing.account() else ""
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"'{source}' contains no image ({suffixes}). Fix: check the folder.{found}")
        paths = pd.DataFrame({"path": [str(path) for path in listing.images]})
        return pd.concat([paths, domains_and_labels(listing)], axis=1), listing
    suffix = source.suffix.casefold()
    if suffix in _OTHER_TABLES:
        raise ValueError(
            f"'{source}' is not an image. Fix: if it is a table, save it as .csv with commas, or .tsv with tabs."
        )
    if suffix in (".csv", ".tsv"):
        return read_table(source, ["path"], root=root), None
    return pd.DataFrame({"path": [str(source)]}), None


def embed_to_file(
    embedder: CellEmbedder, images: pd.DataFrame | Iterable[str | os.PathLike], out: str | os.PathLike, *,
    on_error: str = "raise", overwrite: bool = False,
) -> Path:  # fmt: skip
    """Embed images into one file, with a row per image in their order.

    Embeddings are kept in the embedder's `cache_dir` or, without one, in a folder next to the file (its name with
    ".unfinished") until the file is complete. If the run is interrupted at any moment, the same call resumes it,
    repeats at most one batch per worker, and writes the same bytes on the same machine. The embedder's `verbose`,
    `batch_size` and `n_jobs` control progress bars, speed and the number of processes.

    Parameters
    ----------
    embedder : fitted SAMLoRAEmbedder, ViTEmbedder or FunctionEmbedder
        Embedder of the images.
    images : iterable of paths, or DataFrame with a column "path"
        Images to embed. Other columns are written to the file; missing values are "" in ``.csv`` and ``.npz``.
    out : path
        File to write: ``.parquet`` or ``.csv``, a table with one column per feature; ``.h5ad``, AnnData with the
        columns in ``obs``; or ``.npz``, arrays. All include the quality of the masks.
    on_error : {"raise", "skip"}, default="raise"
        What to do with unreadable images. "skip" leaves them out and lists them, with their rows, in a CSV next to the
        file.
    overwrite : bool, default=False
        Whether to replace an existing file.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    ValueError
        If the suffix is none of the four, a path is missing, a column does not fit into the format or has a name of
        the file's own columns, or no image is left.
    ImportError
        If the library for the format is not installed.
    ImageReadError
        If an image cannot be read and on_error="raise"; it names the row and the file.
    """
    out = as_path(out, "out")
    write = _writer_of(out)
    check_is_fitted(embedder)
    if on_error not in ("raise", "skip"):
        fix = "Fix: on_error='skip' leaves unreadable images out."
        raise ValueError(f"Got on_error={on_error!r} but expected 'raise' or 'skip'. {fix}")
    if out.is_dir():
        raise IsADirectoryError(f"'{out}' is a folder. Fix: name a file in it, or another.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"'{out}' exists. Fix: overwrite=True, or another name.")
    table = _as_table(images)
    if on_error == "raise":
        _check_there(table["path"])
    make_folder(out.parent)
    work = make_folder(out.with_name(out.name + ".unfinished"))
    store = EmbeddingStore(embedder.cache_dir or work, embedder.cache_limit)
    failed: dict[int, str] = {}
    names = list(embedder.get_feature_names_out())
    try:
        _check_names(table, {*_OWN_COLUMNS, *names})
        _try_format(write, table, work / out.name)
        if not out.exists():  # a list of an earlier run whose file is gone would look like that of this run
            _list_failures(out, table, {})
        pooled, quality = _embed(embedder, table["path"].tolist(), store, work, failed if on_error == "skip" else None)
    except BaseException:
        if embedder.cache_dir is not None or not store.nbytes:
            remove(work)  # nothing in it is needed to resume
        raise
    rows = np.setdiff1d(np.arange(len(table)), list(failed))
    whole = pd.concat([table.iloc[rows].reset_index(drop=True), quality], axis=1)
    with replacing(out) as draft:
        write(draft, whole, pooled, names, embedder.encoder_.recipe.describe())
        _list_failures(out, table, failed)  # before the file is moved into place, the last step that can fail
    del pooled
    try:
        remove(work)
    except OSError as exc:  # a network file system or a virus scanner may lock a file in it
        found = f"'{out}' is complete, but '{work}' could not be deleted: {exc.strerror}."
        warn_caller(f"{found} Fix: delete it.")
    return out


def _as_table(images: Any) -> pd.DataFrame:
    if isinstance(images, str | bytes | os.PathLike):
        raise TypeError(f"Got images={images!r} but expected a list of paths. Fix: find_images({str(images)!r}).")
    if isinstance(images, Mapping) or not hasattr(images, "__iter__"):
        fix = "Fix: pass their paths, as load_cells(...).paths, or a pandas DataFrame."
        raise TypeError(f"Got images of type {type(images).__name__} but expected an iterable of paths. {fix}")
    table = images
    if not isinstance(images, pd.DataFrame):
        table = pd.DataFrame({"path": pd.Series(list(images), dtype=object)})
    if "path" not in table.columns or not len(table):
        found = f"{len(table)} images and the columns {list(table.columns)}"
        raise ValueError(f"Got {found} but expected images in 'path'. Fix: pass their paths.")
    if not table.columns.is_unique:
        twice = ", ".join(sorted(set(map(str, table.columns[table.columns.duplicated()]))))
        raise ValueError(f"Got the column(s) {twice} twice. Fix: rename or remove one of them.")
    return table.reset_index(drop=True).assign(path=[_as_text(path, row) for row, path in enumerate(table["path"])])


def _as_text(path: Any, row: int) -> str:
    if isinstance(path, str | bytes | os.PathLike) and path:
        return os.fsdecode(path)
    if pd.api.types.is_scalar(path) and (not path if isinstance(path, str | bytes) else pd.isna(path)):
        raise ValueError(f"Row {row}: the path is missing. Fix: fill it in or leave the row out.")
    raise TypeError(f"Row {row}: Got a {type(path).__name__} but expected a path. Fix: save the image as a file.")


def _check_there(paths: Iterable[str]) -> None:
    """Raise for the first path that does not exist, before hours of work on the paths before it."""
    for row, path in enumerate(paths):
        if not Path(path).exists():
            if how := how_to_find(path):
                raise ImageReadError(f"Row {row}: '{path}' does not exist. Fix:{how}")
            read_file(path, row)  # raises an error that says why


def _check_names(table: pd.DataFrame, own: set[str]) -> None:
    taken = sorted(own.intersection(map(str, table.columns)))
    if taken:
        shown = ", ".join(taken[:5]) + " ..." * (len(taken) > 5)
        raise ValueError(f"Got the column(s) {shown}, whose names the file uses itself. Fix: rename them.")


def _embed(
    embedder: CellEmbedder, paths: list[str], store: EmbeddingStore, work: Path, failed: dict[int, str] | None
) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Embed the readable images, and return memory-mapped embeddings and the quality of the masks."""
    encoder = replace(embedder.encoder_, keep=())
    shape = (len(paths), embedder.n_features_out_)
    pooled = np.lib.format.open_memmap(work / "pooled.npy", "w+", np.float32, shape)
    allocate(work / "pooled.npy")
    quality: list[NDArray] = []
    done = 0
    with tqdm(total=len(paths), desc="embedding", unit="cell", disable=embedder.verbose < 1) as bar:
        for rows in _slices(len(paths), _EMBEDDED_AT_ONCE):
            unreadable: dict[int, str] | None = None if failed is None else {}
            cells = embed_once(encoder, paths[rows], store, bar=bar, unreadable=unreadable, first_row=rows.start)
            if failed is not None and unreadable:
                failed.update({rows.start + row: reason for row, reason in unreadable.items()})
                cells = cells[[row for row in range(len(cells)) if row not in unreadable]]
            pooled[done : done + len(cells)] = cells.pooled
            quality.append(cells.quality)
            done += len(cells)
    if not done:
        raise ValueError("None of the images could be read. Fix: see why with on_error='raise'.")
    return pooled[:done], pd.DataFrame(np.concatenate(quality)).add_prefix("quality_")


def _list_failures(out: Path, table: pd.DataFrame, failed: dict[int, str]) -> None:
    """Write a list of unreadable images next to the file, in place of that of an earlier run."""
    errors = out.with_name(out.name + ".errors.csv")
    errors.unlink(missing_ok=True)
    if failed:
        rows = sorted(failed)
        listed = {"row": rows, "path": table["path"].iloc[rows], "error": [failed[row] for row in rows]}
        write_text(errors, pd.DataFrame(listed).to_csv(index=False))


_Writer = Callable[[Path, pd.DataFrame, NDArray, list[str], dict[str, Any]], None]


def _writer_of(out: Path) -> _Writer:
    writers: dict[str, _Writer] = {
        ".parquet": _write_parquet, ".csv": _write_csv, ".h5ad": _write_h5ad, ".npz": _write_npz,
    }  # fmt: skip
    if out.suffix not in writers:
        fix = f"Fix: write to {out.stem or 'cells'}.parquet."
        raise ValueError(f"Got '{out}' but expected a name that ends in {', '.join(writers)}. {fix}")
    if out.suffix == ".h5ad":
        require("anndata", extra="anndata", purpose="Writing .h5ad needs anndata")
    return writers[out.suffix]


def _try_format(write: _Writer, table: pd.DataFrame, path: Path) -> None:
    """Write the table without embeddings first, to find values that the format cannot store before hours of work."""
    other = [row for row, image in enumerate(table["path"]) if path.suffix != ".npz" and not is_utf8(image)]
    if other:
        image = os.fsencode(table["path"].iloc[other[0]])
        fix = f"Fix: rename {len(other)} such file(s) or their folders, or write to .npz."
        raise ValueError(f"Row {other[0]}: the path {image!r} is not UTF-8, which {path.suffix} must be. {fix}")
    try:
        write(path, table, np.zeros((len(table), 1), np.float32), ["feature"], {})  # older AnnData warns without one
    except OSError as exc:
        raise unwritable(path, exc) from exc
    except Exception as exc:
        raise ValueError(
            f"A column of the table does not fit into {path.suffix}: {exc!s:.300}. Fix: convert its values to one "
            "type, such as text, or leave it out."
        ) from exc
    finally:
        remove(path)


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _write_parquet(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], made_by: dict[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    given = pa.Table.from_pandas(table, preserve_index=False)
    schema = given.schema
    for name in names:
        schema = schema.append(pa.field(name, pa.float32()))
    schema = schema.with_metadata((schema.metadata or {}) | {b"sam_bloodcell": json.dumps(made_by).encode()})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in _slices(len(table), _WRITTEN_AT_ONCE):
            part = given.slice(rows.start, rows.stop - rows.start)
            features = [pa.array(column) for column in np.ascontiguousarray(pooled[rows].T)]
            writer.write_table(pa.table([*part.columns, *features], schema=schema))


def _write_csv(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], made_by: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for rows in _slices(len(table), _WRITTEN_AT_ONCE):
            features = pd.DataFrame(pooled[rows], columns=names, index=table.index[rows])
            part = pd.concat([table.iloc[rows], features], axis=1)
            part.to_csv(file, index=False, header=rows.start == 0)  # floats with enough digits to be exact


def _write_h5ad(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], made_by: dict[str, Any]) -> None:
    from anndata import AnnData

    # AnnData would choose by the values whether text becomes a category, and cannot write other text with gaps.
    obs = table.apply(lambda column: column.astype("category") if _is_text(column) else column)
    obs = obs.set_index(pd.RangeIndex(len(table)).astype(str))
    values = pooled.view(np.ndarray)  # still memory-mapped; h5py writes it in pieces
    AnnData(values, obs=obs, var=pd.DataFrame(index=names), uns={"sam_bloodcell": json.dumps(made_by)}).write_h5ad(path)


def _write_npz(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], made_by: dict[str, Any]) -> None:
    arrays = {str(name): _as_numbers_or_text(column) for name, column in table.items()}
    arrays |= {"embeddings": pooled, "features": np.array(names, dtype=str), "made_by": np.array(json.dumps(made_by))}
    with ZipFile(path, "w") as archive:  # numpy.savez takes no array called "file"
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _as_numbers_or_text(column: pd.Series) -> NDArray:
    if column.dtype.kind in "biuf":
        values = column.to_numpy()  # pandas' integers with gaps become floats
        if values.dtype.kind == "f" and column.dtype.kind in "iu" and (column.dropna().abs() > 2**53).any():
            raise ValueError(f"'{column.name}' has gaps and integers that are too large for floats")
        return values
    # Gaps are "", as in a CSV, because "None" or "nan" would be ordinary text.
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=str)


def _is_text(column: pd.Series) -> bool:
    return column.dtype == object and all(isinstance(value, str) for value in column[column.notna()])
