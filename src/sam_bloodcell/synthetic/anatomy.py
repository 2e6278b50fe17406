"""The anatomy of a blood cell: position and concentration of each stained structure of a white cell."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from .shapes import coverage, smooth_noise, stamp_discs, union_of_discs

Range = tuple[float, float]

STRUCTURES = ("nucleus", "pink_cytoplasm", "blue_cytoplasm", "eosinophil_granule", "basophil_granule", "red_cell")

MAX_SWELLING = 1.2  # largest outline in mean radii, so that a cell stays in its place


@dataclass
class WhiteCell:
    """One white cell; its arrays cover a window of h x w pixels of the field of view."""

    centre: tuple[float, float]  # row and column in the field, in pixels
    radius: float  # mean radius, in pixels
    window: tuple[slice, slice]  # rows and columns of the field
    depth: np.ndarray  # (h, w) float32: depth below the outline in cell radii, negative outside
    cell: np.ndarray  # (h, w) float32 in [0, 1]: share of each pixel that lies in the cell
    nucleus: np.ndarray  # the same for the nucleus
    densities: dict[str, np.ndarray]  # (h, w) float32: concentration of each of `STRUCTURES` that the cell has

    def lattice(self, spacing: float, jitter: float, rng: np.random.Generator) -> np.ndarray:
        """Return points (n, 2), in pixels of the window, on a jittered hexagonal lattice; spacing is in cell radii."""
        steps = np.arange(-int(1.35 / spacing) - 1, int(1.35 / spacing) + 2)
        row, column = np.meshgrid(steps, steps, indexing="ij")
        lattice = np.column_stack([(row * 0.866).ravel(), (column + 0.5 * (row % 2)).ravel()]) * spacing
        lattice = lattice + rng.normal(0, jitter * spacing, lattice.shape)
        origin = np.array([self.centre[0] - self.window[0].start, self.centre[1] - self.window[1].start])
        return origin + self.radius * lattice

    def depth_at(self, points: np.ndarray) -> np.ndarray:
        """Return the depth (n,) at the pixel nearest to each point, or -1 outside the window."""
        return ndimage.map_coordinates(self.depth, points.T, np.float64, order=0, mode="grid-constant", cval=-1.0)


@dataclass(frozen=True)
class CellType:
    """The properties of one cell type; each cell draws its own values from every `Range`."""

    size: Range  # radius as a multiple of a typical neutrophil's
    roughness: Range  # waviness of the outline, as a fraction of the radius
    ragged: float  # probability of a frayed outline
    pink: Range  # concentration of the neutrophil's stain
    blue: Range  # concentration of the basophilic stain
    chromatin: Range  # concentration of chromatin
    lace: float  # contrast of the chromatin's clumps
    lobes: Callable[[np.random.Generator], np.ndarray]  # discs whose union is the nucleus: (n, 3), in cell radii
    granules: Callable[[WhiteCell, np.random.Generator], None]  # adds granules and vacuoles to the densities, in place


def draw_white_cell(
    cell_type: str, radius: float, centre: tuple[float, float], size: int, rng: np.random.Generator
) -> WhiteCell:
    """Draw the structures of a white cell that may be partly outside the square field; lengths are in pixels."""
    kind = CELL_TYPES[cell_type]
    reach = MAX_SWELLING * radius + 2
    low = [int(np.clip(np.floor(c - reach), 0, size - 1)) for c in centre]
    high = [int(np.clip(np.ceil(c + reach), low[i] + 1, size)) for i, c in enumerate(centre)]
    # Coordinates in cell radii: (0, 0) is the centre, 1 the mean outline.
    y = ((np.arange(low[0], high[0], dtype=np.float32) - centre[0]) / radius)[:, None]
    x = ((np.arange(low[1], high[1], dtype=np.float32) - centre[1]) / radius)[None, :]

    depth = _outline(y, x, kind, radius, rng)
    shape = depth.shape
    cell = coverage(depth, radius)
    turn = rng.uniform(0, 2 * np.pi)
    warp = 0.04 * np.stack([smooth_noise(shape, 0.45 * radius, rng) for _ in range(2)])
    lobes = kind.lobes(rng)
    # The nucleus never touches the outline: a rim of cytoplasm is always there.
    nuclear_depth = np.minimum(union_of_discs(y + warp[0], x + warp[1], lobes, turn), depth - 0.04)
    nucleus = coverage(nuclear_depth, radius)

    clumps = 0.6 * smooth_noise(shape, 0.16 * radius, rng) + 0.6 * smooth_noise(shape, 0.07 * radius, rng)
    membrane = np.exp(-((nuclear_depth / 0.05) ** 2))
    chromatin = rng.uniform(*kind.chromatin) * np.clip(1 + kind.lace * clumps + 0.12 * membrane, 0.3, 1.7)

    body = cell * (1 - 0.9 * nucleus)
    cloud = 1 + 0.13 * smooth_noise(shape, 0.30 * radius, rng) + 0.10 * smooth_noise(shape, 0.08 * radius, rng)
    # Basophilic cytoplasm is darkest at the outline and pales around the nucleus.
    rim = 0.75 + 0.5 * np.exp(-np.clip(depth, 0, None) / 0.15)
    densities = {
        "nucleus": nucleus * chromatin,
        "pink_cytoplasm": rng.uniform(*kind.pink) * body * cloud,
        "blue_cytoplasm": rng.uniform(*kind.blue) * body * cloud * rim,
    }
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    drawn = WhiteCell(centre, radius, window, depth, cell, nucleus, densities)
    kind.granules(drawn, rng)
    return drawn


def _outline(y: np.ndarray, x: np.ndarray, kind: CellType, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return the depth (h, w) below the cell's outline, in cell radii, negative outside."""
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    roughness = rng.uniform(*kind.roughness)
    edge = np.ones_like(distance)
    for wave in range(2, 7):
        edge += 1.4 * roughness * rng.normal() / wave**0.7 * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    edge += 0.3 * roughness * smooth_noise(edge.shape, 0.25 * radius, rng)
    if rng.random() < kind.ragged:
        edge += rng.uniform(0.02, 0.06) * smooth_noise(edge.shape, 0.13 * radius, rng)
    return np.clip(edge, 0.7, MAX_SWELLING) - distance


def _along(points: np.ndarray, radii: np.ndarray, bridge: float) -> np.ndarray:
    """Return discs (n, 3) at the points, and thin discs that connect each to the next."""
    steps = np.linspace(0, 1, 7)[1:-1, None]
    bridges = [np.insert(a + steps * (b - a), 2, bridge, axis=1) for a, b in pairwise(points)]
    return np.concatenate([np.column_stack([points, radii]), *bridges])


def _beans(
    points: np.ndarray, radii: np.ndarray, shift: float, share: float, bridge: Range, rng: np.random.Generator
) -> np.ndarray:
    """Return lobes (n, 3) `_along` the points; a second, smaller disc next to each gives it the shape of a bean."""
    beans = np.column_stack([points + rng.normal(0, shift, points.shape), share * radii])
    return np.concatenate([_along(points, radii, rng.uniform(*bridge)), beans])


def _arc(n_points: int, span: float, radius: float, wander: float, rng: np.random.Generator) -> np.ndarray:
    """Return points (n_points, 2) on an arc around the cell centre, disturbed by `wander`."""
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
    return _beans(lobes, radii, 0.08, 0.8, (-0.01, 0.04), rng)


def _eosinophil_lobes(rng: np.random.Generator) -> np.ndarray:
    n_lobes = 3 if rng.random() < 0.2 else 2
    lobes = _arc(n_lobes, (1.0 + 0.75 * n_lobes) * rng.uniform(0.7, 1.1), rng.uniform(0.42, 0.54), 0.04, rng)
    radii = (0.40 if n_lobes == 2 else 0.32) * rng.uniform(0.85, 1.1, n_lobes)
    return _beans(lobes, radii, 0.10, 0.85, (-0.01, 0.06), rng)


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


def _grains(
    cell: WhiteCell, points: np.ndarray, least_depth: float, share: Range, radii: Range, weights: Range,
    rng: np.random.Generator, unit: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Return discs (h, w) at a random share of the points that are deep enough in the cell, with radii in units."""
    points = points[(cell.depth_at(points) > least_depth) & (rng.random(len(points)) < rng.uniform(*share))]
    sizes = cell.radius * unit * rng.uniform(*radii, len(points))
    return stamp_discs(cell.depth.shape, points, sizes, rng.uniform(*weights, len(points)))


def _neutrophil_granules(cell: WhiteCell, rng: np.random.Generator) -> None:
    dust = np.clip(smooth_noise(cell.depth.shape, 0.05 * cell.radius, rng), 0, 2)
    cell.densities["pink_cytoplasm"] *= 1 + rng.uniform(0.1, 0.5) * (dust - 0.4)
    cell.densities["nucleus"] += rng.uniform(0.02, 0.12) * dust * (cell.cell * (1 - cell.nucleus))


def _lymphocyte_granules(cell: WhiteCell, rng: np.random.Generator) -> None:
    if rng.random() < 0.8:
        return
    # A large granular lymphocyte: a handful of azurophil granules in the rim.
    points = cell.lattice(0.2, 0.5, rng)
    points = points[(cell.depth_at(points) > 0.05) & (rng.random(len(points)) < 0.3)]
    grains = stamp_discs(cell.depth.shape, points, np.full(len(points), 0.04 * cell.radius), np.full(len(points), 0.6))
    cell.densities["nucleus"] = np.maximum(cell.densities["nucleus"], grains)


def _monocyte_granules(cell: WhiteCell, rng: np.random.Generator) -> None:
    dust = np.clip(smooth_noise(cell.depth.shape, 0.05 * cell.radius, rng), 0, 2)
    cell.densities["nucleus"] += rng.uniform(0.02, 0.14) * dust * cell.cell * (1 - cell.nucleus)
    if rng.random() < 0.5:
        holes = _grains(cell, cell.lattice(0.22, 0.4, rng), 0.07, (0.05, 0.5), (0.03, 0.09), (0.5, 0.95), rng)
        # Vacuoles are in the cytoplasm; above the nucleus, they are only faintly visible.
        for name, share in (("blue_cytoplasm", 1.0), ("pink_cytoplasm", 1.0), ("nucleus", 0.3)):
            cell.densities[name] *= 1 - share * holes


def _eosinophil_granules(cell: WhiteCell, rng: np.random.Generator) -> None:
    granule = rng.uniform(0.050, 0.080)
    points = cell.lattice(rng.uniform(1.55, 1.95) * granule, 0.22, rng)
    grains = _grains(cell, points, 0.6 * granule, (0.8, 1.0), (0.8, 1.15), (0.65, 1.15), rng, granule)
    cell.densities["eosinophil_granule"] = (0.25 + 0.75 * grains) * cell.cell * (1 - 0.85 * cell.nucleus)


def _basophil_granules(cell: WhiteCell, rng: np.random.Generator) -> None:
    granule = rng.uniform(0.035, 0.075)
    points = cell.lattice(granule * rng.uniform(1.9, 3.0), 0.35, rng)
    grains = _grains(cell, points, 0.03, (0.55, 0.95), (0.7, 1.3), (0.6, 1.0), rng, granule)
    # Basophil granules dissolve in water: their edges run into each other.
    grains = ndimage.gaussian_filter(grains, rng.uniform(0.0, 0.03) * cell.radius)
    # A granule hides the structures below it instead of adding to them.
    for name in cell.densities:
        cell.densities[name] = cell.densities[name] * (1 - np.minimum(0.8 * grains, 1))
    cell.densities["basophil_granule"] = grains * cell.cell


CELL_TYPES = {
    "basophil": CellType(
        (0.85, 1.05), (0.02, 0.07), 0.15, (0.4, 0.9), (0.0, 0.3), (0.55, 1.00), 0.20,
        _basophil_lobes, _basophil_granules),
    "eosinophil": CellType(
        (0.98, 1.18), (0.02, 0.05), 0.10, (0.5, 0.9), (0.0, 0.15), (0.80, 1.05), 0.20,
        _eosinophil_lobes, _eosinophil_granules),
    "lymphocyte": CellType(
        (0.64, 0.88), (0.02, 0.05), 0.25, (0.0, 0.1), (0.5, 1.25), (0.90, 1.20), 0.13,
        _lymphocyte_lobes, _lymphocyte_granules),
    "monocyte": CellType(
        (1.02, 1.28), (0.03, 0.10), 0.40, (0.0, 0.35), (0.5, 1.0), (0.58, 0.85), 0.26,
        _monocyte_lobes, _monocyte_granules),
    "neutrophil": CellType(
        (0.90, 1.10), (0.02, 0.05), 0.20, (0.5, 1.1), (0.0, 0.15), (0.90, 1.15), 0.20,
        _neutrophil_lobes, _neutrophil_granules),
}  # fmt: skip
COMMON_CLASSES = tuple(CELL_TYPES)
