"""Statistics of domains: gathered in parts, applied by row, and what a new domain gets.

Shifts of clusters: they bring like cells of two domains together where the domains hold other cell types.
"""

import json

import numpy as np
import pytest

from sam_bloodcell.alignment.normalization import ClusterShifts, DomainScaler

DOMAIN = np.repeat(["a", "b"], [30, 50])


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 4)) * [1, 2, 3, 0] + np.where(DOMAIN == "a", 5.0, -1.0)[:, None]


def scaler_of(values, domain):
    scaler = DomainScaler()
    scaler.update(values, domain)
    return scaler


@pytest.mark.parametrize("shape", [(60, 3), (60, 3, 2, 5)])
def test_statistics_of_parts_are_those_of_the_whole(shape):
    values = np.random.default_rng(0).normal(100, 1, shape)
    scaler = DomainScaler()
    for part in (values[:7], values[7:8], values[8:].astype(np.float32)):
        scaler.update(part, None)
    axes = (0, *range(2, len(shape)))
    mean, variance = scaler.overall()
    np.testing.assert_allclose(mean, values.mean(axes))
    np.testing.assert_allclose(variance, values.var(axes), rtol=1e-5)


def test_half_precision_is_summed_in_double(values):
    tokens = np.random.default_rng(0).normal(30, 1, (500, 4, 14, 14)).astype(np.float16)
    mean, variance = scaler_of(tokens, None).overall()
    np.testing.assert_allclose(mean, tokens.mean((0, 2, 3), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(variance, tokens.var((0, 2, 3), dtype=np.float64), rtol=1e-10)


def test_each_laboratory_is_scaled_by_its_own(values):
    scaled = scaler_of(values, DOMAIN).scale(values, DOMAIN)
    assert scaled.dtype == np.float32
    for rows in (DOMAIN == "a", DOMAIN == "b"):
        np.testing.assert_allclose(scaled[rows].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled[rows].std(0), [1, 1, 1, 0], atol=1e-5)


def test_without_a_laboratory_rows_do_not_depend_on_each_other(values):
    scaler = scaler_of(values, DOMAIN)
    whole = scaler.scale(values, None)
    np.testing.assert_array_equal(scaler.scale(values[[3]], None), whole[[3]])
    means = (values[DOMAIN == "a"].mean(0) + values[DOMAIN == "b"].mean(0)) / 2
    np.testing.assert_allclose(whole[:, 3], values[:, 3] - means[3], atol=1e-5)


def test_a_laboratory_of_the_fit_is_scaled_by_the_fit(values):
    scaler = scaler_of(values, DOMAIN)
    np.testing.assert_array_equal(scaler.scale(values[:2], DOMAIN[:2]), scaler.scale(values, DOMAIN)[:2])


def test_a_new_laboratory_gets_the_statistics_of_its_rows(values):
    scaler = scaler_of(values[DOMAIN == "a"], DOMAIN[DOMAIN == "a"])
    new = np.full(50, "new")
    parts = [(values[30:60], new[:30]), (values[60:], new[30:])]
    scaled = scaler.including(parts).scale(values[30:], new)
    assert np.abs(scaled[:, :3].mean(0)).max() < 0.2
    assert set(scaler.statistics) == {"a"}
    alone = scaler.including([(values[-1:], new[:1])]).scale(values[-1:], new[:1])
    assert np.isfinite(alone).all()


def test_scaling_can_be_undone(values):
    scaler = scaler_of(values, DOMAIN)
    for domain in (DOMAIN, None):
        np.testing.assert_allclose(
            scaler.scale(scaler.scale(values, domain), domain, undo=True), values, rtol=1e-4, atol=1e-4
        )


def test_large_offsets_keep_their_digits():
    values = 1e8 + np.arange(10.0)[:, None]
    scaled = scaler_of(values, None).scale(values, None)
    np.testing.assert_allclose(np.diff(scaled[:, 0]), 1 / values.std(), rtol=1e-5)


@pytest.mark.parametrize("names", [["x", "y"], [3, 7]])
def test_statistics_through_json_and_back(values, names):
    domain = np.array(names)[(DOMAIN == "b").astype(int)]
    scaler = scaler_of(values, domain)
    back = DomainScaler.from_plain(json.loads(json.dumps(scaler.to_plain(), default=lambda value: value.tolist())))
    np.testing.assert_array_equal(back.scale(values, domain), scaler.scale(values, domain))
    back.update(values[:10] + 1, domain[:10])  # gathering goes on where it was
    scaler.update(values[:10] + 1, domain[:10])
    np.testing.assert_array_equal(back.scale(values, domain), scaler.scale(values, domain))


def unlike_mixtures(offset):
    """Two types of cells, 9 to 1 in one laboratory and 1 to 9 in the other, which also lies off by `offset`."""
    kind = np.concatenate([np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [10, 90])])
    domain = np.repeat([0, 1], 100)
    features = np.random.default_rng(0).normal(0, 0.3, (200, 2))
    features[:, 0] += 6 * kind
    features[:, 1] += offset * domain
    return features.astype(np.float32), kind, domain


def gap(features, kind, domain):
    """Distance between the laboratories' cells of one type."""
    return np.linalg.norm([features[(kind == k) & (domain == 0)].mean(0) - features[(kind == k) & (domain == 1)].mean(0)
                           for k in (0, 1)], axis=1).max()  # fmt: skip


def test_shifts_bring_like_cells_together_where_scaling_cannot():
    features, kind, domain = unlike_mixtures(1.5)
    scaler = DomainScaler()
    scaler.update(features, domain)
    scaled = scaler.scale(features, domain)
    corrected = ClusterShifts.fit(features, domain, 0).correct(features, domain)
    assert gap(features, kind, domain) > 1.3
    assert gap(scaled, kind, domain) > 1.3
    assert gap(corrected, kind, domain) < 0.65 * gap(features, kind, domain)


def test_a_new_laboratory_is_moved_by_its_rows():
    features, _, domain = unlike_mixtures(1.5)
    both = np.concatenate([features, features + np.float32([0, 1])])
    known = np.concatenate([domain, np.full(200, 2)])
    shifts = ClusterShifts.fit(features, domain, 0)
    corrected = shifts.correct(both, known)
    away = np.linalg.norm(corrected[200:].mean(0) - corrected[:200].mean(0))
    assert away < 0.6 * np.linalg.norm(both[200:].mean(0) - both[:200].mean(0))
    assert set(shifts.shifts) == {0, 1}


def test_few_distinct_cells_are_enough():
    same = np.ones((6, 3), np.float32)
    corrected = ClusterShifts.fit(same, np.repeat([0, 1], 3), 0).correct(same, np.repeat([0, 1], 3))
    np.testing.assert_allclose(corrected, same)


@pytest.mark.parametrize("names", [["x", "y"], [3, 7]])
def test_shifts_through_json_and_back(names):
    features, _, domain = unlike_mixtures(1.5)
    domain = np.array(names)[domain]
    shifts = ClusterShifts.fit(features, domain, 0)
    back = ClusterShifts.from_plain(json.loads(json.dumps(shifts.to_plain(), default=lambda value: value.tolist())))
    np.testing.assert_array_equal(back.correct(features, domain), shifts.correct(features, domain))
