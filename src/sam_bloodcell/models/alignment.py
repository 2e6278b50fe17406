"""Distances between the features of domains, which training minimises, as functions of features and domain codes.

Except for the papers' own distance, each is the mean over all pairs of domains in the batch. Domains that are absent
from the batch or have a negative code ("unknown") are ignored. With fewer than two domains, the distance and its
gradient are 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_MMD_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def _check_shapes(features: Tensor, domain: Tensor) -> None:
    if features.ndim != 2 or domain.shape != features.shape[:1]:
        raise ValueError(
            f"Got features of shape {tuple(features.shape)} and domain of shape {tuple(domain.shape)} but expected "
            "(B, F) and (B,)."
        )


def _over_pairs(distance: Callable[[Tensor, Tensor], Tensor], features: Tensor, domain: Tensor) -> Tensor:
    _check_shapes(features, domain)
    groups = [features[domain == code] for code in domain[domain >= 0].unique()]
    pairs = [distance(a, b) for i, a in enumerate(groups) for b in groups[i + 1 :]]
    return torch.stack(pairs).mean() if pairs else features.sum() * 0.0


def mean_discrepancy(features: Tensor, domain: Tensor) -> Tensor:
    """Compute the squared distance between domain means, averaged over features.

    If there are exactly two domains in the batch, this is the papers' term. `first_discrepancy` is the papers' term for
    any number of domains.

    Parameters
    ----------
    features : Tensor of shape (B, F)
        Features of the cells.
    domain : int Tensor of shape (B,)
        Domain code of each cell.

    Returns
    -------
    Tensor of shape ()
        The distance, at least 0.
    """
    return _over_pairs(lambda a, b: (a.mean(0) - b.mean(0)).square().mean(), features, domain)


def first_discrepancy(features: Tensor, domain: Tensor) -> Tensor:
    """Compute the squared distance between the mean of domain 0 and that of every other domain, summed over these.

    This is the papers' term (Li et al., DoRL, 2024; for two domains also BC-SAM, ISBI 2024). The other domains are not
    compared with each other, and a batch without cells of domain 0 gives 0.

    Parameters
    ----------
    features : Tensor of shape (B, F)
        Features of the cells.
    domain : int Tensor of shape (B,)
        Domain code of each cell.

    Returns
    -------
    Tensor of shape ()
        The distance, at least 0.
    """
    _check_shapes(features, domain)
    means = [features[domain == code].mean(0) for code in domain[domain >= 0].unique()]
    if not (domain == 0).any() or len(means) < 2:
        return features.sum() * 0.0
    return torch.stack([(means[0] - mean).square().mean() for mean in means[1:]]).sum()


def mmd(features: Tensor, domain: Tensor) -> Tensor:
    """Compute the squared maximum mean discrepancy under a mean of five Gaussian kernels.

    The squared widths are 1/4 to 4 times the mean squared distance between the cells of the two domains, without a
    gradient (Gretton et al., "A kernel two-sample test", JMLR 2012; Long et al., "Learning transferable features with
    deep adaptation networks", ICML 2015). This is the biased estimate for use as a training loss. It is never negative,
    and 0 if both domains have the same cells, but above 0 for different cells of equal distributions, especially for
    few cells. `evaluation.domain_shift` has the unbiased estimate. Memory grows with the square of B, not with F.

    Parameters
    ----------
    features : Tensor of shape (B, F)
        Features of the cells.
    domain : int Tensor of shape (B,)
        Domain code of each cell.

    Returns
    -------
    Tensor of shape ()
        The distance, at least 0.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        squared = _squared_distances(torch.cat([a, b]))
        unit = squared.detach().mean().clamp_min(1e-12)
        kernel = torch.zeros_like(squared)
        for width in _MMD_WIDTHS:
            kernel = kernel + torch.exp(-squared / (width * unit)) / len(_MMD_WIDTHS)
        n = len(a)
        return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()

    return _over_pairs(distance, features, domain)


def _squared_distances(x: Tensor) -> Tensor:
    """Return the squared distances of all pairs, (n, n), from one matrix product.

    Differences of all pairs would take (n, n, F) numbers, and the gradient of torch.cdist is infinite at 0.
    """
    with torch.autocast(x.device.type, enabled=False):  # half precision would lose small distances in the product
        x = x if x.dtype == torch.float64 else x.float()
        x = x - x.mean(0).detach()  # keeps the distances, and makes the squares that cancel below small
        square = x.square().sum(1)
        return (square[:, None] + square[None] - 2 * x @ x.T).clamp_min(0)


ALIGNMENTS = {"mean": mean_discrepancy, "first": first_discrepancy, "mmd": mmd}
