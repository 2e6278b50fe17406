"""Shifts of clusters: they bring like cells of two domains together where the domains hold other cell types."""

import json

import numpy as np
import pytest

from sam_bloodcell.alignment.clusters import ClusterShifts
from sam_bloodcell.alignment.scaling import DomainScaler


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
def test_through_json_and_back(names):
    features, _, domain = unlike_mixtures(1.5)
    domain = np.array(names)[domain]
    shifts = ClusterShifts.fit(features, domain, 0)
    back = ClusterShifts.from_plain(json.loads(json.dumps(shifts.to_plain(), default=lambda value: value.tolist())))
    np.testing.assert_array_equal(back.correct(features, domain), shifts.correct(features, domain))
