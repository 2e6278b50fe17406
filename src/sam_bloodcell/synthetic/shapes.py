"""Smooth shapes, textures and granules on a pixel grid."""

import numpy as np
from PIL import Image


def smooth_noise(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> np.ndarray:
    """Return float32 noise of about unit variance whose features are `grain` pixels wide."""
    grain = max(grain, 1.0)
    # One cell more on each side, and a random offset, so that the lattice never shows at the borders.
    coarse = Image.fromarray(rng.standard_normal([int(np.ceil(side / grain)) + 3 for side in shape], np.float32))
    left, top = rng.uniform(0.5, 1.5, 2)
    box = (left, top, left + shape[1] / grain, top + shape[0] / grain)
    # Bicubic interpolation loses variance between the lattice points.
    return 1.3 * np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box))


def stamp_discs(shape: tuple[int, ...], points: np.ndarray, radii: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return an anti-aliased union of discs with heights `weights`, the highest at each pixel; lengths are in px."""
    drawn = np.zeros(shape, np.float32)
    if len(points) == 0:
        return drawn
    reach = int(np.ceil(radii.max())) + 1
    offsets = np.arange(-reach, reach + 1)
    corner = np.round(points).astype(np.intp)
    rows = corner[:, :1] + offsets  # (n, k)
    columns = corner[:, 1:] + offsets  # (n, k)
    distance = np.hypot((rows - points[:, :1])[:, :, None], (columns - points[:, 1:])[:, None, :])
    # A disc thinner than a pixel keeps its area, not its height: otherwise it blinks with its position.
    faded = weights * np.minimum(1.0, (radii / 0.6) ** 2)
    patch = faded[:, None, None] * np.clip(0.5 + radii[:, None, None] - distance, 0, 1)  # (n, k, k)
    row_inside, column_inside = (rows >= 0) & (rows < shape[0]), (columns >= 0) & (columns < shape[1])
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    flat = (rows[:, :, None] * shape[1] + columns[:, None, :])[inside]
    np.maximum.at(drawn.reshape(-1), flat, patch[inside].astype(np.float32))
    return drawn


def coverage(depth: np.ndarray, radius: float) -> np.ndarray:
    """Return the share of each pixel inside a shape, from the depth in cell radii, with an edge one pixel wide."""
    return np.clip(0.5 + depth * radius, 0, 1).astype(np.float32)


def union_of_discs(y: np.ndarray, x: np.ndarray, lobes: np.ndarray, turn: float) -> np.ndarray:
    """Return the depth (h, w) in the smooth union of discs (row, column, radius), rotated about the centre."""
    sharpness, sine, cosine = 26.0, np.sin(turn), np.cos(turn)
    total = np.full(np.broadcast_shapes(y.shape, x.shape), 1e-9, np.float32)
    for row, column, lobe_radius in lobes.astype(np.float32):
        top, left = cosine * row - sine * column, sine * row + cosine * column
        total += np.exp(sharpness * (lobe_radius - np.hypot(y - np.float32(top), x - np.float32(left))))
    return np.log(total) / sharpness
