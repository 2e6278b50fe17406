"""Any number of images embedded into one table file, with near-constant memory; an interrupted run resumes."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .datasets.tables import read_table
from .embedding.embedder import SAMLoRAEmbedder
from .embedding.once import embed_once
from .embedding.store import EmbeddingStore
from .extras import require, tqdm
from .files import allocate, make_folder, remove, replacing, unwritable, write_text
from .images.listing import IMAGE_SUFFIXES, list_images
from .segmentation.cell import QUALITY

# Rows in memory at once. Few are embedded at a time, because the heap grows with what is kept between forward passes.
_EMBEDDED_AT_ONCE = 1024
_WRITTEN_AT_ONCE = 8192
# Names that a file uses itself.
_OWN_COLUMNS = {"embeddings", "features", "made_by", *(f"quality_{name}" for name in QUALITY.names or ())}


def find_images(
    sources: str | os.PathLike | Sequence[str | os.PathLike], *, root: str | os.PathLike | None = None
) -> pd.DataFrame:
    """List images.

    Parameters
    ----------
    sources : path or sequence of paths
        Image files; folders, searched with all their sub-folders but for masks (names that end in "_mask"); ``.csv``
        tables with a column "path" (relative to the table), whose other columns are kept as text.
    root : path, optional
        Folder that the paths of a table may not leave; default the table's own.

    Returns
    -------
    table : DataFrame
        Column "path" and those of the tables; folders in the order of their names.

    Raises
    ------
    ValueError
        If there is no source, one does not exist or holds no image, a table has no column "path", or a path leads out
        of `root`.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if not list(sources):
        raise ValueError("Got no sources but expected at least one. Fix: name image files, folders or tables.")
    return pd.concat([_list(Path(source), root) for source in sources], ignore_index=True)


def _list(source: Path, root: str | os.PathLike | None) -> pd.DataFrame:
    if not source.exists():
        raise ValueError(f"'{source}' does not exist. Fix: check the path and the working folder.")
    if source.is_dir():
        paths = list_images(source)
        if not paths:
            raise ValueError(f"'{source}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}). Fix: check the folder.")
        return pd.DataFrame({"path": [str(path) for path in paths]})
    if source.suffix.lower() in (".csv", ".tsv"):
        return read_table(source, ["path"], root=root)
    return pd.DataFrame({"path": [str(source)]})


def embed_to_file(
    embedder: SAMLoRAEmbedder, images: pd.DataFrame | Sequence[str | os.PathLike], out: str | os.PathLike, *,
    on_error: str = "raise", overwrite: bool = False,
) -> Path:  # fmt: skip
    """Embed images into one file, row by row in their order.

    Embeddings are kept in the embedder's `cache_dir`, or without one in a folder beside the file (its name with
    ".unfinished") until the file is whole. If the run is interrupted at any moment, the same call resumes it, repeats
    one batch per worker at most, and on the same machine writes the same bytes. Progress bar, speed and spread over
    processes are the embedder's `verbose`, `batch_size` and `n_jobs`.

    Parameters
    ----------
    embedder : fitted SAMLoRAEmbedder
    images : sequence of paths, or DataFrame with a column "path"
        Its other columns are carried over.
    out : path
        ``.parquet`` or ``.csv``: a table with one column per feature; ``.h5ad``: AnnData, the columns in ``obs``;
        ``.npz``: arrays. All hold the mask's quality too.
    on_error : {"raise", "skip"}, default="raise"
        "skip" leaves unreadable images out and lists them, with their rows, in a CSV beside the file.
    overwrite : bool
        Replace the file if there is one.

    Returns
    -------
    out : Path

    Raises
    ------
    FileExistsError
        If the file exists and is not to be replaced.
    ValueError
        If the suffix is none of the four, a column does not fit into the format, or no image is left.
    ImportError
        If the library for the format is not installed.
    ImageReadError
        If an image cannot be read and on_error="raise"; it names the row and the file.
    """
    out = Path(out)
    write = _writer_of(out)
    check_is_fitted(embedder)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"Got on_error={on_error!r} but expected 'raise' or 'skip'.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"'{out}' exists. Fix: overwrite=True (--overwrite), or another name.")
    table = _as_table(images)
    make_folder(out.parent)
    work = make_folder(out.with_name(out.name + ".unfinished"))
    store = EmbeddingStore(embedder.cache_dir or work, embedder.cache_limit)
    failed: dict[int, str] = {}
    try:
        _try_format(write, table, work / out.name)
        pooled, quality = _embed(embedder, table["path"].tolist(), store, work, failed if on_error == "skip" else None)
    except BaseException:
        if embedder.cache_dir is not None or not store.nbytes:
            remove(work)  # nothing in it is needed to resume
        raise
    rows = np.setdiff1d(np.arange(len(table)), list(failed))
    whole = pd.concat([table.iloc[rows].reset_index(drop=True), quality], axis=1)
    with replacing(out) as draft:
        write(draft, whole, pooled, list(embedder.get_feature_names_out()), embedder.encoder_.recipe.describe())
    _list_failures(out, table, failed)
    del pooled
    remove(work)
    return out


def _as_table(images: pd.DataFrame | Sequence[str | os.PathLike]) -> pd.DataFrame:
    if isinstance(images, str | os.PathLike):
        raise TypeError(f"Got images={images!r} but expected a list of paths. Fix: find_images({str(images)!r}).")
    table = images if isinstance(images, pd.DataFrame) else pd.DataFrame({"path": [os.fspath(path) for path in images]})
    if "path" not in table.columns or not len(table):
        raise ValueError(f"Got {len(table)} images, columns {list(table.columns)}, but expected some in 'path'.")
    return table.reset_index(drop=True)


def _embed(
    embedder: SAMLoRAEmbedder, paths: list[str], store: EmbeddingStore, work: Path, failed: dict[int, str] | None
) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Embed the images that can be read: their embeddings, memory-mapped, and the quality of their masks."""
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
    """Write what could not be read beside the file; the list of an earlier run goes."""
    errors = out.with_name(out.name + ".errors.csv")
    errors.unlink(missing_ok=True)
    if failed:
        rows = sorted(failed)
        listed = {"row": rows, "path": table["path"].iloc[rows], "error": [failed[row] for row in rows]}
        write_text(errors, pd.DataFrame(listed).to_csv(index=False))


_Writer = Callable[[Path, pd.DataFrame, NDArray, list[str], dict[str, Any]], None]


def _writer_of(out: Path) -> _Writer:
    writers: dict[str, tuple[_Writer, str, str]] = {
        ".parquet": (_write_parquet, "pyarrow", "bulk"),
        ".csv": (_write_csv, "", ""),
        ".h5ad": (_write_h5ad, "anndata", "anndata"),
        ".npz": (_write_npz, "", ""),
    }
    if out.suffix not in writers:
        raise ValueError(f"Got '{out}' but expected a name that ends in {', '.join(writers)}.")
    write, library, extra = writers[out.suffix]
    if library:
        require(library, extra=extra, purpose=f"Writing {out.suffix} needs {library}")
    return write


def _try_format(write: _Writer, table: pd.DataFrame, path: Path) -> None:
    """Write the table without embeddings first: what the format cannot hold is found before hours of work."""
    taken = [name for name in map(str, table.columns) if name in _OWN_COLUMNS or not table.columns.is_unique]
    if taken:
        raise ValueError(f"Got the column(s) {', '.join(taken)}, which are names of our own. Fix: rename them.")
    try:
        write(path, table, np.zeros((len(table), 1), np.float32), ["feature"], {})  # older AnnData warns of no feature
    except OSError as exc:
        raise unwritable(path, exc) from exc
    except Exception as exc:
        raise ValueError(
            f"A column of the table does not fit into {path.suffix}: {exc!s:.300}. Fix: make its values of one type, "
            "such as text, or leave it out."
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
            part.to_csv(file, index=False, header=rows.start == 0, float_format="%.9g")


def _write_h5ad(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], made_by: dict[str, Any]) -> None:
    from anndata import AnnData

    obs = table.set_index(pd.RangeIndex(len(table)).astype(str))
    values = pooled.view(np.ndarray)  # still memory-mapped; h5py writes it piece by piece
    AnnData(values, obs=obs, var=pd.DataFrame(index=names), uns={"sam_bloodcell": json.dumps(made_by)}).write_h5ad(path)


def _write_npz(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], made_by: dict[str, Any]) -> None:
    arrays = {str(name): _as_numbers_or_text(column) for name, column in table.items()}
    arrays |= {"embeddings": pooled, "features": np.array(names, dtype=str), "made_by": np.array(json.dumps(made_by))}
    with ZipFile(path, "w") as archive:  # numpy.savez takes no array called "file"
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _as_numbers_or_text(column: pd.Series) -> NDArray:
    return column.to_numpy() if column.dtype.kind in "biuf" else column.astype(str).to_numpy(dtype=str)
