"""Statistics of laboratories: gathered in parts, applied by row, and what a new laboratory gets."""

import json

import numpy as np
import pytest

from sam_bloodcell.alignment.domains import ClusterShifts, DomainScaler, Moments, balanced_batches, domain_column

LAB = np.repeat(["a", "b"], [30, 50])


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 4)) * [1, 2, 3, 0] + np.where(LAB == "a", 5.0, -1.0)[:, None]


def scaler_of(values, domain):
    scaler = DomainScaler()
    scaler.update(values, domain)
    return scaler


@pytest.mark.parametrize("shape", [(60, 3), (60, 3, 2, 5)])
def test_moments_of_parts_are_those_of_the_whole(shape):
    values = np.random.default_rng(0).normal(100, 1, shape)
    joined = Moments() + Moments.of(values[:7]) + Moments.of(values[7:8]) + Moments.of(values[8:])
    axes = (0, *range(2, len(shape)))
    np.testing.assert_allclose(joined.mean, values.mean(axes))
    np.testing.assert_allclose(joined.variance, values.var(axes))


def test_each_laboratory_is_scaled_by_its_own(values):
    scaled = scaler_of(values, LAB).scale(values, LAB)
    assert scaled.dtype == np.float32
    for rows in (LAB == "a", LAB == "b"):
        np.testing.assert_allclose(scaled[rows].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled[rows].std(0), [1, 1, 1, 0], atol=1e-5)


def test_without_a_laboratory_rows_do_not_depend_on_each_other(values):
    scaler = scaler_of(values, LAB)
    whole = scaler.scale(values, None)
    np.testing.assert_array_equal(scaler.scale(values[[3]], None), whole[[3]])
    means = (values[LAB == "a"].mean(0) + values[LAB == "b"].mean(0)) / 2
    np.testing.assert_allclose(whole[:, 3], values[:, 3] - means[3], atol=1e-5)


def test_a_laboratory_of_the_fit_is_scaled_by_the_fit(values):
    scaler = scaler_of(values, LAB)
    np.testing.assert_array_equal(scaler.scale(values[:2], LAB[:2]), scaler.scale(values, LAB)[:2])


def test_a_new_laboratory_gets_the_statistics_of_its_rows(values):
    scaler = scaler_of(values[LAB == "a"], LAB[LAB == "a"])
    new = np.full(50, "new")
    parts = [(values[30:60], new[:30]), (values[60:], new[30:])]
    scaled = scaler.including(parts).scale(values[30:], new)
    assert np.abs(scaled[:, :3].mean(0)).max() < 0.2
    assert set(scaler.moments) == {"a"}
    alone = scaler.including([(values[-1:], new[:1])]).scale(values[-1:], new[:1])
    assert np.isfinite(alone).all()


def test_unscale_undoes(values):
    scaler = scaler_of(values, LAB)
    for domain in (LAB, None):
        np.testing.assert_allclose(scaler.unscale(scaler.scale(values, domain), domain), values, rtol=1e-4, atol=1e-4)


def test_large_offsets_keep_their_digits():
    values = 1e8 + np.arange(10.0)[:, None]
    scaled = scaler_of(values, None).scale(values, None)
    np.testing.assert_allclose(np.diff(scaled[:, 0]), 1 / values.std(), rtol=1e-5)


@pytest.mark.parametrize("names", [["x", "y"], [3, 7]])
def test_through_json_and_back(values, names):
    domain = np.array(names)[(LAB == "b").astype(int)]
    scaler = scaler_of(values, domain)
    shifts = ClusterShifts.fit(values, domain, 0)
    as_list = {"default": lambda value: value.tolist()}
    back = DomainScaler.from_plain(json.loads(json.dumps(scaler.to_plain(), **as_list)))
    np.testing.assert_array_equal(back.scale(values, domain), scaler.scale(values, domain))
    back = ClusterShifts.from_plain(json.loads(json.dumps(shifts.to_plain(), **as_list)))
    moved = values.astype(np.float32)
    np.testing.assert_array_equal(back.correct(moved, domain), shifts.correct(moved, domain))


def unlike_mixtures(offset):
    """Two types of cells, 9 to 1 in one laboratory and 1 to 9 in the other, which also lies off by `offset`."""
    kind = np.concatenate([np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [10, 90])])
    lab = np.repeat([0, 1], 100)
    features = np.random.default_rng(0).normal(0, 0.3, (200, 2))
    features[:, 0] += 6 * kind
    features[:, 1] += offset * lab
    return features.astype(np.float32), kind, lab


def gap(features, kind, lab):
    """Distance between the laboratories' cells of one type."""
    return np.linalg.norm([features[(kind == k) & (lab == 0)].mean(0) - features[(kind == k) & (lab == 1)].mean(0)
                           for k in (0, 1)], axis=1).max()  # fmt: skip


def test_shifts_bring_like_cells_together_where_scaling_cannot():
    features, kind, lab = unlike_mixtures(1.5)
    scaled = scaler_of(features, lab).scale(features, lab)
    corrected = ClusterShifts.fit(features, lab, 0).correct(features, lab)
    assert gap(features, kind, lab) > 1.3
    assert gap(scaled, kind, lab) > 1.3
    assert gap(corrected, kind, lab) < 0.65 * gap(features, kind, lab)


def test_a_new_laboratory_is_moved_by_its_rows():
    features, _, lab = unlike_mixtures(1.5)
    both = np.concatenate([features, features + np.float32([0, 1])])
    known = np.concatenate([lab, np.full(200, 2)])
    shifts = ClusterShifts.fit(features, lab, 0)
    corrected = shifts.correct(both, known)
    away = np.linalg.norm(corrected[200:].mean(0) - corrected[:200].mean(0))
    assert away < 0.6 * np.linalg.norm(both[200:].mean(0) - both[:200].mean(0))
    assert set(shifts.shifts) == {0, 1}


def test_few_distinct_cells_are_enough():
    same = np.ones((6, 3), np.float32)
    corrected = ClusterShifts.fit(same, np.repeat([0, 1], 3), 0).correct(same, np.repeat([0, 1], 3))
    np.testing.assert_allclose(corrected, same)


def test_batches_hold_every_laboratory_alike():
    codes = np.repeat([0, 1, 2], [500, 30, 5])
    batches = list(balanced_batches(codes, 60, 8, np.random.default_rng(0)))
    assert len(batches) == 8
    assert all(np.bincount(codes[batch]).tolist() == [20, 20, 20] for batch in batches)
    seen = np.concatenate(batches)
    assert len(np.unique(seen[codes[seen] == 0])) == 160  # none twice before all were there
    assert set(seen) >= set(range(500, 535))


def test_one_laboratory_or_none_is_gone_through_once():
    batches = list(balanced_batches(np.full(40, -1), 10, 4, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(40))


def test_a_domain_column_is_checked():
    assert domain_column(["a", "b"], 2).tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"Got domain of shape \(2,\) but expected \(3,\).* Fix:"):
        domain_column([0, 1], 3)
    with pytest.raises(ValueError, match=r"Row 1: domain is missing. Fix:"):
        domain_column(["a", None], 2)
