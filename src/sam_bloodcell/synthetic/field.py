"""The surroundings of the white cell: red cells, platelets and stain debris."""

import numpy as np

from .anatomy import WhiteCell
from .optics import Laboratory
from .shapes import smooth_noise, stamp_discs


def scatter_red_cells(
    laboratory: Laboratory, unit: float, cell: WhiteCell, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the concentration of haemoglobin (size, size) around a white cell.

    `unit` is a typical neutrophil's radius in px.
    """
    red = np.zeros((size, size), np.float32)
    typical = unit * rng.uniform(0.52, 0.70)
    coverage = laboratory.red_cell_coverage * rng.uniform(0.5, 1.4)
    wanted = coverage * (size + 2 * typical) ** 2 / (np.pi * typical**2)
    places = _scatter(int(min(wanted, 60)), typical, cell, size, rng)
    pallor = rng.uniform(0.25, 0.9)
    steepness = rng.uniform(2, 5)  # from a gentle slope to the sharp ring of a thin, flat cell
    # One warp of the whole plane bends every red cell a little, each in its own way.
    bend = [0.06 * typical * smooth_noise((size, size), 0.9 * typical, rng) for _ in range(2)]
    for row, column in places:
        r = typical * rng.uniform(0.85, 1.12)
        top, left = max(int(row - 1.4 * r), 0), max(int(column - 1.4 * r), 0)
        window = (slice(top, int(row + 1.4 * r) + 2), slice(left, int(column + 1.4 * r) + 2))
        part = red[window]
        y = np.arange(top, top + part.shape[0], dtype=np.float32)[:, None] - np.float32(row) + bend[0][window]
        x = np.arange(left, left + part.shape[1], dtype=np.float32)[None, :] - np.float32(column) + bend[1][window]
        tilt, squeeze = rng.uniform(0, np.pi), rng.choice([rng.uniform(0.9, 1.0), rng.uniform(0.7, 1.0)])
        along, across = np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x
        distance = np.sqrt(along**2 + (across / np.float32(squeeze)) ** 2) / np.float32(r)
        part += _disc_of_haemoglobin(distance, r, pallor * rng.uniform(0.5, 1.1), steepness, laboratory.red_cell_ghost)
    return red


def _disc_of_haemoglobin(
    distance: np.ndarray, radius: float, pallor: float, steepness: float, ghost: float
) -> np.ndarray:
    """Return the thickness of a biconcave disc at a distance in radii; a ghost keeps only its outline."""
    body = np.clip(0.5 + (1 - distance) * radius, 0, 1)
    pale, ring = np.exp(-((distance / 0.48) ** steepness)), np.exp(-(((distance - 0.9) / 0.1) ** 2))
    thickness = body * (1 - pallor * pale + 0.15 * ring)
    if ghost == 0:
        return thickness
    outline = np.exp(-(((distance - 1) / max(0.07, 0.8 / radius)) ** 2)) + 0.08 * body
    return (1 - ghost) * thickness + ghost * outline


def _scatter(wanted: int, typical: float, cell: WhiteCell, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return centres (n, 2) of red cells, mostly at a distance from each other and from the white cell."""
    candidates = rng.uniform(-typical, size + typical, (4 * wanted, 2))
    from_cell = np.hypot(*(candidates - np.asarray(cell.centre)).T)
    # The white cell is on top: a red cell may be partly but not wholly under it.
    candidates = candidates[from_cell > cell.radius + typical * rng.uniform(0.2, 1.05, len(candidates))]
    apart = typical * rng.choice([1.9, 1.2], len(candidates), p=[0.8, 0.2])
    kept: list[np.ndarray] = []
    for place, distance in zip(candidates, apart, strict=True):
        if len(kept) == wanted:
            break
        if not kept or np.hypot(*(np.array(kept) - place).T).min() > distance:
            kept.append(place)
    return np.array(kept).reshape(-1, 2)


def scatter_specks(unit: float, cell: WhiteCell, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return platelets and stain debris as a concentration of the nuclear stain, (size, size) float32."""
    n_platelets = int(rng.poisson(1.0))
    platelets = rng.uniform(0, size, (n_platelets, 2))
    # A platelet is a heap of granules.
    granules = np.repeat(platelets, 12, axis=0) + rng.normal(0, 0.06 * unit, (12 * n_platelets, 2))
    grains = unit * rng.uniform(0.03, 0.09, len(granules))
    n_dirt = int(rng.poisson(4)) if rng.random() < 0.4 else 0
    dirt = rng.uniform(0, size, (n_dirt, 2))
    points = np.concatenate([granules, dirt])
    radii = np.concatenate([grains, unit * rng.uniform(0.01, 0.05, n_dirt)])
    weights = np.concatenate([rng.uniform(0.3, 0.9, len(granules)), rng.uniform(0.5, 1.3, n_dirt)])
    # They are placed next to the cell, because on its outline they would look like a part of it.
    beside = np.hypot(*(points - np.asarray(cell.centre)).T) > 1.1 * cell.radius + radii
    drawn = stamp_discs((size, size), points[beside], radii[beside], weights[beside])
    if n_platelets:
        drawn += 0.12 * stamp_discs((size, size), platelets, np.full(n_platelets, 0.17 * unit), np.ones(n_platelets))
    return drawn
