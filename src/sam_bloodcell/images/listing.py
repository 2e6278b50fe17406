"""Image files in a folder and all its sub-folders, and an account of its other contents."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..exceptions import warn_caller

# The suffixes of the formats that `reading.FORMATS` lists.
IMAGE_SUFFIXES = frozenset(
    {".apng", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm",
     ".ppm", ".tif", ".tiff", ".webp"}
)  # fmt: skip
# The suffixes of images in formats that are not read here. Users would expect such files to be taken.
_OTHER_IMAGE_SUFFIXES = frozenset(
    {".arw", ".avif", ".bif", ".btf", ".cr2", ".cr3", ".czi", ".dcm", ".dib", ".dng", ".exr", ".heic", ".heif", ".ims",
     ".jxl", ".jxr", ".lif", ".lsm", ".mrxs", ".nd2", ".ndpi", ".nef", ".oib", ".oif", ".orf", ".pcx", ".psd",
     ".qptiff", ".raf", ".raw", ".rw2", ".scn", ".stk", ".svs", ".svslide", ".tga", ".vms", ".vsi", ".xcf", ".zvi"}
)  # fmt: skip
# Names that systems, file servers and archives leave behind, besides those that begin with ".".
_SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "$recycle.bin", "recycler", "lost+found",
     "system volume information", "network trash folder", "temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini",
     "icon\r"}
)  # fmt: skip
_MASK = re.compile(r"(^|[-_. ])masks?$")
# Other names of masks, which contain the name of the image. They count only next to that image, because "seg" and
# "label" may also be parts of names of cells.
_NAMED_AFTER = re.compile(r"(?i)masks?[-_. ](?P<behind>.+)|(?P<before>.+)[-_. ](segmentation|seg|labels?|masks?)")

Account = Mapping[tuple[str, str], int]  # the number by folder, relative to the listed one, and by kind


class Listing:
    """The contents of a folder, which may not exist.

    `images` and `masks` are the paths of the files in it and in its sub-folders, with images in the order of their
    names. `folders` are the sub-folders that were searched. `left_out` counts files that are always skipped: masks,
    hidden and system files and folders, and files that are not images. `lost` counts files that look like data but were
    not read, or were read twice.

    Masks are files and folders whose names are "mask" or "masks", or end with it after "_", "-", "." or a space. Next
    to an image "1.png", files such as "mask_1.png", "1_seg.png" and "1_label.png" are also masks. Links are followed,
    except a link to a folder that contains it, because following it would never end.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.root = Path(folder)
        self.images: list[Path] = []
        self.masks: list[Path] = []
        self.folders: list[Path] = []
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.lost: Counter[tuple[str, str]] = Counter()
        self._links = False
        if self.root.is_dir():
            self._search(self.root)
        self._part_masks()
        self.images.sort()
        if self._links:  # needed only with links, because resolving a path takes time
            self._count_twice()

    def below(self, path: Path) -> str:
        """Return a path relative to the folder, for messages."""
        return path.relative_to(self.root).as_posix()

    def account(self) -> dict[tuple[str, str], int]:
        """Return the numbers of files left out or lost, by folder and kind."""
        return dict(self.lost + self.left_out)

    def warn(self) -> None:
        """Warn once if files that look like data were not read, or were read twice."""
        if self.lost:
            warn_caller(
                f"Some files of '{self.root}' were not read, or were read twice: {describe(self.lost)}. "
                "Fix: convert, move or unlock files that are data, and remove the others."
            )

    def _search(self, folder: Path) -> None:
        here = self.below(folder)
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            self.lost[here, f"folder that cannot be searched ({exc.strerror})"] += 1
            return
        for entry in found:
            path = folder / entry.name
            self._links |= entry.is_symlink()
            if _is_leftover(entry.name):
                self.left_out[here, "hidden and system files and folders"] += 1
            elif not os.path.isdir(path):  # noqa: PTH112, an entry's own method raises at a link to itself
                self._take(path, here, broken=entry.is_symlink() and not os.path.exists(path))  # noqa: PTH110, as above
            elif _MASK.search(entry.name.casefold()):
                self.left_out[here, "folders of masks"] += 1
            elif entry.is_symlink() and self._leads_back(path):
                self.left_out[here, "links to a folder that contains them"] += 1
            else:
                self.folders.append(path)
                self._search(path)

    def _take(self, file: Path, here: str, broken: bool) -> None:
        stem, suffix = os.path.splitext(file.name.casefold())  # noqa: PTH122, quicker than Path for every file
        if suffix in IMAGE_SUFFIXES:
            if _MASK.search(stem):
                self.left_out[here, "masks"] += 1
                self.masks.append(file)
            else:
                self.images.append(file)  # also a broken link, which the reading error will name
        elif suffix in _OTHER_IMAGE_SUFFIXES:
            self.lost[here, f"images in a format that is not read here ({suffix})"] += 1
        elif broken:
            self.lost[here, "broken links"] += 1
        else:
            self.left_out[here, f"files that are not images ({suffix or 'without a suffix'})"] += 1

    def _part_masks(self) -> None:
        """Move images whose name says that they are the mask of another image next to them to the masks."""
        named = [image for image in self.images if _NAMED_AFTER.fullmatch(image.stem)]
        stems = {image.with_suffix("") for image in self.images} if named else set()
        masks = {image for image in named if self.image_of(image) in stems}
        for mask in masks:
            self.left_out[self.below(mask.parent), "masks"] += 1
        self.masks += sorted(masks)
        self.images = [image for image in self.images if image not in masks]

    @staticmethod
    def image_of(mask: Path) -> Path:
        """Return the path, without a suffix, of the image to which a mask belongs by its name."""
        named = _NAMED_AFTER.fullmatch(mask.stem)
        return mask.with_name((named["behind"] or named["before"]) if named else mask.stem)

    def _leads_back(self, folder: Path) -> bool:
        """Whether a folder below the root is the same folder as one that contains it."""
        depth = len(folder.relative_to(self.root).parts)
        return any(folder.samefile(above) for above in folder.parents[:depth])

    def _count_twice(self) -> None:
        seen: set[str] = set()
        for image in self.images:
            real = os.path.realpath(image)
            if real in seen:
                self.lost[self.below(image.parent), "images read twice, through links"] += 1
            seen.add(real)


def list_images(folder: str | os.PathLike) -> list[Path]:
    """List the images of a folder, which may not exist, as `Listing` does; warn of data that was not read."""
    listing = Listing(folder)
    listing.warn()
    return listing.images


def describe(account: Account) -> str:
    """Describe the files that were left out, by kind, folder and number, with the five folders that have most."""
    kinds: dict[str, Counter[str]] = {}
    for (folder, kind), number in account.items():
        kinds.setdefault(kind, Counter())[folder] += number
    parts = []
    for kind, folders in kinds.items():
        named = ", ".join(f"{number} in '{folder}'" for folder, number in folders.most_common(5))
        more = f" and {len(folders) - 5} more folders" if len(folders) > 5 else ""
        parts.append(f"{kind}: {folders.total()} ({named}{more})")
    return "; ".join(parts)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES
