"""Measures of nucleus and cytoplasm: they follow what is drawn, and are finite for every image."""

import sys
import warnings

import numpy as np
import pytest

from sam_bloodcell.segmentation.measures import MEASURES, measure_cells


def painted(nucleus=20, grains=15):
    """A cell of radius 40 px on 112 px, with a nucleus off its centre and grains in the cytoplasm; and its mask."""
    y, x = np.mgrid[:112, :112]
    mask = np.hypot(y - 56, x - 56) <= 40
    image = np.full((112, 112, 3), 230, np.uint8)
    image[mask] = (200, 180, 210)
    image[mask & ((x // 4 + y // 4) % 2 == 0)] -= np.uint8(grains)
    image[np.hypot(y - 50, x - 60) <= nucleus] = (80, 40, 130)
    return image, mask


def measured(image, mask):
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        return dict(zip(MEASURES, measure_cells([image], [mask])[0], strict=True))


def test_53_measures_have_53_names():
    assert len(MEASURES) == len(set(MEASURES)) == 53


def test_the_numbers_are_those_of_the_script_that_the_trainings_used():
    """Computed by `training/measures.py` before it moved into the package."""
    expected = {
        "nucleus_hue_red": 0.31107, "cytoplasm_hue_green": 0.4107, "contrast_green": 1.41408,
        "cytoplasm_p90_red": 0.31943, "cytoplasm_grains_1_red": 0.01597, "nucleus_grains_4_green": 0.06483,
        "nucleus_roundness": 0.92994, "nucleus_to_cell": 0.2471, "nucleus_lobes_5": 1, "nucleus_off_centre": 0.10145,
        "rim_contrast": -0.43101, "box_area": 8.97727,
    }  # fmt: skip
    found = measured(*painted())
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-4)


def test_stronger_grains_in_the_cytoplasm_raise_its_grain_numbers():
    faint, strong = measured(*painted(grains=5)), measured(*painted(grains=40))
    names = [name for name in MEASURES if name.startswith("cytoplasm_grains")]
    assert len(names) == 6
    assert all(strong[name] > faint[name] for name in names)
    assert all(strong[name] > 1.5 * faint[name] for name in names if "_1_" in name)  # the finest scale


def test_a_bigger_nucleus_has_a_larger_share_of_the_cell():
    small, large = (measured(*painted(nucleus))["nucleus_to_cell"] for nucleus in (12, 28))
    assert (small, large) == pytest.approx(((12 / 40) ** 2, (28 / 40) ** 2), rel=0.15)


def test_a_nucleus_in_two_parts_has_two_lobes():
    image, mask = painted(nucleus=0, grains=0)
    y, x = np.mgrid[:112, :112]
    image[(np.hypot(y - 56, x - 40) <= 11) | (np.hypot(y - 56, x - 72) <= 11)] = (80, 40, 130)
    assert measured(image, mask)["nucleus_lobes_3"] == 2


def odd_cells():
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    everything, pixel, diagonal, corners = np.ones((224, 224), bool), *np.zeros((3, 224, 224), bool)
    pixel[100, 100] = corners[0, 0] = corners[-1, -1] = True
    np.fill_diagonal(diagonal, True)
    dark = np.full_like(noise, 255)
    dark[100, 100] = 0
    return {
        "a fallback": (noise, everything), "flat": (np.full_like(noise, 128), everything),
        "black": (np.zeros_like(noise), everything), "white": (np.full_like(noise, 255), pixel),
        "one pixel": (noise, pixel), "a line": (noise, diagonal), "two corners": (noise, corners),
        "one dark pixel": (dark, everything), "all nucleus": painted(nucleus=60),
        "16 px": (noise[:16, :16], everything[:16, :16]),
    }  # fmt: skip


@pytest.mark.parametrize("name", odd_cells())
def test_odd_cells_have_finite_numbers_without_a_warning(name):
    assert np.isfinite(list(measured(*odd_cells()[name]).values())).all()


def test_without_scikit_image_the_way_out_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r'needs scikit-image\. Fix: pip install "sam-bloodcell\[masks\]"'):
        measured(*painted())
