import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.exceptions import ImageReadError
from sam_bloodcell.images import load_rgb, stain_views
from sam_bloodcell.images.stain_views import draw_views, jitter_stain, random_affine, stain_statistics, warp


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(8, classes=["eosinophil", "lymphocyte"], image_size=48, random_state=0)


@pytest.fixture
def paths(cells, tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(len(cells.images))]
    for path, image in zip(paths, cells.images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def digests(drawn):
    return {(int(row), view.digest()) for row, view in zip(drawn.rows, drawn.views, strict=True)}


def test_every_cell_has_its_views_one_round_after_another(cells):
    n = len(cells.images)
    drawn = draw_views(cells.images, cells.domain, 3, 64, seed=0)
    assert len(drawn.views) == 3 * n
    assert drawn.rows.tolist() == [*range(n)] * 3
    assert len(digests(drawn)) == 3 * n


def test_a_view_is_the_cell_in_other_colours(cells):
    images = cells.images[cells.domain == "lab_a"]
    drawn = draw_views(images, None, 4, 64, seed=0)
    pixels = [view.rgb() for view in drawn.views]
    assert {(view.shape, view.dtype.name) for view in pixels} == {((64, 64, 3), "uint8")}
    colours, colours_of_cells = (np.array([image.mean((0, 1)) for image in kind]) for kind in (pixels, images))
    assert (colours.std(0) > 2 * colours_of_cells.std(0)).all()


def test_no_pixel_is_read_before_it_is_wanted(paths, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(stain_views, "load_square", refuse)
    drawn = draw_views(paths, None, 2, 64, seed=0)
    drawn.views[0].digest()
    assert len(pickle.dumps(drawn.views[0])) < 1000
    with pytest.raises(AssertionError, match="decoded"):
        drawn.views[0].rgb()


def test_the_seed_decides_a_view_and_the_order_of_the_cells_does_not(cells):
    first = draw_views(cells.images, cells.domain, 2, 64, seed=0)
    backwards = draw_views(cells.images[::-1], cells.domain[::-1], 2, 64, seed=0)
    assert {digest for _, digest in digests(first)} == {digest for _, digest in digests(backwards)}
    np.testing.assert_array_equal(first.views[0].rgb(), backwards.views[len(cells.images) - 1].rgb())
    other = draw_views(cells.images, cells.domain, 2, 64, seed=1)
    assert not {digest for _, digest in digests(first)} & {digest for _, digest in digests(other)}


def test_leaving_cells_out_changes_only_the_views_that_had_one_of_them_as_donor(paths, cells):
    n, kept_rows = len(paths), len(paths) - 3
    whole = draw_views(paths, cells.domain, 4, 64, seed=0)
    kept = draw_views(paths[:kept_rows], cells.domain[:kept_rows], 4, 64, seed=0)
    same = {
        (int(row), view.digest())
        for row, view in zip(whole.rows, whole.views, strict=True)
        if row < kept_rows and view.donor not in paths[kept_rows:]
    }
    assert same <= digests(kept)
    assert n < len(same) < len(kept.views)


def test_every_donor_is_one_of_the_cells_and_every_laboratory_lends_its_stain(paths, cells):
    of_a = [path for path, name in zip(paths, cells.domain, strict=True) if name == "lab_a"][:2]
    of_b = [path for path, name in zip(paths, cells.domain, strict=True) if name == "lab_b"]
    drawn = draw_views(of_a + of_b, np.array(["a"] * len(of_a) + ["b"] * len(of_b)), 20, 64, seed=0)
    donors = [view.donor for view in drawn.views]
    assert set(donors) <= {*of_a, *of_b, None}
    assert np.mean([donor is not None for donor in donors]) == pytest.approx(0.6, abs=0.08)
    of_the_small_laboratory = [donor in of_a for donor in donors if donor is not None]
    assert np.mean(of_the_small_laboratory) == pytest.approx(0.5, abs=0.1)


def test_a_file_that_cannot_be_read_has_no_view(paths):
    paths[3].unlink()
    drawn = draw_views(paths, None, 2, 64, seed=0)
    assert 3 not in drawn.rows
    assert len(drawn.views) == 2 * (len(paths) - 1)


def test_the_error_of_a_damaged_cell_names_its_row_and_file(paths):
    paths[3].write_bytes(b"no image")
    drawn = draw_views(paths, None, 1, 64, seed=0)
    with pytest.raises(ImageReadError, match=rf"Row 3: '{paths[3]}'"):
        drawn.views[3].rgb()


def test_a_view_is_an_image_like_any_other(cells):
    (view, *_), _ = draw_views(cells.images, None, 1, 64, seed=0)
    np.testing.assert_array_equal(load_rgb(view), view.rgb())


def test_a_donor_hands_its_colours_on():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.6
    mean, std = torch.full((1, 3, 1, 1), 1.5), torch.full((1, 3, 1, 1), 0.2)
    moved = [
        jitter_stain(images, (mean, std), torch.Generator().manual_seed(seed), share=share).mean().item()
        for share in (1.0, 0.0)
        for seed in range(30)
    ]
    assert np.mean(moved[:30]) < 0.5 < np.mean(moved[30:])


def test_statistics_of_a_stain_are_optical_densities():
    mean, std = stain_statistics(torch.full((2, 3, 8, 8), 1.0))
    assert mean.shape == (2, 3, 1, 1)
    assert mean.abs().max() < 1e-6
    assert std.abs().max() < 1e-6


def test_without_turn_or_zoom_a_picture_stays_as_it_is():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    still = torch.eye(2, 3).expand(2, 2, 3)
    torch.testing.assert_close(warp(images, still, 16), images, atol=1e-5, rtol=0)
    turned = warp(images, random_affine(2, torch.Generator().manual_seed(0), (0.9, 1.1)), 16)
    assert (turned - images).abs().mean() > 0.05
