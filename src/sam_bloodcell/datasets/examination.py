"""An examination of cells before anything is embedded: counts, problems, and classes with too few cells."""

import itertools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils import Bunch

from ..cells import FEW_CELLS, NETWORK_HELD_OUT, Cells, can_hold_out, first_of, similar_values
from ..exceptions import ImageReadError
from ..extras import tqdm
from ..images.layout import stored_bits
from ..images.listing import Listing, describe
from ..images.reading import ImageContent, decode, from_pil, has_alpha, read_content
from .cells import check_cells, load_cells
from .folders import LevelsError

_COLUMNS = ["row", "path", "domain", "label"]


class CellsFinding(NamedTuple):
    """A finding about cells.

    Parameters
    ----------
    text : str
        The finding, in sentences with numbers and a fix.
    stops : bool, default=False
        Whether a benchmark of these cells fails because of it.
    """

    text: str
    stops: bool = False


@dataclass(frozen=True)
class CellsExamination:
    """The result of `examine_cells`.

    Parameters
    ----------
    counts : pandas.DataFrame
        Number of cells, with a row per laboratory and a column per class; empty if these are not known.
    images : pandas.DataFrame
        A row per laboratory: ``readable`` images; ``width_min``, ``width_max``, ``height_min`` and ``height_max`` in
        pixels; the numbers of images that are ``grey``, have an ``alpha`` channel, or have more than 8 bits per value
        (``deep``); and the mean ``red``, ``green`` and ``blue`` (0 to 255).
    patients : pandas.DataFrame or None
        A row per laboratory: the number of ``patients`` (groups), the fewest, median and most cells of one
        (``cells_min``, ``cells_median``, ``cells_max``), and the number that are also in another laboratory
        (``shared``). None if the cells have no groups.
    unreadable : pandas.DataFrame
        Cells that cannot be read: ``row``, ``path``, ``domain``, ``label`` and ``reason``.
    copies : pandas.DataFrame
        Cells with the same decoded pixels as another cell: ``copy`` (a number for each set), ``row``, ``path``,
        ``domain`` and ``label``.
    findings : list of CellsFinding
        What to know or do. Findings that stop a benchmark come first.
    """

    counts: pd.DataFrame
    images: pd.DataFrame
    patients: pd.DataFrame | None
    unreadable: pd.DataFrame
    copies: pd.DataFrame
    findings: list[CellsFinding] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """The findings that stop a benchmark."""
        return [finding.text for finding in self.findings if finding.stops]

    @property
    def ready(self) -> bool:
        """Whether a benchmark of these cells can run."""
        return not self.problems


def examine_cells(
    cells: Bunch | str | os.PathLike, *, cv: int = 5, root: str | os.PathLike | None = None, verbose: int = 0
) -> CellsExamination:
    """Open every image once and report problems for a benchmark of these cells, without embedding them.

    Parameters
    ----------
    cells : Bunch or path
        Cells from a loader, or a path that `load_cells` takes. The images of a folder without laboratories or classes
        are also examined, and the first finding is that these are missing.
    cv : int, default=5
        Number of folds of the benchmark, at least 2.
    root : path, optional
        Folder that must contain all paths of a CSV (default: the CSV's folder).
    verbose : int, default=0
        If above 0, show a progress bar.

    Returns
    -------
    CellsExamination
        Counts, tables of images, patients, unreadable files and copies, and findings.

    Raises
    ------
    ValueError
        If `cells` do not come from a loader, or `cv` is less than 2.
    TypeError
        If `verbose` is not a number.
    FileNotFoundError, ValueError
        As in `load_cells`, except for images in too few levels of folders.

    Examples
    --------
    >>> from sam_bloodcell.datasets import examine_cells, make_blood_cells
    >>> cells = make_blood_cells(5, classes=["lymphocyte", "monocyte"], image_size=32, random_state=0)
    >>> found = examine_cells(cells)
    >>> found.ready, found.counts.loc["lab_a"].to_dict()
    (True, {'lymphocyte': 5, 'monocyte': 5})
    """
    if not isinstance(cv, int | np.integer) or cv < 2:
        raise ValueError(f"Got cv={cv!r} but expected at least 2 folds. Fix: pass cv=2 or more.")
    if not isinstance(verbose, int | np.integer):
        raise TypeError(f"Got verbose={verbose!r} but expected a number. Fix: pass verbose=1 for a progress bar.")
    findings: list[CellsFinding] = []
    if isinstance(cells, str | os.PathLike):
        cells, findings = _load(cells, root)
    labelled = not findings or not findings[0].stops
    kind = "images" if isinstance(cells, Bunch) and cells.get("paths") is None else "paths"
    check_cells(cells, kind, "target", "target_names", "domain")
    items = cells[kind]
    table = pd.DataFrame({
        "row": range(len(cells.target)),
        "path": [item if isinstance(item, str | os.PathLike) else f"row {row}" for row, item in enumerate(items)],
        "domain": np.asarray(cells.domain).astype(str),
        "label": np.asarray(cells.target_names, dtype=str)[cells.target],
    })  # fmt: skip
    if cells.get("group") is not None:
        table["group"] = np.asarray(cells.group).astype(str)
    seen, reasons = _look_at_all(items, verbose)
    unreadable = table.loc[list(reasons), _COLUMNS].assign(reason=list(reasons.values())).reset_index(drop=True)
    copies = _copies(table, seen)
    findings += _on_files(unreadable, copies)
    if labelled:
        findings += [*_on_classes(table), *_on_numbers(table, cv), *_on_patients(table, cv), *_on_training(table, cv)]
    images = _by_domain(table, seen)
    findings += _on_images(images)
    passed_over = {key: number for key, number in (cells.get("left_out") or {}).items() if "mask" not in key[1]}
    if passed_over:
        findings.append(CellsFinding(f"Files of the folder that were not read: {describe(passed_over)}."))
    return CellsExamination(
        counts=_counts(table) if labelled else pd.DataFrame(),
        images=images,
        patients=_patients(table) if "group" in table else None,
        unreadable=unreadable,
        copies=copies,
        findings=sorted(findings, key=lambda finding: not finding.stops),
    )


def _counts(table: pd.DataFrame) -> pd.DataFrame:
    return pd.crosstab(table["domain"], table["label"]).rename_axis(index=None, columns=None)


def _load(source: str | os.PathLike, root: str | os.PathLike | None) -> tuple[Bunch, list[CellsFinding]]:
    """Load cells, with the loader's warnings as findings; from a folder with too few levels, load only the images."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cells = load_cells(source, root=root)
        except LevelsError as exc:
            paths = [str(image) for image in Listing(source).images]
            nothing = {"target": np.zeros(len(paths), int), "target_names": ["(none)"]}
            unknown = Cells(paths=paths, domain=np.full(len(paths), "(none)"), group=None, **nothing)
            return unknown, [CellsFinding(str(exc), stops=True)]
    told = [str(warning.message) for warning in caught]
    # Names that look alike are found again later, for cells that were not loaded here as well.
    return cells, [CellsFinding(text) for text in told if "that look alike" not in text]


class _Seen(NamedTuple):
    """The properties of one image."""

    digest: bytes
    width: int
    height: int
    grey: bool
    alpha: bool
    deep: bool
    colour: tuple[float, float, float]


def _look_at_all(items: Any, verbose: int) -> tuple[dict[int, _Seen], dict[int, str]]:
    """Return the properties of each image, and the reasons why others cannot be read, by row."""
    seen, reasons = {}, {}
    bar = tqdm(items, desc="reading", unit="image", disable=verbose < 1, total=len(items))
    for row, item in enumerate(bar):
        try:
            content = read_content(item, None if isinstance(item, str | os.PathLike) else row)
            if isinstance(content.data, bytes):
                seen[row] = decode(content.data, content.where, _look)
            else:
                seen[row] = _measure(content, alpha=False, deep=False)
        except ImageReadError as exc:
            reasons[row] = str(exc)
    return seen, reasons


def _look(image: Image.Image, where: str) -> _Seen:
    alpha, deep = has_alpha(image), stored_bits(image) > 8  # the bits are unknown once the image is decoded
    return _measure(ImageContent(from_pil(image, where), where), alpha, deep)


def _measure(content: ImageContent, alpha: bool, deep: bool) -> _Seen:
    rgb = content.rgb()
    height, width = rgb.shape[:2]
    grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all())
    red, green, blue = rgb.reshape(-1, 3).mean(axis=0).tolist()
    return _Seen(content.digest(), width, height, grey, alpha, deep, (red, green, blue))


def _by_domain(table: pd.DataFrame, seen: dict[int, _Seen]) -> pd.DataFrame:
    rows = {}
    for domain, members in table.groupby("domain"):
        found = [seen[row] for row in members["row"] if row in seen]
        sides = {name: [getattr(image, name) for image in found] or [0] for name in ("width", "height")}
        colour = np.mean([image.colour for image in found], axis=0) if found else [np.nan] * 3
        rows[domain] = {
            "readable": len(found),
            **{f"{name}_{at.__name__}": at(values) for name, values in sides.items() for at in (min, max)},
            **{name: sum(getattr(image, name) for image in found) for name in ("grey", "alpha", "deep")},
            **dict(zip(("red", "green", "blue"), np.round(colour, 1), strict=True)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _copies(table: pd.DataFrame, seen: dict[int, _Seen]) -> pd.DataFrame:
    same: dict[bytes, list[int]] = {}
    for row, image in seen.items():
        same.setdefault(image.digest, []).append(row)
    sets = [rows for rows in same.values() if len(rows) > 1]
    numbers = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets]).astype(int)
    found = table.loc[list(itertools.chain(*sets)), _COLUMNS].reset_index(drop=True)
    found.insert(0, "copy", numbers)
    return found


def _patients(table: pd.DataFrame) -> pd.DataFrame:
    sizes = table.groupby(["domain", "group"]).size().rename("cells").reset_index()
    sizes["shared"] = sizes["group"].isin(_shared_groups(table))
    by_domain = sizes.groupby("domain")
    found = by_domain["cells"].agg(["size", "min", "median", "max"])
    found.columns = ["patients", "cells_min", "cells_median", "cells_max"]
    return found.assign(shared=by_domain["shared"].sum()).rename_axis(index=None)


def _shared_groups(table: pd.DataFrame) -> list[str]:
    domains = table.groupby("group")["domain"].nunique()
    return domains.index[domains > 1].tolist()


def _on_files(unreadable: pd.DataFrame, copies: pd.DataFrame) -> Iterator[CellsFinding]:
    if len(unreadable):
        yield CellsFinding(
            f"{_images(len(unreadable))} cannot be read, such as '{unreadable['path'][0]}'. Fix: remove or replace "
            "them, or skip them with on_error='skip' (in Python: drop_unreadable(cells)).",
            stops=True,
        )
    sets = copies.groupby("copy")
    across = copies[sets["domain"].transform("nunique") > 1]
    within = copies[sets["domain"].transform("nunique") == 1]
    unlike = copies[sets["label"].transform("nunique") > 1]
    for found, where, effect in (
        (within, "are copies of one another in one laboratory", "Copies in training and test make scores too high"),
        (across, "are copies of one another in different laboratories", "Scores across laboratories become too high"),
        (unlike, "are copies of one another with different classes", "One of the classes is wrong"),
    ):
        if len(found):
            first = found[found["copy"] == found["copy"].iloc[0]]
            a, b = first["path"].tolist()[:2]
            rows = first["row"].tolist()
            such = f"'{a}' in the rows {rows[0]} and {rows[1]}" if a == b else f"'{a}' and '{b}'"
            yield CellsFinding(f"{_images(len(found))} {where}, such as {such}. {effect}. Fix: keep one of each.")


def _on_classes(table: pd.DataFrame) -> Iterator[CellsFinding]:
    for column, name in (("label", "classes"), ("domain", "laboratories"), ("group", "patients")):
        if column in table and (alike := similar_values(table[column].unique())):
            shown = first_of(alike, separator="; ")
            yield CellsFinding(
                f"Different {name} have names that look alike: {shown}. Fix: give one {column} one name."
            )
    if len(table["domain"].unique()) < 2:
        return
    for domain, members in table.groupby("domain"):
        elsewhere = set(table["label"][table["domain"] != domain])
        own = [f"{label!r} ({n})" for label, n in members.groupby("label").size().items() if label not in elsewhere]
        if own:
            yield CellsFinding(
                f"Only {domain!r} has the class{'es' * (len(own) > 1)} {first_of(own)}, which no other laboratory can "
                "test. Fix: give the same class the same name everywhere, or leave it out."
            )


def _on_numbers(table: pd.DataFrame, cv: int) -> Iterator[CellsFinding]:
    """Yield classes and laboratories that are too small for a benchmark, by the rules of `evaluation.run_benchmark`."""
    counts = table.groupby(["domain", "label"]).size()
    rare = [f"{label!r} of {domain!r} ({n})" for domain, label, n in counts.reset_index().to_numpy() if n < cv]
    if rare:
        yield CellsFinding(
            f"{len(rare)} {'class has' if len(rare) == 1 else 'classes have'} fewer cells in a laboratory than cv={cv} "
            f"folds, and the benchmark leaves {'it' if len(rare) == 1 else 'them'} out there: {first_of(rare)}. Fix: "
            "add cells, or lower cv."
        )
    kept = {name: set(n.index[n >= cv].get_level_values("label")) for name, n in counts.groupby("domain")}
    for name, labels in kept.items():
        if len(labels) < 2:
            yield CellsFinding(
                f"The laboratory {name!r} has {len(labels)} class{'es' * (len(labels) != 1)} of at least cv={cv} "
                "cells, but a benchmark needs two. Fix: add cells, lower cv, or leave the laboratory out.",
                stops=True,
            )
    small = [f"{name!r} ({n})" for name, n in table["domain"].value_counts().sort_index().items() if n < FEW_CELLS]
    if small:
        yield CellsFinding(
            f"Fewer than {FEW_CELLS} cells give poor statistics of a laboratory's stain and camera: {first_of(small)}. "
            "Fix: add cells, which need no labels for this."
        )
    if len(kept) == 1:
        yield CellsFinding("There is one laboratory, so a benchmark scores only within it, not across laboratories.")
    else:
        yield from _on_common_classes(kept)


def _on_common_classes(kept: dict[Any, set[str]]) -> Iterator[CellsFinding]:
    if not any(a & b for a, b in itertools.combinations(kept.values(), 2)):
        yield CellsFinding(
            "No two laboratories share a class with enough cells, so nothing can be scored across them. "
            "Fix: give the same classes the same names in each laboratory.",
            stops=True,
        )
        return
    few = [f"{a!r} and {b!r}" for a, b in itertools.combinations(kept, 2) if len(kept[a] & kept[b]) < 2]
    if few:
        yield CellsFinding(
            "These laboratories share fewer than two classes with enough cells, so scores between them mean "
            f"nothing: {first_of(few)}. Fix: add cells, or give the same classes the same names."
        )


def _on_patients(table: pd.DataFrame, cv: int) -> Iterator[CellsFinding]:
    if "group" not in table:
        yield CellsFinding(
            "The patients are not known. Cells of one patient may be in training and test, which makes scores within "
            "a laboratory too high. Fix: add a column group with the patient of each cell to the CSV."
        )
        return
    for domain, members in table.groupby("domain"):
        kept = members[members.groupby("label")["label"].transform("size") >= cv]
        n = kept["group"].nunique()
        if 0 < n < cv:
            yield CellsFinding(
                f"The laboratory {domain!r} has {n} patient{'s' * (n != 1)}, fewer than cv={cv} folds, and no fold may "
                "split a patient. Fix: add patients, lower cv, or leave the laboratory out.",
                stops=True,
            )
        elif len(kept["label"].unique()) > 1 and any(len(np.unique(labels)) < 2 for labels in _trained_on(kept, cv)):
            yield CellsFinding(
                f"A fold of the laboratory {domain!r} has fewer than two classes left in training, because few "
                "patients have cells of the others. Fix: add patients, change cv, or leave the laboratory out.",
                stops=True,
            )
    if shared := _shared_groups(table):
        yield CellsFinding(
            f"{len(shared)} patient{'s are' if len(shared) > 1 else ' is'} in several laboratories: "
            f"{first_of(shared)}. Scores across laboratories become too high. Fix: give different patients different "
            "names, or leave the shared patients out."
        )


def _on_training(table: pd.DataFrame, cv: int) -> Iterator[CellsFinding]:
    """Yield laboratories whose folds have too few cells to train the default network, unless another finding does."""
    for domain, members in table.groupby("domain"):
        kept = members[members.groupby("label")["label"].transform("size") >= cv]
        if kept["label"].nunique() < 2 or ("group" in kept and kept["group"].nunique() < cv):
            continue
        trained_on = _trained_on(kept, cv)
        if min(len(np.unique(labels)) for labels in trained_on) < 2:
            continue
        for labels in trained_on:
            classes, counts = np.unique(labels, return_counts=True)
            if not can_hold_out(labels, NETWORK_HELD_OUT, of_each_class=len(classes) == 2):
                yield CellsFinding(
                    f"A fold of the laboratory {domain!r} has {len(labels)} training cells of {len(classes)} classes, "
                    f"the rarest with {counts.min()}, and the default classifier 'MLP' needs more to stop early. Fix: "
                    "add cells, leave rare classes out, or raise cv.",
                    stops=True,
                )
                break


def _trained_on(cells: pd.DataFrame, cv: int) -> list[NDArray[Any]]:
    """Return the labels of the training cells of each fold of the benchmark in one laboratory, with its usual seed."""
    labels = cells["label"].to_numpy()
    splitter = StratifiedGroupKFold if "group" in cells else StratifiedKFold
    folds = splitter(cv, shuffle=True, random_state=0).split(labels, labels, cells.get("group"))
    return [labels[train] for train, _ in folds]


def _on_images(images: pd.DataFrame) -> Iterator[CellsFinding]:
    for column, what in (
        ("grey", "without colour. Stain distinguishes classes, so expect lower scores"),
        ("alpha", "with an alpha channel. Their transparent pixels are read as white"),
        ("deep", "with more than 8 bits per value. They are scaled to 8 bits by the range of their type"),
    ):
        found = [f"{n} of {total} in {name!r}" for name, n, total in images[[column, "readable"]].itertuples() if n]
        if found:
            yield CellsFinding(f"There are images {what}: {first_of(found)}.")


def _images(n: int) -> str:
    return f"{n} image{'s' * (n != 1)}"
