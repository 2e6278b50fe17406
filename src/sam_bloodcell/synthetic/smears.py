"""Synthetic blood cells: images, masks and labels without patient data."""

import zlib
from collections.abc import Iterable, Sequence
from itertools import product
from numbers import Integral
from typing import Any

import numpy as np
from scipy import ndimage

from ..cells import Cells
from .anatomy import CELL_TYPES, COMMON_CLASSES, MAX_SWELLING, STRUCTURES, WhiteCell, draw_white_cell
from .field import scatter_red_cells, scatter_specks
from .optics import LABORATORIES, Laboratory, expose
from .shapes import smooth_noise

NUCLEUS, CYTOPLASM = 255, 128  # codes in masks
_SMALLEST = 16  # pixels of an image's side


def make_blood_cells(
    n_cells_per_class: int = 20, *, classes: Sequence[str] = COMMON_CLASSES,
    domains: Sequence[str | Laboratory] = ("lab_a", "lab_b"), image_size: int = 224,
    random_state: int | np.random.RandomState | np.random.Generator | None = None,
) -> Cells:  # fmt: skip
    """Draw white blood cells of several classes as several laboratories would photograph them.

    Stains add as optical densities (Beer-Lambert), followed by light, lens, sensor and JPEG compression. The random
    numbers of a cell depend only on `random_state`, the name of its laboratory, its class and its number, so more
    cells, classes or laboratories do not change it.

    Parameters
    ----------
    n_cells_per_class : int, default=20
        Number of cells of each class in each laboratory, > 0.
    classes : sequence of str, default=("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
        Distinct classes, in the order of ``target_names``.
    domains : sequence of str or Laboratory, default=("lab_a", "lab_b")
        Names in `LABORATORIES`, or your own laboratories. Names must differ.
    image_size : int, default=224
        Side of the square images in pixels, >= 16.
    random_state : int, RandomState, Generator or None, default=None
        Seed. None draws new cells at every call.

    Returns
    -------
    Cells
        The cells, with images : uint8 RGB array (n, image_size, image_size, 3); masks : uint8 array (n, image_size,
        image_size), nucleus 255, cytoplasm 128, background 0; target : int array (n,), indices into target_names : list
        of str; domain : str array (n,); DESCR : str. n is ``n_cells_per_class * len(classes) * len(domains)``. The
        cells are sorted by laboratory and shuffled within each.

    Raises
    ------
    ValueError
        If a number is out of range, or a class or laboratory is unknown.

    Examples
    --------
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(2, image_size=64, random_state=0)
    >>> cells.images.shape, cells.masks.shape
    ((20, 64, 64, 3), (20, 64, 64))
    """
    n_cells_per_class = _whole_number("n_cells_per_class", n_cells_per_class)
    image_size = _whole_number("image_size", image_size, _SMALLEST)
    names, laboratories, entropy = _known_classes(classes), _known_laboratories(domains), _entropy(random_state)
    wanted = list(product(range(len(names)), range(n_cells_per_class)))
    drawn = []
    for laboratory in laboratories:
        key = zlib.crc32(laboratory.name.encode())
        shuffle = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(key,)))
        for place in shuffle.permutation(len(wanted)):
            label, number = wanted[place]
            seed = np.random.SeedSequence(entropy, spawn_key=(key, COMMON_CLASSES.index(names[label]), number))
            cell = draw_cell(names[label], laboratory, image_size, np.random.default_rng(seed))
            drawn.append((*cell, label, laboratory.name))
    images, masks, target, domain = (np.array(column) for column in zip(*drawn, strict=True))
    description = (
        f"{len(images)} synthetic white blood cells of {len(names)} classes in {len(laboratories)} "
        "laboratories, drawn by sam_bloodcell.datasets.make_blood_cells. Not for diagnosis."
    )
    return Cells(images=images, masks=masks, target=target, target_names=names, domain=domain, DESCR=description)


def draw_cell(
    cell_type: str, laboratory: str | Laboratory, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one white cell among red cells and platelets.

    Parameters
    ----------
    cell_type : str
        Class of the cell, one of `COMMON_CLASSES`.
    laboratory : str or Laboratory
        A name from `LABORATORIES`, or any laboratory.
    size : int
        Side of the square image in pixels, >= 16.
    rng : numpy.random.Generator
        Random generator. The same state gives the same cell.

    Returns
    -------
    image : uint8 RGB array of shape (size, size, 3)
        The image.
    mask : uint8 array of shape (size, size)
        The mask of the central cell: nucleus 255, cytoplasm 128, elsewhere 0.

    Raises
    ------
    ValueError
        If an argument is out of range or unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.datasets import draw_cell
    >>> image, mask = draw_cell("monocyte", "lab_a", 96, np.random.default_rng(0))
    >>> np.unique(mask).tolist()
    [0, 128, 255]
    """
    if cell_type not in COMMON_CLASSES:
        known = ", ".join(COMMON_CLASSES)
        raise ValueError(f"Got cell_type={cell_type!r} but expected a known name. Fix: choose from {known}.")
    (laboratory,) = _known_laboratories([laboratory])
    size = _whole_number("size", size, _SMALLEST)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"Got rng={rng!r} but expected a numpy Generator. Fix: pass numpy.random.default_rng(seed).")

    cell = _central_cell(cell_type, laboratory, size, rng)
    unit = 0.5 * laboratory.cell_diameter * size  # radius of a typical neutrophil, in pixels
    stain = _stain_of_the_day(laboratory, rng)

    density = scatter_red_cells(laboratory, unit, cell, size, rng)[..., None] * stain["red_cell"]
    veil = 1 + 0.25 * smooth_noise((size, size), size / 3, rng)
    density += np.asarray(laboratory.background, np.float32) * veil[..., None]
    density += scatter_specks(unit, cell, size, rng)[..., None] * stain["nucleus"]
    if rng.random() < 0.08:
        _cover(density, _neighbour(unit, cell, size, rng), stain, laboratory.edge)
    _cover(density, cell, stain, laboratory.edge)
    return expose(density, laboratory, rng), _mask(cell, size)


def _central_cell(cell_type: str, laboratory: Laboratory, size: int, rng: np.random.Generator) -> WhiteCell:
    """Draw the cell of the mask, near the middle and inside the image."""
    radius = 0.5 * size * laboratory.cell_diameter * rng.uniform(*CELL_TYPES[cell_type].size)
    limit = 0.47 if laboratory.cell_diameter < 0.8 else 0.60
    radius = min(radius, limit * size / MAX_SWELLING)
    room = np.clip(limit * size - MAX_SWELLING * radius, 0.01 * size, 0.06 * size)
    row, column = (0.5 * (size - 1) + rng.uniform(-room, room, 2)).tolist()
    return draw_white_cell(cell_type, float(radius), (row, column), size, rng)


def _stain_of_the_day(laboratory: Laboratory, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Vary the laboratory's stains as between slides, as a dict of name to (3,) float32."""
    strength = rng.normal(0, 0.08)
    return {
        name: np.exp(strength + rng.normal(0, 0.06) + rng.normal(0, 0.04, 3)).astype(np.float32)
        * np.asarray(getattr(laboratory, name), np.float32)
        for name in STRUCTURES
    }


def _cover(density: np.ndarray, cell: WhiteCell, stain: dict[str, np.ndarray], edge: float) -> None:
    """Draw a white cell over the field, in place, so that it hides everything below it."""
    under = density[cell.window]  # (h, w, 3), a view
    under *= (1 - cell.cell)[..., None]
    for name, concentration in cell.densities.items():
        under += concentration[..., None] * stain[name]
    if edge > 0:
        # Four times coverage (1 - coverage) is 1 on the outline; widened, it is the refractile line.
        line = 4 * cell.cell * (1 - cell.cell)
        under += edge * np.minimum(1, 2 * ndimage.gaussian_filter(line, 1.0))[..., None]


def _neighbour(unit: float, cell: WhiteCell, size: int, rng: np.random.Generator) -> WhiteCell:
    """Draw a second white cell at the border, which must not be in the mask."""
    name = COMMON_CLASSES[rng.integers(len(COMMON_CLASSES))]
    other = unit * rng.uniform(*CELL_TYPES[name].size)
    bearing = rng.uniform(0, 2 * np.pi)
    # Far enough to be another cell, near enough to the border to be cut by it.
    distance = max(0.55 * size, 1.2 * (cell.radius + other)) * rng.uniform(1.0, 1.15)
    place = (cell.centre[0] + distance * np.sin(bearing), cell.centre[1] + distance * np.cos(bearing))
    return draw_white_cell(name, other, place, size, rng)


def _mask(cell: WhiteCell, size: int) -> np.ndarray:
    """Return semantic codes (size, size), uint8, of the largest connected piece of the cell."""
    pieces, _ = ndimage.label(cell.cell >= 0.5)
    whole = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    mask = np.zeros((size, size), np.uint8)
    mask[cell.window] = np.where(whole, np.where(cell.nucleus >= 0.5, NUCLEUS, CYTOPLASM), 0)
    return mask


def _whole_number(name: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise ValueError(f"Got {name}={value!r} but expected a positive integer. Fix: pass {least} or more.")
    if value < least:
        raise ValueError(f"Got {name}={value} but expected at least {least} pixels. Fix: pass {name}={least} or more.")
    return int(value)


def _as_list(values: Any) -> list[Any]:
    return [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)


def _known_classes(classes: Sequence[str]) -> list[str]:
    names = _as_list(classes)
    unknown = [name for name in names if name not in COMMON_CLASSES]
    if unknown or not names or len(set(names)) < len(names):
        known = ", ".join(COMMON_CLASSES)
        raise ValueError(f"Got classes={names!r} but expected known names, each once. Fix: choose from {known}.")
    return names


def _known_laboratories(domains: Sequence[str | Laboratory]) -> list[Laboratory]:
    known = ", ".join(LABORATORIES)
    found = []
    for entry in _as_list(domains):
        laboratory = LABORATORIES.get(entry) if isinstance(entry, str) else entry
        if not isinstance(laboratory, Laboratory):
            expected = "a Laboratory or a known name"
            raise ValueError(f"Got domain {entry!r} but expected {expected}. Fix: choose from {known}.")
        found.append(laboratory)
    names = [laboratory.name for laboratory in found]
    if not names or len(set(names)) < len(names):
        fix = f"Fix: give each Laboratory its own name, or choose from {known}."
        raise ValueError(f"Got domains named {names!r} but expected one or more distinct names. {fix}")
    return found


def _entropy(random_state: Any) -> int:
    if random_state is None:
        random_state = np.random.default_rng()
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, bool) or not isinstance(random_state, Integral) or random_state < 0:
        fix = "Fix: pass numpy.random.default_rng(seed) or the seed itself."
        expected = "None, an integer >= 0, or a numpy RandomState or Generator"
        raise ValueError(f"Got random_state={random_state!r} but expected {expected}. {fix}")
    return int(random_state)
