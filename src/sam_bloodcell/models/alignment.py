"""Distances between the features of laboratories, to be trained away: pure functions of features and domain codes.

Each is the mean over all pairs of domains in the batch. A domain that is absent from the batch, or has a negative
code ("unknown"), takes no part; with fewer than two domains the distance is 0 and so is its gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_MMD_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def _over_pairs(distance: Callable[[Tensor, Tensor], Tensor], features: Tensor, domain: Tensor) -> Tensor:
    if features.ndim != 2 or domain.shape != features.shape[:1]:
        raise ValueError(
            f"Got features of shape {tuple(features.shape)} and domain of shape {tuple(domain.shape)} but expected "
            "(B, F) and (B,)."
        )
    groups = [features[domain == code] for code in domain[domain >= 0].unique()]
    pairs = [distance(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    return torch.stack(pairs).mean() if pairs else features.sum() * 0.0


def mean_discrepancy(features: Tensor, domain: Tensor) -> Tensor:
    """Squared distance between domain means, averaged over features.

    The papers' term, but for two errors of the published code: it compares every domain with the first alone, and
    divides by zero when one is missing from a batch.

    Parameters
    ----------
    features : Tensor of shape (B, F)
    domain : int Tensor of shape (B,)

    References
    ----------
    Li et al., BC-SAM, ISBI 2024.
    """
    return _over_pairs(lambda a, b: (a.mean(0) - b.mean(0)).square().mean(), features, domain)


def mmd(features: Tensor, domain: Tensor) -> Tensor:
    """Squared maximum mean discrepancy under a mean of five Gaussian kernels.

    Their squared widths are 1/4 to 4 times the mean squared distance between the two domains' cells, which no gradient
    goes through. The biased estimate: never negative, 0 for equal samples.

    Parameters
    ----------
    features : Tensor of shape (B, F)
    domain : int Tensor of shape (B,)

    References
    ----------
    Gretton et al., "A kernel two-sample test", JMLR 2012; Long et al., "Learning transferable features with deep
    adaptation networks", ICML 2015.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([a, b])
        squared = _squared_distances(both, both)
        unit = squared.detach().mean().clamp_min(1e-12)
        kernel = torch.stack([torch.exp(-squared / (width * unit)) for width in _MMD_WIDTHS]).mean(0)
        n = len(a)
        return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()

    return _over_pairs(distance, features, domain)


def coral(features: Tensor, domain: Tensor) -> Tensor:
    """Squared Frobenius distance between covariances over 4 F^2, plus `mean_discrepancy`.

    CORAL itself leaves the means alone, which in blood smears differ most. A domain of one cell has no covariance:
    its pairs count by their means.

    Parameters
    ----------
    features : Tensor of shape (B, F)
    domain : int Tensor of shape (B,)

    References
    ----------
    Sun and Saenko, "Deep CORAL", ECCV workshops 2016.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        means = (a.mean(0) - b.mean(0)).square().mean()
        if min(len(a), len(b)) < 2:
            return means
        return means + (a.T.cov() - b.T.cov()).square().sum() / (4 * a.shape[1] ** 2)

    return _over_pairs(distance, features, domain)


def sinkhorn(features: Tensor, domain: Tensor, blur: float = 0.05, iterations: int = 20) -> Tensor:
    """Sinkhorn divergence: entropic optimal transport between domains, less that of each domain with itself.

    The cost is the squared distance over 2 F; the entropy weighs `blur` times the mean cost.

    Parameters
    ----------
    features : Tensor of shape (B, F)
    domain : int Tensor of shape (B,)
    blur : float
        Smoothness of the transport, above 0.
    iterations : int
        At least 1, of the scaling algorithm, in the log domain.

    References
    ----------
    Cuturi, "Sinkhorn distances", NeurIPS 2013; Feydy et al., "Interpolating between optimal transport and MMD using
    Sinkhorn divergences", AISTATS 2019.
    """
    if blur <= 0 or iterations < 1:
        raise ValueError(f"Got blur={blur}, iterations={iterations} but expected blur > 0 and iterations >= 1.")

    def distance(a: Tensor, b: Tensor) -> Tensor:
        costs = [_squared_distances(x, y) / (2 * features.shape[1]) for x, y in ((a, b), (a, a), (b, b))]
        entropy = blur * costs[0].detach().mean().clamp_min(1e-12)
        across, within_a, within_b = (_transport(cost, entropy, iterations) for cost in costs)
        return across - (within_a + within_b) / 2

    return _over_pairs(distance, features, domain)


def _transport(cost: Tensor, entropy: Tensor, iterations: int) -> Tensor:
    """Cost of the entropic transport plan between uniform weights, by its dual potentials."""
    n, m = cost.shape
    f, g = cost.new_zeros(n), cost.new_zeros(m)
    # By the envelope theorem the gradient needs the last potentials alone.
    with torch.no_grad():
        for _ in range(iterations):
            f = _soft_minimum(cost - g, entropy, dim=1)
            g = _soft_minimum(cost - f[:, None], entropy, dim=0)
    plan = torch.exp((f[:, None] + g - cost.detach()) / entropy) / (n * m)
    return (plan * cost).sum() + (f.mean() + g.mean() - (plan * cost.detach()).sum())


def _soft_minimum(values: Tensor, entropy: Tensor, dim: int) -> Tensor:
    count = torch.tensor(float(values.shape[dim])).log()
    return -entropy * (torch.logsumexp(-values / entropy, dim) - count)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # not torch.cdist, whose gradient is infinite at 0
    return (a[:, None] - b[None]).square().sum(-1)


ALIGNMENTS = {"mean": mean_discrepancy, "mmd": mmd, "coral": coral, "sinkhorn": sinkhorn}
