"""The look of a laboratory: its stain, its light, its microscope and its camera."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from .anatomy import STRUCTURES
from .shapes import smooth_noise

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Laboratory:
    """The stain, light, magnification and image storage of one laboratory.

    Parameters
    ----------
    name : str
        Name of the laboratory in the ``domain`` column.
    nucleus, pink_cytoplasm, blue_cytoplasm, eosinophil_granule, basophil_granule, red_cell, background : 3 floats
        Stains of chromatin, of the neutrophil's cytoplasm, of the lymphocyte's and monocyte's cytoplasm, of orange-pink
        and of purple-black granules, of haemoglobin, and of the dried plasma between the cells. Each is a tuple of the
        optical densities (natural logarithm, at least 0) in red, green and blue, which transmit
        ``light * exp(-density)`` (Beer-Lambert). The defaults are those of "lab_a".
    light : tuple of 3 floats, default=(0.99, 0.91, 0.83)
        Colour of the empty field. 1 is the brightest value that the camera stores, and more is overexposed.
    vignette : float, default=0.05
        Share of the light lost in the corners, in [0, 1).
    blur : float, default=0.003
        Standard deviation of the point spread, as a fraction of the image side, at least 0.
    cell_diameter : float, default=0.38
        Diameter of a typical neutrophil (the magnification), as a fraction of the image side, above 0.
    red_cell_coverage : float, default=0.45
        Share of the field that red cells cover, in [0, 1].
    red_cell_ghost : float, default=0.0
        Degree to which red cells are unstained, in [0, 1]: 0 draws stained cells, 1 only a faint outline of each.
    edge : float, default=0.05
        Optical density of the dark, refractile line around a white cell, at least 0.
    noise : float, default=0.008
        Standard deviation of the sensor noise, as a fraction of the brightest value, at least 0.
    jpeg_quality : int, default=92
        Quality of the JPEG compression, 1 to 95.

    Examples
    --------
    >>> import numpy as np
    >>> from sam_bloodcell.datasets import Laboratory
    >>> Laboratory.random(np.random.default_rng(0)).name
    'random'
    """

    name: str
    nucleus: Triple = (1.00, 1.62, 0.48)
    pink_cytoplasm: Triple = (0.20, 0.33, 0.19)
    blue_cytoplasm: Triple = (0.48, 0.44, 0.17)
    eosinophil_granule: Triple = (0.22, 0.85, 0.62)
    basophil_granule: Triple = (1.45, 1.90, 0.75)
    red_cell: Triple = (0.26, 0.45, 0.36)
    background: Triple = (0.0, 0.0, 0.0)
    light: Triple = (0.99, 0.91, 0.83)
    vignette: float = 0.05
    blur: float = 0.003
    cell_diameter: float = 0.38
    red_cell_coverage: float = 0.45
    red_cell_ghost: float = 0.0
    edge: float = 0.05
    noise: float = 0.008
    jpeg_quality: int = 92

    @classmethod
    def random(cls, rng: np.random.Generator, name: str = "random") -> "Laboratory":
        """Draw a laboratory from wide but plausible ranges, for domain randomisation.

        Parameters
        ----------
        rng : numpy.random.Generator
            Random generator. The same state gives the same laboratory.
        name : str, default="random"
            Name of the laboratory.

        Returns
        -------
        Laboratory
            A laboratory with a yellow, white, cream or grey-purple field, cells of about 25% to 85% of the image
            side, sharp to blurred images, and red cells that are stained, ghosts, or hardly visible.
        """
        contrast = rng.uniform(0.7, 1.3)
        # One common tint, because a batch of stain that is more red or more blue is so in every structure.
        tint = contrast * np.exp(rng.normal(0, [0.14, 0.08, 0.20]))
        colours = {name: getattr(cls, name) * tint * np.exp(rng.normal(0, 0.13, 3)) for name in STRUCTURES}
        # Plasma is colourless or a thin, even veil.
        colours["background"] = rng.uniform(0, 0.12) * rng.uniform(0.2, 1.0, 3)
        first, second = np.array(_EMPTY_FIELDS)[rng.choice(len(_EMPTY_FIELDS), 2)]
        mix = rng.uniform(0, 0.5)
        colours["light"] = ((1 - mix) * first + mix * second) * rng.uniform(0.9, 1.1) * np.exp(rng.normal(0, 0.025, 3))
        ghosts = rng.random() < 0.3
        return cls(
            name=name,
            **{structure: tuple(colour.tolist()) for structure, colour in colours.items()},
            vignette=float(rng.uniform(0, 0.2)),
            blur=float(np.exp(rng.uniform(np.log(0.002), np.log(0.016)))),
            cell_diameter=float(rng.uniform(0.30, 0.74)),
            red_cell_coverage=float(rng.choice([0.02, rng.uniform(0.1, 0.75)], p=[0.2, 0.8])),
            red_cell_ghost=float(rng.uniform(0.85, 1.0)) if ghosts else float(rng.uniform(0, 0.2)),
            edge=float(rng.choice([0.0, rng.uniform(0.0, 0.5)])),
            noise=float(rng.uniform(0.002, 0.03)),
            jpeg_quality=int(rng.integers(55, 96)),
        )


def expose(density: np.ndarray, laboratory: Laboratory, rng: np.random.Generator) -> np.ndarray:
    """Photograph a field of optical densities (size, size, 3): uint8 RGB (size, size, 3)."""
    size = density.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = rng.normal(0, 0.25 * laboratory.vignette, 2)
    off_axis = 0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    shading = 1 - laboratory.vignette * off_axis + tilt[0] * axis[:, None] + tilt[1] * axis[None, :]

    image = np.exp(-density) * np.asarray(laboratory.light, np.float32) * shading[..., None]
    focus = laboratory.blur * size * rng.uniform(0.8, 1.25)
    for channel, defocus in enumerate((1.1, 1.0, 1.2)):
        # A lens focuses the three colours slightly differently.
        image[..., channel] = ndimage.gaussian_filter(image[..., channel], focus * defocus, truncate=3.0)

    # Grain is mostly shared by the channels; a coarser part of it is coloured, as after demosaicing.
    grain = rng.standard_normal((size, size, 1), dtype=np.float32)
    colour = np.stack([smooth_noise((size, size), 2.0, rng) for _ in range(3)], axis=-1)
    image += laboratory.noise * (0.7 * grain + 0.7 * colour) * np.sqrt(np.clip(image, 0.05, 1))
    pixels = np.clip(255 * image + 0.5, 0, 255).astype(np.uint8)
    stored = BytesIO()
    Image.fromarray(pixels).save(stored, format="JPEG", quality=laboratory.jpeg_quality)
    return np.array(Image.open(stored))


# Yellow, white (overexposed), cream; pink-white, pale blue, grey-purple.
_EMPTY_FIELDS = (
    (1.03, 1.00, 0.48), (1.12, 1.09, 1.12), (0.99, 0.91, 0.82),
    (0.99, 0.92, 0.94), (0.86, 0.91, 0.99), (0.80, 0.74, 0.84),
)  # fmt: skip

_LABORATORIES = (
    Laboratory(name="lab_a"),
    Laboratory(
        name="lab_b", nucleus=(0.85, 1.75, 0.62), pink_cytoplasm=(0.26, 0.50, 0.08), blue_cytoplasm=(0.36, 0.48, 0.10),
        eosinophil_granule=(0.24, 0.85, 0.45), red_cell=(0.10, 0.12, 0.16),
        light=(1.02, 1.00, 0.47), vignette=0.08, blur=0.011, cell_diameter=0.62,
        red_cell_coverage=0.25, red_cell_ghost=0.95, edge=0.30, noise=0.012, jpeg_quality=80,
    ),
    Laboratory(
        name="lab_c", nucleus=(1.15, 1.15, 0.35), pink_cytoplasm=(0.24, 0.24, 0.10), blue_cytoplasm=(0.50, 0.36, 0.10),
        eosinophil_granule=(0.25, 0.62, 0.50), basophil_granule=(1.55, 1.50, 0.60), red_cell=(0.26, 0.27, 0.18),
        light=(0.84, 0.91, 0.99), vignette=0.12, blur=0.006, cell_diameter=0.50, noise=0.015, jpeg_quality=85,
    ),
    Laboratory(
        name="lab_d", nucleus=(1.10, 2.20, 0.75), pink_cytoplasm=(0.12, 0.42, 0.24), blue_cytoplasm=(0.50, 0.60, 0.22),
        eosinophil_granule=(0.15, 1.10, 0.75), basophil_granule=(1.60, 2.30, 0.95), red_cell=(0.12, 0.62, 0.40),
        light=(1.03, 0.95, 0.97), vignette=0.03, blur=0.004, cell_diameter=0.55,
        red_cell_coverage=0.60, noise=0.006, jpeg_quality=95,
    ),
)  # fmt: skip
LABORATORIES = {laboratory.name: laboratory for laboratory in _LABORATORIES}
