"""Files that are whole or not there: written beside their place, then moved into it."""

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
    """Yield a path to write a file or folder to, which takes the place of `path` only when all went well."""
    path = Path(path)
    # The suffix stays, because some writers go by it. The name does not: with more before it, it may be too long.
    draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield draft
        if draft.is_dir():
            remove(path)
        draft.replace(path)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    finally:
        with suppress(OSError):  # it hides no error of the writing
            remove(draft)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write files to, which take the places of those in `folder` when all have been written.

    What belongs together, such as factors and a decoder, is then never half new and half old.
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
    """Write a text file, UTF-8, whole or not at all.

    What UTF-8 cannot hold, such as a file's name in another encoding, is escaped: work that is done must not be lost.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def unwritable(path: str | os.PathLike, exc: OSError) -> OSError:
    """Return an error that says what could not be written and what to do; of the same kind as `exc`."""
    reason = exc.strerror or str(exc)
    fix = "Fix: free space there, or write to a folder that has some and that you may write to"
    return OSError(exc.errno, f"{reason}, so that it is not written. {fix}", os.fspath(path))


def as_path(value: Any, name: str) -> Path:
    """Return a path that is given as text, bytes or a path; anything else is an error that calls it `name`."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"Got {name}={value!r} but expected a path. Fix: pass text or a pathlib.Path.")
    return Path(os.fsdecode(value))


def how_to_find(path: str | os.PathLike) -> str:
    """Return what to do about a path that does not exist, by what is peculiar about its name; "" for nothing."""
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
    """Make a folder with its parents, unless it is there."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise unwritable(path, exc) from exc
    return Path(path)


def check_writable(path: str | os.PathLike) -> None:
    """Raise unless a file could be written here now; to call before the work that the file is to hold."""
    if Path(path).is_dir():
        fix = "Fix: move the folder, or choose another place"
        raise IsADirectoryError(errno.EISDIR, f"A folder lies where a file is to be written. {fix}", os.fspath(path))
    draft = Path(path).with_name(f".{uuid.uuid4().hex}")
    try:
        draft.touch()
    except OSError as exc:
        raise unwritable(path, exc) from exc
    remove(draft)


def check_outside(path: str | os.PathLike, *folders: str | os.PathLike) -> None:
    """Raise if what is to be written lies in a folder of images: it would be taken for cells the next time."""
    for folder in map(Path, folders):
        if folder.is_dir() and Path(path).resolve().is_relative_to(folder.resolve()):
            found = f"'{path}' inside the folder '{folder}' of the images"
            raise ValueError(f"Got {found}: what is written there would be taken for cells. Fix: name another place.")


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink(missing_ok=True)


def allocate(path: str | os.PathLike) -> None:
    """Have the disk set a sparse file's space aside: a write through its memory map could not say that it is full."""
    if hasattr(os, "posix_fallocate"):  # elsewhere the system extends the file as it is made
        try:
            with Path(path).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # file systems that cannot do this
                raise unwritable(path, exc) from exc


def paths_beside(csv: Path, paths: Iterable[Any], root: str | os.PathLike | None = None) -> list[str]:
    """Return the paths that a table's rows name relative to it; an empty one stays empty.

    An error names the row of a path that is no text, or leads out of `root` (default: the table's folder).
    """
    found = []
    for row, path in enumerate(paths):
        try:
            empty = not path or (isinstance(path, str) and not path.strip())
            found.append("" if empty else str(inside(root or csv.parent, Path(csv.parent, path).absolute())))
        except (TypeError, ValueError) as exc:
            raise ValueError(
                f"'{csv}' row {row}: {exc} Fix: paths are relative to the CSV's folder and stay in it; for a larger "
                "one that holds them all, root=... ."
            ) from exc
    return found


def inside(folder: str | os.PathLike, name: str | os.PathLike) -> Path:
    """Return the path of what a manifest names, relative to a folder that it must not lead out of."""
    # Not Path.resolve, which follows links: a data set may be made of them.
    root = os.path.abspath(folder)  # noqa: PTH100
    full = os.path.abspath(Path(root, name))  # noqa: PTH100
    if os.path.commonpath([root, full]) != root:
        raise ValueError(f"'{name}' leads out of the folder '{folder}'.")
    return Path(folder, os.path.relpath(full, root))
