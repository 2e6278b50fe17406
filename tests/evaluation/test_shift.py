import subprocess
import sys

import numpy as np
import pytest

from sam_bloodcell.evaluation import domain_shift, near_duplicates


def of_all(features, domain):
    """Return the row of all cells, which is the only one without classes."""
    table = domain_shift(features, domain, random_state=0)
    assert table.index.tolist() == ["all"]
    return table.loc["all"].to_dict()


def test_domain_shift_sees_domains_apart_and_together():
    rng = np.random.default_rng(0)
    domain = np.repeat(["a", "b", "c"], 60)
    same = rng.normal(size=(180, 4))
    together = of_all(same, domain)
    apart = of_all(same + 5 * np.unique(domain, return_inverse=True)[1][:, None], domain)
    assert together["chance"] == apart["chance"] == pytest.approx(1 / 3)
    assert together["domain_accuracy"] < 0.5
    assert apart["domain_accuracy"] > 0.99
    assert apart["mmd"] > 5 * together["mmd"]
    assert of_all(same, domain) == together


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


def test_copies_of_other_cells_are_found_among_those_alone():
    cells, others = np.random.default_rng(0).normal(size=(2, 50, 16))
    cells[3] = others[7] + 1e-3
    cells[9] = cells[8]
    assert near_duplicates(cells, others)[["a", "b"]].to_numpy().tolist() == [[3, 7]]
    assert near_duplicates(others[7:8], others)[["a", "b"]].to_numpy().tolist() == [[0, 7]]
    same = near_duplicates(others, others)
    assert same["a"].tolist() == same["b"].tolist() == list(range(50))


@pytest.mark.slow
def test_equal_distributions_are_at_no_distance_on_average():
    rng = np.random.default_rng(0)
    found = [of_all(rng.normal(size=(10, 8)), ["a"] * 5 + ["b"] * 5)["mmd"] for _ in range(60)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(60))
    assert np.std(found) < 0.1
    assert min(found) < 0, "an unbiased estimate of 0 is negative at times"


def test_distance_by_hand():
    a, b = np.array([0.0, 1, 2, 3, 4]), np.array([2.0, 3, 5, 7, 9])
    both = np.r_[a, b]
    both = (both - both.mean()) / both.std()
    squared = (both[:, None] - both) ** 2
    kernel = np.mean([np.exp(-squared / (width * squared.mean())) for width in (0.25, 0.5, 1, 2, 4)], axis=0)
    off = ~np.eye(5, dtype=bool)
    expected = kernel[:5, :5][off].mean() + kernel[5:, 5:][off].mean() - 2 * kernel[:5, 5:].mean()
    found = of_all(np.r_[a, b][:, None], ["a"] * 5 + ["b"] * 5)
    assert found["mmd"] == pytest.approx(expected)


def test_domains_that_are_too_small_are_left_out():
    features = np.random.default_rng(0).normal(size=(44, 3))
    domain = ["a"] * 20 + ["b"] * 20 + ["c"] * 4
    expected = of_all(features[:40], domain[:40])
    with pytest.warns(UserWarning, match=r"Left out domains of fewer than 5 cells: 'c' \(4\)"):
        found = of_all(features, domain)
    assert found == pytest.approx(expected)
    table = domain_shift(features, domain, y=["x"] * 44, random_state=0)
    assert table["n"].tolist() == [40, 40]
    assert table.loc["all"].to_dict() == pytest.approx(expected)


@pytest.mark.parametrize("domain", [["a"] * 20, ["a"] * 16 + ["b"] * 4])
def test_what_cannot_be_described_by_class_is_an_empty_row(domain):
    table = domain_shift(np.eye(20), domain, y=[0, 1] * 10)
    assert table["n"].to_dict() == {"all": 0}
    assert table.drop(columns="n").isna().all(axis=None)


def test_a_class_named_all_has_a_row_of_its_own():
    features, y = np.random.default_rng(0).normal(size=(40, 3)), ["all", "x"] * 20
    table = domain_shift(features, ["a"] * 20 + ["b"] * 20, y=y, random_state=0)
    assert table["n"].to_dict() == {"all": 40, "all (class)": 20, "x": 20}


@pytest.mark.slow
def test_wide_features_of_many_cells_fit_into_small_memory():
    code = """if True:
        import resource
        import numpy as np
        from sam_bloodcell.evaluation import domain_shift
        features, domain = np.random.default_rng(0).normal(size=(3000, 768)), np.repeat(["a", "b"], 1500)
        domain_shift(features[:20], np.repeat(["a", "b"], 10))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        domain_shift(features, domain, random_state=0)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(found.stdout) < 400  # MiB: differences of 2 x 1000 cells in 768 features would be 24 thousand


@pytest.mark.parametrize("width", [4, 32])
def test_equal_rows_are_copies_however_few_cells_and_wide_features(width):
    cells = np.random.default_rng(0).normal(100, 30, size=(9, width))
    cells[7] = cells[3]
    found = near_duplicates(cells, threshold=0)
    assert found.to_numpy().tolist() == [[3, 7, 0]]
