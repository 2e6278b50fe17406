"""Image files in a folder and all its sub-folders."""

import os
from pathlib import Path

# The suffixes of the formats that `reading.FORMATS` lists.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)  # fmt: skip


def list_images(folder: str | os.PathLike) -> list[Path]:
    """List the image files in a folder, which may not exist, and its sub-folders, in the order of their names.

    Left out are files and folders below it that are hidden (names that begin with "."), which file managers and
    notebooks leave behind, and masks (names that end in "_mask" or "_masks" before the suffix). Links are followed,
    except a link to a folder that contains it: following it would never end.
    """
    root = Path(folder)
    found = []
    for top, folders, names in os.walk(root, followlinks=True):
        here = Path(top)
        # os.walk enters only the folders that are left in its list.
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(here / name, root)]
        found += [here / name for name in names if _is_image(name)]
    return sorted(found)


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether a folder below `root` is the same folder as one that contains it."""
    depth = len(folder.relative_to(root).parts)
    return any(folder.samefile(above) for above in folder.parents[:depth])


def _is_image(name: str) -> bool:
    stem, suffix = os.path.splitext(name.casefold())  # noqa: PTH122, quicker than a Path for every file of a folder
    return suffix in IMAGE_SUFFIXES and not name.startswith(".") and not stem.endswith(("_mask", "_masks"))
