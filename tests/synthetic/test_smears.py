import dataclasses
import inspect
import re

import numpy as np
import pytest
from scipy import ndimage

from sam_bloodcell.synthetic.smears import (
    COMMON_CLASSES,
    LABORATORIES,
    Laboratory,
    draw_cell,
    make_blood_cells,
)

FOUR_LABS = ("lab_a", "lab_b", "lab_c", "lab_d")


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(8, domains=FOUR_LABS, image_size=96, random_state=0)


def _of_class(cells, name, domain=None):
    chosen = cells.target == cells.target_names.index(name)
    if domain is not None:
        chosen &= cells.domain == domain
    return cells.images[chosen], cells.masks[chosen]


def _nuclear_share(cells, name):
    _, masks = _of_class(cells, name)
    return (masks == 255).sum() / (masks > 0).sum()


def _cytoplasm_colour(cells, name, domain):
    images, masks = _of_class(cells, name, domain)
    return images[masks == 128].mean(axis=0)


def test_shapes_and_types(cells):
    n = 8 * 5 * 4
    assert cells.images.shape == (n, 96, 96, 3)
    assert cells.images.dtype == np.uint8
    assert cells.masks.shape == (n, 96, 96)
    assert cells.masks.dtype == np.uint8
    assert cells.target.shape == cells.domain.shape == (n,)
    assert cells.target_names == list(COMMON_CLASSES)
    assert "160 synthetic" in cells.DESCR


def test_every_class_in_every_laboratory_shuffled_within(cells):
    assert cells.domain.tolist() == np.repeat(FOUR_LABS, 40).tolist()
    for name in FOUR_LABS:
        target = cells.target[cells.domain == name]
        assert np.bincount(target).tolist() == [8] * 5
        assert np.any(np.diff(target) < 0)


def test_same_seed_same_cells():
    first, again, other = (make_blood_cells(1, image_size=32, random_state=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.masks, again.masks)
    np.testing.assert_array_equal(first.target, again.target)
    assert not np.array_equal(first.images, other.images)


def test_generator_and_none_are_accepted():
    first = make_blood_cells(1, image_size=32, random_state=np.random.default_rng(5))
    again = make_blood_cells(1, image_size=32, random_state=np.random.default_rng(5))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(make_blood_cells(1, image_size=32).images, make_blood_cells(1, image_size=32).images)


def test_a_cell_does_not_depend_on_the_others():
    few = make_blood_cells(1, classes=["neutrophil"], domains=["lab_b"], image_size=48, random_state=1)
    many = make_blood_cells(3, domains=["lab_a", "lab_b"], image_size=48, random_state=1)
    assert any(np.array_equal(few.images[0], image) for image in many.images)


def test_target_follows_the_order_of_classes():
    cells = make_blood_cells(2, classes=("neutrophil", "basophil"), image_size=32, random_state=0)
    assert cells.target_names == ["neutrophil", "basophil"]
    assert set(cells.target.tolist()) == {0, 1}


def test_masks_hold_one_central_cell(cells):
    for mask in cells.masks:
        assert set(np.unique(mask)) == {0, 128, 255}
        _, n_pieces = ndimage.label(mask > 0)
        assert n_pieces == 1
        assert np.abs(np.array(ndimage.center_of_mass(mask > 0)) - 47.5).max() < 0.12 * 96


@pytest.mark.parametrize("cell_type", COMMON_CLASSES)
def test_a_rim_of_cytoplasm_surrounds_the_nucleus(cell_type):
    for seed in range(5):
        _, mask = draw_cell(cell_type, "lab_b", 224, np.random.default_rng(seed))
        assert not np.any(ndimage.binary_dilation(mask == 255) & (mask == 0))


def test_cells_stay_inside_the_image(cells):
    border = np.ones((96, 96), bool)
    border[1:-1, 1:-1] = False
    assert not cells.masks[:, border].any()


@pytest.mark.parametrize("cell_type", COMMON_CLASSES)
@pytest.mark.parametrize("size", [16, 33])
def test_small_and_odd_sizes(cell_type, size):
    image, mask = draw_cell(cell_type, "lab_a", size, np.random.default_rng(0))
    assert image.shape == (size, size, 3)
    assert mask.shape == (size, size)
    assert (mask > 0).any()


def test_lymphocytes_are_mostly_nucleus_and_segmented_cells_are_not(cells):
    shares = {name: _nuclear_share(cells, name) for name in COMMON_CLASSES}
    assert shares["lymphocyte"] > 0.55
    assert shares["neutrophil"] < 0.45
    assert max(shares, key=shares.get) == "lymphocyte"


def test_lymphocytes_are_the_smallest_and_monocytes_the_largest(cells):
    for domain in FOUR_LABS:
        area = {name: (_of_class(cells, name, domain)[1] > 0).mean() for name in COMMON_CLASSES}
        assert min(area, key=area.get) == "lymphocyte"
        assert max(area, key=area.get) == "monocyte"


def test_lymphocyte_nuclei_are_rounder_than_neutrophil_nuclei(cells):
    def compactness(name):
        _, masks = _of_class(cells, name)
        nuclei = masks == 255
        outline = np.array([(n & ~ndimage.binary_erosion(n)).sum() for n in nuclei])
        return np.mean(nuclei.sum(axis=(1, 2)) / outline**2)

    assert compactness("lymphocyte") > 1.5 * compactness("neutrophil")


@pytest.mark.parametrize("domain", FOUR_LABS)
def test_granules_have_their_colours(cells, domain):
    eosinophil = _cytoplasm_colour(cells, "eosinophil", domain)
    basophil = _cytoplasm_colour(cells, "basophil", domain)
    neutrophil = _cytoplasm_colour(cells, "neutrophil", domain)
    assert eosinophil[0] - eosinophil[2] > basophil[0] - basophil[2] + 10
    assert basophil.mean() < neutrophil.mean()


@pytest.mark.parametrize("domain", FOUR_LABS)
def test_monocyte_cytoplasm_is_bluer_than_neutrophil_cytoplasm(cells, domain):
    monocyte = _cytoplasm_colour(cells, "monocyte", domain)
    neutrophil = _cytoplasm_colour(cells, "neutrophil", domain)
    assert monocyte[2] - monocyte[0] > neutrophil[2] - neutrophil[0]


def test_nuclei_are_darker_than_the_field(cells):
    for image, mask in zip(cells.images, cells.masks, strict=True):
        assert image[mask == 255].mean() < image[mask == 0].mean() - 20


def test_laboratories_differ_in_colour(cells):
    colours = [cells.images[cells.domain == name].mean(axis=(0, 1, 2)) for name in FOUR_LABS]
    for i, first in enumerate(colours):
        for second in colours[:i]:
            assert np.linalg.norm(first - second) > 20


def test_random_laboratories_cover_colours_and_magnifications():
    rng = np.random.default_rng(0)
    laboratories = [Laboratory.random(rng) for _ in range(200)]
    diameters = [laboratory.cell_diameter for laboratory in laboratories]
    assert min(diameters) < 0.35
    assert max(diameters) > 0.70
    light = np.array([laboratory.light for laboratory in laboratories])
    yellow = light[:, 2] / light[:, 0]
    assert yellow.min() < 0.55
    assert (light.min(axis=1) > 0.95).any()
    assert (light.max(axis=1) < 0.9).any()
    assert Laboratory.random(np.random.default_rng(1)) == Laboratory.random(np.random.default_rng(1))


def test_a_laboratory_of_ones_own():
    own = dataclasses.replace(LABORATORIES["lab_a"], name="ours", blur=0.02)
    cells = make_blood_cells(1, domains=["lab_a", own], image_size=32, random_state=0)
    assert sorted(set(cells.domain.tolist())) == ["lab_a", "ours"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "Got image_size=0 but expected a positive integer. Fix: "),
        ({"image_size": 8}, "Got image_size=8 but expected at least 16 pixels. Fix: "),
        ({"n_cells_per_class": -1}, "Got n_cells_per_class=-1 but expected a positive integer. Fix: "),
        ({"n_cells_per_class": 1.5}, "Got n_cells_per_class=1.5 but expected a positive integer. Fix: "),
        ({"n_cells_per_class": True}, "Got n_cells_per_class=True but expected a positive integer. Fix: "),
        ({"classes": ["blast"]}, "choose from basophil, eosinophil, lymphocyte, monocyte, neutrophil."),
        ({"classes": []}, "Got classes=[] but expected known names, each once. Fix: "),
        ({"classes": ["basophil", "basophil"]}, "but expected known names, each once. Fix: "),
        ({"domains": ["lab_z"]}, "choose from lab_a, lab_b, lab_c, lab_d."),
        ({"domains": [3]}, "Got domain 3 but expected a Laboratory or a known name. Fix: "),
        ({"domains": []}, "Got domains named [] but expected one or more distinct names. Fix: "),
        ({"domains": ["lab_a", "lab_a"]}, "but expected one or more distinct names. Fix: "),
        ({"random_state": -1}, "Got random_state=-1 but expected None, an integer >= 0"),
        ({"random_state": "x"}, "Got random_state='x' but expected None, an integer >= 0"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_blood_cells(**arguments)


def test_draw_cell_names_its_own_parameter():
    with pytest.raises(ValueError, match=r"Got size=0 but expected a positive integer\. Fix: "):
        draw_cell("basophil", "lab_a", 0, np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"Got cell_type='blast' but expected a known name\. Fix: choose from basophil"
    ):
        draw_cell("blast", "lab_a", 32, np.random.default_rng(0))


@pytest.mark.parametrize("state", [np.random.RandomState, np.random.default_rng])
def test_a_random_state_gives_other_cells_at_every_call(state):
    first, second = state(0), state(0)
    drawn = [make_blood_cells(1, image_size=32, random_state=each).images for each in (first, first, second)]
    assert np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("function", [make_blood_cells, Laboratory])
def test_documented_defaults_are_the_real_ones(function):
    for name, parameter in inspect.signature(function).parameters.items():
        documented = re.search(rf"^ *{name} : .*default=(.+)$", function.__doc__, flags=re.MULTILINE)
        if documented:
            assert documented.group(1).replace('"', "'") == repr(parameter.default)
