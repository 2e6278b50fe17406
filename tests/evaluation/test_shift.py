import numpy as np
import pytest

from sam_bloodcell.evaluation import domain_shift, near_duplicates


def test_domain_shift_sees_domains_apart_and_together():
    rng = np.random.default_rng(0)
    domain = np.repeat(["a", "b", "c"], 60)
    same = rng.normal(size=(180, 4))
    together = domain_shift(same, domain, random_state=0)
    apart = domain_shift(same + 5 * np.unique(domain, return_inverse=True)[1][:, None], domain, random_state=0)
    assert together["chance"] == apart["chance"] == pytest.approx(1 / 3)
    assert together["domain_accuracy"] < 0.5
    assert apart["domain_accuracy"] > 0.99
    assert apart["mmd"] > 5 * together["mmd"]
    assert domain_shift(same, domain, random_state=0) == together


@pytest.mark.parametrize("domain", [["a"] * 20, ["a"] * 16 + ["b"] * 4])
def test_domain_shift_needs_two_domains(domain):
    with pytest.raises(ValueError, match="expected at least two domains of at least 5 cells each"):
        domain_shift(np.zeros((20, 2)), domain)


def test_unlike_mixtures_of_classes_do_not_count_class_by_class():
    rng = np.random.default_rng(0)
    y = np.repeat(["x", "y", "x", "y"], [90, 10, 10, 90])
    domain = np.repeat(["a", "b"], 100)
    features = rng.normal(size=(200, 4)) + 8 * (y == "x")[:, None]
    table = domain_shift(features, domain, y=y, random_state=0)
    assert list(table.index) == ["all", "x", "y"]
    assert table["n"].tolist() == [200, 100, 100]
    assert table.loc["all", "domain_accuracy"] > 0.85
    assert table.loc[["x", "y"], "domain_accuracy"].max() < 0.75


def test_a_class_of_one_domain_has_no_row():
    domain = np.repeat(["a", "b"], 20)
    y = np.r_[["x"] * 10, ["z"] * 10, ["x"] * 20]
    table = domain_shift(np.random.default_rng(0).normal(size=(40, 2)), domain, y=y, random_state=0)
    assert list(table.index) == ["all", "x"]


def test_copies_are_found_and_others_are_not():
    cells = np.random.default_rng(0).normal(size=(50, 16))
    cells[40] = cells[2] * (1 + 1e-3)
    cells[41] = cells[2] + 1e-3
    found = near_duplicates(cells)
    assert sorted(map(tuple, found[["a", "b"]].to_numpy().tolist())) == [(2, 40), (2, 41), (40, 41)]
    assert found["distance"].is_monotonic_increasing
    assert near_duplicates(cells[:40]).empty
    few = near_duplicates(cells[:, :4])
    assert few.empty, "with few features cells come close by chance"
    cells[5, :4] = cells[6, :4]
    assert near_duplicates(cells[:, :4])[["a", "b"]].to_numpy().tolist() == [[5, 6]]
