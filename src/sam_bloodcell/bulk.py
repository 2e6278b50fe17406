"""Any number of images into one file, with flat memory, going on after a kill where it was."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .embedding import forward
from .embedding.embedder import SAMLoRAEmbedder
from .embedding.embeddings import CellEmbeddings
from .files import allocate, make_folder, paths_beside, remove, unwritable, write_text
from .segmentation.cell import QUALITY

# What the folders given to `find_images` are searched for.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What has become of a row.
_WAITING, _DONE, _UNREADABLE = range(3)
# Rows held in memory at once while writing the file.
_ROWS_AT_ONCE = 8192


def find_images(
    sources: str | os.PathLike | Sequence[str | os.PathLike], *, root: str | os.PathLike | None = None
) -> pd.DataFrame:
    """List images.

    Parameters
    ----------
    sources : path or sequence of paths
        Image files; folders, searched with all their sub-folders but for masks (names that end in "_mask"); ``.csv``
        tables with a column "path" (relative to the table), whose other columns are kept.
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

    Examples
    --------
    >>> find_images(["no such folder"])
    Traceback (most recent call last):
        ...
    ValueError: 'no such folder' does not exist. Fix: check the path and the working folder.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if not list(sources):
        raise ValueError("Got no sources but expected at least one. Fix: name image files, folders or tables.")
    tables = [_list(Path(source), root) for source in sources]
    return pd.concat(tables, ignore_index=True)


def _list(source: Path, root: str | os.PathLike | None) -> pd.DataFrame:
    if source.suffix == ".csv" and source.is_file():
        table = pd.read_csv(source)
        if "path" not in table.columns:
            raise ValueError(f"'{source}' has no column 'path' but {list(table.columns)}. Fix: name the column 'path'.")
        return table.assign(path=paths_beside(source, table["path"], root))
    if not source.exists():
        raise ValueError(f"'{source}' does not exist. Fix: check the path and the working folder.")
    if source.is_file():
        return pd.DataFrame({"path": [str(source)]})
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [str(path) for path in found if not path.stem.endswith("_mask")]
    if not paths:
        raise ValueError(f"'{source}' holds no image ({', '.join(SUFFIXES)}). Fix: check the folder.")
    return pd.DataFrame({"path": paths})


def embed_to_file(
    embedder: SAMLoRAEmbedder,
    images: pd.DataFrame | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    on_error: str = "raise",
    overwrite: bool = False,
) -> Path:
    """Embed images into one file, row by row in their order.

    What is computed is kept in a folder beside the file (its name with ".unfinished") until the file is whole. After a
    kill at any moment the same call goes on from there, redoes one batch per worker at most, and on the same machine
    writes the same bytes. Progress bar, speed and spread over processes are the embedder's `verbose`, `batch_size` and
    `n_jobs`.

    Parameters
    ----------
    embedder : fitted SAMLoRAEmbedder
    images : sequence of paths, or DataFrame with a column "path"
        Its other columns are carried over.
    out : path
        ``.parquet``: a table with one column per feature; ``.npz``: arrays; ``.zarr``: a group of arrays;
        ``.h5ad``: AnnData, the columns in ``obs``. All hold the mask's quality too.
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
        If the suffix is none of the four, a folder of other images or settings is in the way, or no image is left.
    NotFittedError
        If the embedder is not fitted.
    TypeError
        If `images` is a single path.
    ImportError
        If the library for the format is not installed.
    ImageReadError
        If an image cannot be read and on_error="raise"; it names the row and the file.
    """
    out = Path(out)
    write = _writer(out)
    check_is_fitted(embedder)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"Got on_error={on_error!r} but expected 'raise' or 'skip'.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"'{out}' exists. Fix: overwrite=True (--overwrite), or another name.")
    if isinstance(images, str | os.PathLike):
        raise TypeError(f"Got images={images!r} but expected a list of paths. Fix: find_images({str(images)!r}).")
    table = images if isinstance(images, pd.DataFrame) else pd.DataFrame({"path": [os.fspath(path) for path in images]})
    if "path" not in table.columns or not len(table):
        raise ValueError(f"Got {len(table)} images, columns {list(table.columns)}, but expected some in 'path'.")
    make_folder(out.parent)
    work = _Work(out.with_name(out.name + ".unfinished"), embedder, table["path"].tolist())
    try:
        work.compute(embedder, skip_unreadable=on_error == "skip")
    finally:
        work.leave_if_empty()
    kept, pooled = work.readable()
    table = table.iloc[kept].reset_index(drop=True)
    quality = pd.DataFrame(work.quality[kept])
    table = table.assign(**{name: quality[name] for name in QUALITY.names or ()})
    errors = out.with_name(out.name + ".errors.csv")
    errors.unlink(missing_ok=True)
    if on_error == "skip" and (failed := work.failures()):
        write_text(errors, pd.DataFrame(failed, columns=["row", "path", "error"]).to_csv(index=False))
    unfinished = work.folder / out.name
    remove(unfinished)
    try:
        write(unfinished, table, pooled, list(embedder.get_feature_names_out()), work.plan)
        remove(out)
        unfinished.replace(out)
    except OSError as exc:
        raise unwritable(out, exc) from exc
    remove(work.folder)
    return out


class _Work:
    """What is computed so far: memory-mapped arrays of all rows, and what has become of each.

    A row counts as done only when its values are in place, so a kill costs the chunks under way and no more.
    """

    def __init__(self, folder: Path, embedder: SAMLoRAEmbedder, paths: list[str]) -> None:
        self.folder, self.paths = folder, paths
        encoder = embedder.encoder_
        recipe = encoder.recipe
        width = embedder.n_features_out_
        plan = {
            "recipe": recipe.digest,
            "images": hashlib.sha256("\n".join(paths).encode()).hexdigest(),
            "n": len(paths),
            "batch_size": encoder.images_per_pass(),
            **recipe.describe(),
        }
        make_folder(folder)
        noted = folder / "plan.json"
        if noted.exists():
            found = json.loads(noted.read_text("utf-8"))
            # The batch size of the first start is kept: it decides the last digits.
            if found | {"batch_size": 0} != plan | {"batch_size": 0}:
                raise ValueError(
                    f"'{folder}' was begun with other images, weights or settings. Fix: give the same ones to go on, "
                    "or delete the folder to begin anew."
                )
            plan = found
        else:
            for array, shape, dtype in (
                ("pooled", (len(paths), width), np.float32),
                ("quality", (len(paths),), QUALITY),
                ("state", (len(paths),), np.uint8),
            ):
                np.lib.format.open_memmap(folder / f"{array}.npy", "w+", dtype, shape).flush()
                allocate(folder / f"{array}.npy")
            write_text(noted, json.dumps(plan, indent=2))  # last: without it nothing was begun
        self.plan = plan
        self.pooled, self.quality, self.state = (
            np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("pooled", "quality", "state")
        )

    def compute(self, embedder: SAMLoRAEmbedder, *, skip_unreadable: bool) -> None:
        """Embed the chunks that are not done."""
        size = self.plan["batch_size"]
        starts = range(0, len(self.paths), size)
        if not skip_unreadable:
            self.state[self.state == _UNREADABLE] = _WAITING
        left = [start for start in starts if (self.state[start : start + size] == _WAITING).any()]
        chunks = ([(row, self.paths[row]) for row in range(at, min(at + size, len(self.paths)))] for at in left)
        with tqdm(
            total=len(self.paths), initial=len(self.paths) - sum(min(size, len(self.paths) - at) for at in left),
            desc="embedding", unit="cell", disable=embedder.verbose < 1,
        ) as bar:  # fmt: skip
            for done in embedder.encoder_.stream(chunks, skip_unreadable=skip_unreadable, finish=_pooled_and_quality):
                self._note(done)
                bar.update(len(done.rows) + len(done.errors))

    def leave_if_empty(self) -> None:
        """Remove the folder where nothing was done: a list that starts with a wrong path may be mended next time."""
        if not self.state.any():
            remove(self.folder)

    def _note(self, done: forward.Embedded) -> None:
        if done.rows:
            self.pooled[done.rows], self.quality[done.rows] = done.cells
        if done.errors:
            first = min(chain(done.rows, (row for row, _ in done.errors)))
            write_text(self.folder / f"{first:012d}.errors.json", json.dumps(done.errors))
        self.pooled.flush()
        self.quality.flush()
        self.state[done.rows] = _DONE
        self.state[[row for row, _ in done.errors]] = _UNREADABLE
        self.state.flush()

    def readable(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return the rows that were embedded, and their embeddings, memory-mapped."""
        kept = np.flatnonzero(self.state == _DONE)
        if not len(kept):
            raise ValueError("None of the images could be read. Fix: see why with on_error='raise'.")
        if len(kept) == len(self.paths):
            return kept, self.pooled
        dense = np.lib.format.open_memmap(
            self.folder / "dense.npy", "w+", np.float32, (len(kept), self.pooled.shape[1])
        )
        allocate(self.folder / "dense.npy")
        for start in range(0, len(kept), _ROWS_AT_ONCE):
            dense[start : start + _ROWS_AT_ONCE] = self.pooled[kept[start : start + _ROWS_AT_ONCE]]
        return kept, dense

    def failures(self) -> list[tuple[int, str, str]]:
        """Return (row, path, error) of the images that could not be read."""
        files = sorted(self.folder.glob("*.errors.json"))
        return [(row, self.paths[row], error) for file in files for row, error in json.loads(file.read_text("utf-8"))]


def _pooled_and_quality(cells: CellEmbeddings) -> tuple[NDArray, NDArray]:
    return cells.pooled, cells.quality


_Writer = Callable[[Path, pd.DataFrame, NDArray, list[str], dict[str, Any]], None]


def _writer(out: Path) -> _Writer:
    writers = {".parquet": _write_parquet, ".npz": _write_npz, ".zarr": _write_zarr, ".h5ad": _write_h5ad}
    if out.suffix not in writers:
        raise ValueError(f"Got '{out}' but expected a name that ends in {', '.join(writers)}.")
    library = {".parquet": "pyarrow", ".zarr": "zarr", ".h5ad": "anndata"}.get(out.suffix)
    if library:
        try:
            import_module(library)
        except ImportError as exc:
            raise ImportError(
                f"Writing {out.suffix} needs {library}. Fix: pip install 'sam-bloodcell[{_EXTRAS[library]}]'"
            ) from exc
    return writers[out.suffix]


_EXTRAS = {"pyarrow": "bulk", "zarr": "bulk", "anndata": "anndata"}


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, n, _ROWS_AT_ONCE))


def _write_parquet(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], plan: dict[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    made_by = {"sam_bloodcell": json.dumps(plan)}
    for rows in _slices(len(table)):
        part = pa.Table.from_pandas(table.iloc[rows], preserve_index=False)
        for name, column in zip(names, np.ascontiguousarray(pooled[rows].T), strict=True):
            part = part.append_column(name, pa.array(column))
        part = part.replace_schema_metadata(
            (part.schema.metadata or {}) | {k.encode(): v.encode() for k, v in made_by.items()}
        )
        writer = writer or parquet.ParquetWriter(path, part.schema, compression="zstd")
        writer.write_table(part)
    if writer is not None:
        writer.close()


def _write_npz(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], plan: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {str(name): _plain(column) for name, column in table.items()}
    np.savez(path, **arrays, embeddings=pooled, features=np.array(names), made_by=np.array(json.dumps(plan)))


def _write_zarr(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], plan: dict[str, Any]) -> None:
    import zarr

    # Format 2, which other readers know; the third has no settled way to store strings yet.
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.attrs["sam_bloodcell"] = plan
    group.attrs["features"] = names
    whole = group.create_array(
        "embeddings", shape=pooled.shape, chunks=(min(_ROWS_AT_ONCE, len(pooled)), pooled.shape[1]), dtype="float32"
    )
    for rows in _slices(len(pooled)):
        whole[rows] = pooled[rows]
    for name, column in table.items():
        group.create_array(str(name), data=_plain(column))


def _write_h5ad(path: Path, table: pd.DataFrame, pooled: NDArray, names: list[str], plan: dict[str, Any]) -> None:
    from anndata import AnnData

    obs = table.set_index(pd.RangeIndex(len(table)).astype(str))
    values = pooled.view(np.ndarray)  # still memory-mapped; h5py writes it piece by piece
    AnnData(values, obs=obs, var=pd.DataFrame(index=names), uns={"sam_bloodcell": json.dumps(plan)}).write_h5ad(path)


def _plain(column: pd.Series) -> NDArray:
    """Return a column as numbers, or as text."""
    return column.to_numpy() if column.dtype.kind in "biuf" else column.astype(str).to_numpy(dtype=str)
