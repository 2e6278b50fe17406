"""Atomic writing of files: they are written to a temporary path, then moved into place."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, which replaces `path` only if the block succeeds."""
    path = Path(path)
    # The suffix stays, because some writers depend on it. The name changes, because a longer one may be too long.
    draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield draft
        if draft.is_dir():
            remove(path)
        draft.replace(path)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    finally:
        with suppress(OSError):  # it must not hide an error of the writing
            remove(draft)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for files, which replace those in `folder` once all have been written.

    Files that belong together, such as factors and a decoder, are therefore never partly new and partly old.
    """
    draft = make_folder(folder / f".{uuid.uuid4().hex}")
    try:
        yield draft
        for file in draft.iterdir():
            try:
                file.replace(folder / file.name)
            except OSError as exc:
                raise unwritable(folder / file.name, exc) from exc
    finally:
        remove(draft)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all.

    Characters that UTF-8 cannot encode, such as a file name in another encoding, are escaped, so that no work is lost.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def unwritable(path: str | os.PathLike, exc: OSError) -> OSError:
    """Return an error of the same kind as `exc` that says what could not be written and what to do."""
    reason = exc.strerror or str(exc)
    fix = "Fix: free space there, or choose a folder with space and write permission"
    return OSError(exc.errno, f"{reason}, so it was not written. {fix}", os.fspath(path))


def as_path(value: Any, name: str) -> Path:
    """Return a path from text, bytes or a path; raise an error that calls it `name` for anything else."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"Got {name}={value!r} but expected a path. Fix: pass text or a pathlib.Path.")
    return Path(os.fsdecode(value))


def how_to_find(path: str | os.PathLike) -> str:
    """Return a fix for a path that does not exist, if its name is unusual, or ""."""
    name = os.fspath(path)
    if "\\" in name and os.sep == "/":
        return " Write / between folders, not \\."
    if any(part != part.strip() for part in Path(name).parts):
        return " Remove the space around a name in it."
    if "~" in Path(name).parts:
        return " Write the home folder out instead of ~."
    return ""


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; a file's name in another encoding cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder with its parents, unless it exists."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    return Path(path)


def check_writable(path: str | os.PathLike) -> None:
    """Raise unless a file can be written here; call it before the work whose result the file will contain."""
    if Path(path).is_dir():
        fix = "Fix: move the folder, or choose another place"
        raise IsADirectoryError(errno.EISDIR, f"A folder is in the place of the file. {fix}", os.fspath(path))
    draft = Path(path).with_name(f".{uuid.uuid4().hex}")
    try:
        draft.touch()
    except OSError as exc:
        raise unwritable(path, exc) from exc
    remove(draft)


def check_outside(path: str | os.PathLike, *folders: str | os.PathLike) -> None:
    """Raise if output would be written to a folder of images, where the next run would read it as cells."""
    for folder in map(Path, folders):
        if folder.is_dir() and Path(path).resolve().is_relative_to(folder.resolve()):
            found = f"'{path}' inside the folder '{folder}' of the images"
            raise ValueError(f"Got {found}, where output would be read as cells. Fix: choose another folder.")


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink(missing_ok=True)


def allocate(path: str | os.PathLike) -> None:
    """Allocate a sparse file's disk space, because a write through a memory map cannot report a full disk."""
    if hasattr(os, "posix_fallocate"):  # other systems allocate the file when it is created
        try:
            with Path(path).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # file systems that cannot do this
                raise unwritable(path, exc) from exc


def paths_beside(csv: Path, paths: Iterable[Any], root: str | os.PathLike | None = None) -> list[str]:
    """Return the paths in a table's rows, which are relative to it; an empty path stays empty.

    An error names the row of a path that is not text, or leads out of `root` (default: the table's folder).
    """
    found = []
    for row, path in enumerate(paths):
        try:
            empty = not path or (isinstance(path, str) and not path.strip())
            found.append("" if empty else str(inside(root or csv.parent, Path(csv.parent, path).absolute())))
        except (TypeError, ValueError) as exc:
            raise ValueError(
                f"'{csv}' row {row}: {exc} Fix: write paths relative to the CSV's folder and inside it, or pass the "
                "folder that contains all files as root=... ."
            ) from exc
    return found


def inside(folder: str | os.PathLike, name: str | os.PathLike) -> Path:
    """Return the path of a manifest's entry, relative to a folder that it must not leave."""
    # Path.resolve is not used, because it follows links, of which a data set may consist.
    root = os.path.abspath(folder)  # noqa: PTH100
    full = os.path.abspath(Path(root, name))  # noqa: PTH100
    if os.path.commonpath([root, full]) != root:
        raise ValueError(f"'{name}' leads out of the folder '{folder}'.")
    return Path(folder, os.path.relpath(full, root))
