"""The anatomy of a blood cell: where each stained structure of a white cell lies, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from .shapes import coverage, packed_points, smooth_noise, stamp_discs, union_of_discs, value_at

STRUCTURES = (
    "nucleus",
    "pink_cytoplasm",
    "blue_cytoplasm",
    "eosinophil_granule",
    "basophil_granule",
    "red_cell",
)


# No outline swells beyond this many mean radii: a cell placed by it stays where it was meant to be.
MAX_SWELLING = 1.2


@dataclass(frozen=True)
class Recipe:
    """What makes a cell of one type; a pair is the range that each cell draws its own value from.

    Parameters
    ----------
    size : tuple of 2 float
        Radius as a multiple of a typical neutrophil's.
    roughness : tuple of 2 float
        Waviness of the outline, as a fraction of the radius.
    ragged : float
        Probability of a frayed outline.
    pink, blue, chromatin : tuple of 2 float
        Concentration of the neutrophil's stain, of the basophilic one, and of chromatin.
    lace : float
        Contrast of the chromatin's clumps.
    """

    size: tuple[float, float]
    roughness: tuple[float, float]
    ragged: float
    pink: tuple[float, float]
    blue: tuple[float, float]
    chromatin: tuple[float, float]
    lace: float


RECIPES: dict[str, Recipe] = {
    "basophil": Recipe((0.85, 1.05), (0.02, 0.07), 0.15, (0.4, 0.9), (0.0, 0.3), (0.55, 1.00), 0.20),
    "eosinophil": Recipe((0.98, 1.18), (0.02, 0.05), 0.10, (0.5, 0.9), (0.0, 0.15), (0.80, 1.05), 0.20),
    "lymphocyte": Recipe((0.64, 0.88), (0.02, 0.05), 0.25, (0.0, 0.1), (0.5, 1.25), (0.90, 1.20), 0.13),
    "monocyte": Recipe((1.02, 1.28), (0.03, 0.10), 0.40, (0.0, 0.35), (0.5, 1.0), (0.58, 0.85), 0.26),
    "neutrophil": Recipe((0.90, 1.10), (0.02, 0.05), 0.20, (0.5, 1.1), (0.0, 0.15), (0.90, 1.15), 0.20),
}
COMMON_CLASSES = tuple(RECIPES)


@dataclass
class WhiteCell:
    """One white cell in its window of the field of view.

    Parameters
    ----------
    window : tuple of 2 slice
        Rows and columns of the field that the arrays below cover: (h, w).
    cell, nucleus : numpy.ndarray of shape (h, w), float32 in [0, 1]
        Share of each pixel that lies in the cell, and in its nucleus.
    densities : dict of str to numpy.ndarray of shape (h, w), float32
        Concentration of each stained structure, names from `STRUCTURES`.
    """

    window: tuple[slice, slice]
    cell: np.ndarray
    nucleus: np.ndarray
    densities: dict[str, np.ndarray]


def draw_white_cell(
    cell_type: str, radius: float, centre: tuple[float, float], size: int, rng: np.random.Generator
) -> WhiteCell:
    """Draw the structures of one white cell.

    Parameters
    ----------
    cell_type : str
        One of `COMMON_CLASSES`.
    radius : float
        Mean radius in pixels.
    centre : tuple of 2 float
        Row and column in pixels; the cell may lie partly outside the field.
    size : int
        Side of the square field of view in pixels.
    rng : numpy.random.Generator
        Source of the individual shape.

    Returns
    -------
    cell : WhiteCell
        Arrays over the part of the field that the cell touches.
    """
    recipe = RECIPES[cell_type]
    reach = MAX_SWELLING * radius + 2
    low = [int(np.clip(np.floor(c - reach), 0, size - 1)) for c in centre]
    high = [int(np.clip(np.ceil(c + reach), low[i] + 1, size)) for i, c in enumerate(centre)]
    # Coordinates in cell radii: (0, 0) is the centre, 1 the mean outline.
    y = ((np.arange(low[0], high[0], dtype=np.float32) - centre[0]) / radius)[:, None]
    x = ((np.arange(low[1], high[1], dtype=np.float32) - centre[1]) / radius)[None, :]
    shape = (y.shape[0], x.shape[1])

    depth = _outline(y, x, recipe, radius, rng)
    cell = coverage(depth, radius)
    turn = rng.uniform(0, 2 * np.pi)
    warp = 0.04 * np.stack([smooth_noise(shape, 0.45 * radius, rng) for _ in range(2)])
    lobes = _LOBES[cell_type](rng)
    # The nucleus never touches the outline: a rim of cytoplasm is always there.
    nuclear_depth = np.minimum(union_of_discs(y + warp[0], x + warp[1], lobes, turn), depth - 0.04)
    nucleus = coverage(nuclear_depth, radius)

    clumps = 0.6 * smooth_noise(shape, 0.16 * radius, rng) + 0.6 * smooth_noise(shape, 0.07 * radius, rng)
    membrane = np.exp(-((nuclear_depth / 0.05) ** 2))
    chromatin = rng.uniform(*recipe.chromatin) * np.clip(1 + recipe.lace * clumps + 0.12 * membrane, 0.3, 1.7)

    body = cell * (1 - 0.9 * nucleus)
    cloud = 1 + 0.13 * smooth_noise(shape, 0.30 * radius, rng) + 0.10 * smooth_noise(shape, 0.08 * radius, rng)
    # Basophilic cytoplasm is darkest at the outline and pales around the nucleus.
    rim = 0.75 + 0.5 * np.exp(-np.clip(depth, 0, None) / 0.15)
    densities = {
        "nucleus": nucleus * chromatin,
        "pink_cytoplasm": rng.uniform(*recipe.pink) * body * cloud,
        "blue_cytoplasm": rng.uniform(*recipe.blue) * body * cloud * rim,
    }
    drawn = WhiteCell((slice(low[0], high[0]), slice(low[1], high[1])), cell, nucleus, densities)
    local_centre = np.array([centre[0] - low[0], centre[1] - low[1]])
    _GRANULES[cell_type](drawn, depth, radius, local_centre, rng)
    return drawn


def _outline(y: np.ndarray, x: np.ndarray, recipe: Recipe, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Depth below the cell's outline, in cell radii, negative outside: (h, w)."""
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    roughness = rng.uniform(*recipe.roughness)
    edge = np.ones_like(distance)
    for wave in range(2, 7):
        edge += 1.4 * roughness * rng.normal() / wave**0.7 * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    shape = (distance.shape[0], distance.shape[1])
    edge += 0.3 * roughness * smooth_noise(shape, 0.25 * radius, rng)
    if rng.random() < recipe.ragged:
        edge += rng.uniform(0.02, 0.06) * smooth_noise(shape, 0.13 * radius, rng)
    return np.clip(edge, 0.7, MAX_SWELLING) - distance


def _along(points: np.ndarray, radii: np.ndarray, bridge: float) -> np.ndarray:
    """Discs at the points, and the thin ones that bridge each to the next: (n, 3)."""
    steps = np.linspace(0, 1, 7)[1:-1, None]
    bridges = [a + steps * (b - a) for a, b in pairwise(points)]
    discs = [np.column_stack([points, radii])]
    discs += [np.column_stack([path, np.full(len(path), bridge)]) for path in bridges]
    return np.concatenate(discs)


def _arc(n_points: int, span: float, radius: float, wander: float, rng: np.random.Generator) -> np.ndarray:
    """Points on an arc around the cell centre, disturbed by `wander`: (n_points, 2)."""
    angle = np.linspace(-span / 2, span / 2, n_points)
    arc = radius * np.column_stack([np.sin(angle), np.cos(angle)])
    return arc + rng.normal(0, wander, arc.shape)


def _neutrophil_lobes(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.2:
        band = _arc(11, rng.uniform(2.6, 4.6), rng.uniform(0.40, 0.52), 0.02, rng)
        return np.column_stack([band, rng.uniform(0.15, 0.21) * (1 + 0.35 * np.cos(np.linspace(0, 6.3, 11)))])
    n_lobes = int(rng.choice([2, 3, 4, 5], p=[0.15, 0.40, 0.32, 0.13]))
    span = {2: 2.3, 3: 3.5, 4: 4.6, 5: 5.2}[n_lobes] * rng.uniform(0.85, 1.15)
    lobes = _arc(n_lobes, span, rng.uniform(0.40, 0.54), 0.06, rng)
    radii = {2: 0.36, 3: 0.30, 4: 0.26, 5: 0.23}[n_lobes] * rng.uniform(0.80, 1.15, n_lobes)
    # A second, smaller disc beside each centre makes a lobe a bean rather than a ball.
    beans = np.column_stack([lobes + rng.normal(0, 0.08, lobes.shape), 0.8 * radii])
    return np.concatenate([_along(lobes, radii, rng.uniform(-0.01, 0.04)), beans])


def _eosinophil_lobes(rng: np.random.Generator) -> np.ndarray:
    n_lobes = 3 if rng.random() < 0.2 else 2
    lobes = _arc(n_lobes, (1.0 + 0.75 * n_lobes) * rng.uniform(0.7, 1.1), rng.uniform(0.42, 0.54), 0.04, rng)
    radii = (0.40 if n_lobes == 2 else 0.32) * rng.uniform(0.85, 1.1, n_lobes)
    beans = np.column_stack([lobes + rng.normal(0, 0.10, lobes.shape), 0.85 * radii])
    return np.concatenate([_along(lobes, radii, rng.uniform(-0.01, 0.06)), beans])


def _basophil_lobes(rng: np.random.Generator) -> np.ndarray:
    n_lobes = int(rng.integers(2, 4))
    lobes = _arc(n_lobes, rng.uniform(2.2, 4.2), rng.uniform(0.32, 0.42), 0.07, rng)
    return _along(lobes, rng.uniform(0.38, 0.52, n_lobes), rng.uniform(0.12, 0.26))


def _lymphocyte_lobes(rng: np.random.Generator) -> np.ndarray:
    # Mostly a thin rim; one in four is a large lymphocyte with more cytoplasm, and an off-centre nucleus.
    radius = rng.uniform(0.70, 0.80) if rng.random() < 0.25 else rng.uniform(0.79, 0.93)
    shift, stretch = rng.uniform(0, 0.95 - radius), rng.uniform(0, 0.14)
    # The smooth union of discs this close is about 0.06 wider than each.
    ends = np.array([[shift - stretch, 0.0], [shift, 0.0], [shift + stretch, 0.0]])
    return np.column_stack([ends, np.full(3, radius - 0.06 - 0.5 * stretch)])


def _monocyte_lobes(rng: np.random.Generator) -> np.ndarray:
    kidney = rng.random() < 0.6
    span = rng.uniform(1.7, 2.7) if kidney else rng.uniform(2.8, 4.0)
    thickness = rng.uniform(0.45, 0.57) if kidney else rng.uniform(0.33, 0.41)
    arc = _arc(8, span, rng.uniform(0.36, 0.48), 0.04, rng)
    arc[:, 1] -= rng.uniform(0.12, 0.30)
    return np.column_stack([arc, thickness * rng.uniform(0.85, 1.08, 8) - 0.04])


def _neutrophil_granules(
    drawn: WhiteCell, depth: np.ndarray, radius: float, centre: np.ndarray, rng: np.random.Generator
) -> None:
    dust = np.clip(smooth_noise((depth.shape[0], depth.shape[1]), 0.05 * radius, rng), 0, 2)
    drawn.densities["pink_cytoplasm"] *= 1 + rng.uniform(0.1, 0.5) * (dust - 0.4)
    visible = drawn.cell * (1 - drawn.nucleus)
    drawn.densities["nucleus"] = drawn.densities["nucleus"] + rng.uniform(0.02, 0.12) * dust * visible


def _lymphocyte_granules(
    drawn: WhiteCell, depth: np.ndarray, radius: float, centre: np.ndarray, rng: np.random.Generator
) -> None:
    if rng.random() < 0.8:
        return
    # A large granular lymphocyte: a handful of azurophil granules in the rim.
    points = packed_points(0.2, radius, centre, rng, jitter=0.5)
    points = points[(value_at(depth, points) > 0.05) & (rng.random(len(points)) < 0.3)]
    radii, weights = np.full(len(points), 0.04 * radius), np.full(len(points), 0.6)
    grains = stamp_discs((depth.shape[0], depth.shape[1]), points, radii, weights)
    drawn.densities["nucleus"] = np.maximum(drawn.densities["nucleus"], grains)


def _monocyte_granules(
    drawn: WhiteCell, depth: np.ndarray, radius: float, centre: np.ndarray, rng: np.random.Generator
) -> None:
    shape = (depth.shape[0], depth.shape[1])
    dust = np.clip(smooth_noise(shape, 0.05 * radius, rng), 0, 2)
    drawn.densities["nucleus"] += rng.uniform(0.02, 0.14) * dust * drawn.cell * (1 - drawn.nucleus)
    if rng.random() < 0.5:
        points = packed_points(0.22, radius, centre, rng, jitter=0.4)
        points = points[(value_at(depth, points) > 0.07) & (rng.random(len(points)) < rng.uniform(0.05, 0.5))]
        radii = radius * rng.uniform(0.03, 0.09, len(points))
        holes = stamp_discs(shape, points, radii, rng.uniform(0.5, 0.95, len(points)))
        # Vacuoles lie in the cytoplasm; one above the nucleus shows only faintly.
        for name, share in (("blue_cytoplasm", 1.0), ("pink_cytoplasm", 1.0), ("nucleus", 0.3)):
            drawn.densities[name] *= 1 - share * holes


def _eosinophil_granules(
    drawn: WhiteCell, depth: np.ndarray, radius: float, centre: np.ndarray, rng: np.random.Generator
) -> None:
    granule = rng.uniform(0.050, 0.080)
    points = packed_points(rng.uniform(1.55, 1.95) * granule, radius, centre, rng)
    points = points[(value_at(depth, points) > 0.6 * granule) & (rng.random(len(points)) < rng.uniform(0.8, 1.0))]
    radii = radius * granule * rng.uniform(0.8, 1.15, len(points))
    shape = (depth.shape[0], depth.shape[1])
    grains = stamp_discs(shape, points, radii, rng.uniform(0.65, 1.15, len(points)))
    filling = 0.25 + 0.75 * grains
    drawn.densities["eosinophil_granule"] = filling * drawn.cell * (1 - 0.85 * drawn.nucleus)


def _basophil_granules(
    drawn: WhiteCell, depth: np.ndarray, radius: float, centre: np.ndarray, rng: np.random.Generator
) -> None:
    granule = rng.uniform(0.035, 0.075)
    spacing = granule * rng.uniform(1.9, 3.0)
    points = packed_points(spacing, radius, centre, rng, jitter=0.35)
    points = points[(value_at(depth, points) > 0.03) & (rng.random(len(points)) < rng.uniform(0.55, 0.95))]
    radii = radius * granule * rng.uniform(0.7, 1.3, len(points))
    shape = (depth.shape[0], depth.shape[1])
    grains = stamp_discs(shape, points, radii, rng.uniform(0.6, 1.0, len(points)))
    # Basophil granules dissolve in water: their edges run into each other.
    grains = ndimage.gaussian_filter(grains, rng.uniform(0.0, 0.03) * radius)
    # A granule hides what lies below it rather than adding to it.
    for name in drawn.densities:
        drawn.densities[name] = drawn.densities[name] * (1 - np.minimum(0.8 * grains, 1))
    drawn.densities["basophil_granule"] = grains * drawn.cell


_LOBES = {
    "basophil": _basophil_lobes,
    "eosinophil": _eosinophil_lobes,
    "lymphocyte": _lymphocyte_lobes,
    "monocyte": _monocyte_lobes,
    "neutrophil": _neutrophil_lobes,
}
_GRANULES = {
    "basophil": _basophil_granules,
    "eosinophil": _eosinophil_granules,
    "lymphocyte": _lymphocyte_granules,
    "monocyte": _monocyte_granules,
    "neutrophil": _neutrophil_granules,
}
