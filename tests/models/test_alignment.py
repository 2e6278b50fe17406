"""Distances between domains: checked by hand; absent domains never harm."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sam_bloodcell.models.alignment import ALIGNMENTS, first_discrepancy, mean_discrepancy, mmd

every = pytest.mark.parametrize("distance", ALIGNMENTS.values(), ids=ALIGNMENTS.keys())


def two(gap, n=40, width=3, seed=0):
    """Features of two domains, the second `gap` away."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2 * n, width, generator=generator)
    features[n:] += gap
    return features, torch.arange(2).repeat_interleave(n)


@every
def test_grows_with_the_gap(distance):
    values = [distance(*two(gap)).item() for gap in (0.0, 1.0, 2.0)]
    assert values[0] < values[1] < values[2]


@every
def test_equal_domains_are_at_no_distance(distance):
    features = torch.randn(20, 3).repeat(2, 1)
    assert distance(features, torch.arange(2).repeat_interleave(20)).item() == pytest.approx(0, abs=1e-5)


@every
@pytest.mark.parametrize("domain", [[0, 0, 0], [2, 2, 2], [-1, -1, -1], [1, -1, -1]])
def test_one_domain_or_none_gives_zero_and_a_gradient(distance, domain):
    features = torch.randn(3, 4, requires_grad=True)
    value = distance(features, torch.tensor(domain))
    value.backward()
    assert value.item() == 0
    assert (features.grad == 0).all()


@every
def test_unknown_domains_take_no_part(distance):
    features, domain = two(1.0)
    strangers = torch.cat([features, torch.full((5, 3), 1e3)]).requires_grad_()
    value = distance(strangers, torch.cat([domain, torch.full((5,), -1)]))
    value.backward()
    assert value.item() == pytest.approx(distance(features, domain).item(), rel=1e-5)
    assert (strangers.grad[-5:] == 0).all()


@pytest.mark.parametrize("distance", [mean_discrepancy, mmd])
def test_is_the_mean_over_pairs_whatever_the_codes(distance):
    features, domain = torch.randn(30, 3), torch.arange(3).repeat_interleave(10)
    pairs = [distance(features[domain != left_out], domain[domain != left_out]) for left_out in range(3)]
    expected = torch.stack(pairs).mean().item()
    assert distance(features, domain).item() == pytest.approx(expected, rel=1e-4)
    assert distance(features, torch.tensor([7, 3, 0])[domain]).item() == pytest.approx(expected, rel=1e-2)


@every
def test_a_domain_of_one_cell_gives_finite_gradients(distance):
    features = torch.randn(5, 4, requires_grad=True)
    distance(features, torch.tensor([0, 0, 0, 0, 1])).backward()
    assert features.grad.isfinite().all()


@every
def test_gradients_lead_the_domains_together(distance):
    features, domain = two(2.0)
    features.requires_grad_()
    before = distance(features, domain)
    before.backward()
    moved = features.detach() - 0.1 * features.grad / features.grad.norm()
    assert distance(moved, domain) < before


def test_means_by_hand():
    features = torch.tensor([[0.0, 0.0], [2.0, 4.0], [3.0, 5.0]])
    # means (1, 2) and (3, 5): (4 + 9) / 2
    assert mean_discrepancy(features, torch.tensor([0, 0, 1])).item() == pytest.approx(6.5)


def test_the_papers_term_by_hand():
    features = torch.tensor([[0.0, 0.0], [2.0, 4.0], [3.0, 5.0], [1.0, 5.0]])
    # means (1, 2), (3, 5), (1, 5): the second and the third are compared with the first, not with each other
    assert first_discrepancy(features, torch.tensor([0, 0, 1, 2])).item() == pytest.approx((4 + 9) / 2 + 9 / 2)
    # of an absent domain nothing is added; nothing can be compared with an absent first one
    assert first_discrepancy(features, torch.tensor([0, 0, 2, -1])).item() == pytest.approx((4 + 9) / 2)
    assert first_discrepancy(features, torch.tensor([1, 1, 2, 2])).item() == 0


def test_the_papers_term_is_the_mean_discrepancy_of_two_domains():
    features, domain = two(1.0)
    torch.testing.assert_close(first_discrepancy(features, domain), mean_discrepancy(features, domain))


def test_mmd_by_hand():
    # one cell a domain, 2 apart: mean squared distance of all four pairs is 2; k = mean of exp(-4 / (2 w))
    kernel = np.mean([np.exp(-2 / width) for width in (0.25, 0.5, 1, 2, 4)])
    value = mmd(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1])).item()
    assert value == pytest.approx(2 - 2 * kernel, abs=1e-6)


def test_mmd_sees_what_means_do_not():
    wide, domain = two(0.0)
    wide[40:] *= 3
    wide[40:] -= wide[40:].mean(0) - wide[:40].mean(0)
    assert mean_discrepancy(wide, domain).item() == pytest.approx(0, abs=1e-6)
    assert mmd(wide, domain).item() > 3 * mmd(*two(0.0)).item()


def test_equal_cells_far_from_zero_have_no_distance_and_finite_gradients():
    features = (torch.randn(8, 16).repeat(2, 1) + 1e3).requires_grad_()
    value = mmd(features, torch.arange(2).repeat_interleave(8))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 1e-3


def test_mmd_and_its_gradient_equal_those_of_all_differences():
    features, domain = two(1.0, n=20, width=64)
    values = []
    for wanted in (features.double() + 50, features + 50):
        x = wanted.detach().requires_grad_()
        value = mmd(x, domain)
        value.backward()
        values.append((value.item(), x.grad.numpy()))
    x = (features.double() + 50).requires_grad_()
    squared = (x[:, None] - x[None]).square().sum(-1)
    unit = squared.detach().mean()
    kernel = torch.stack([torch.exp(-squared / (width * unit)) for width in (0.25, 0.5, 1, 2, 4)]).mean(0)
    expected = kernel[:20, :20].mean() + kernel[20:, 20:].mean() - 2 * kernel[:20, 20:].mean()
    expected.backward()
    assert values[0][0] == pytest.approx(expected.item(), rel=1e-9)
    assert values[1][0] == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(values[0][1], x.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(values[1][1], x.grad.numpy(), atol=1e-3 * x.grad.abs().max())


def test_mmd_keeps_its_precision_under_autocast():
    features, domain = two(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = mmd(features, domain).item()
    assert found == pytest.approx(mmd(features, domain).item(), rel=1e-6)


@pytest.mark.slow
def test_mmd_of_wide_features_fits_into_small_memory():
    code = """if True:
        import resource
        import torch
        from sam_bloodcell.models.alignment import mmd
        features, domain = torch.randn(3000, 768, requires_grad=True), torch.arange(2).repeat_interleave(1500)
        mmd(features[:10], torch.arange(2).repeat(5)).backward()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mmd(features, domain).backward()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(found.stdout) < 1500  # MiB: the differences alone would be 26 thousand
