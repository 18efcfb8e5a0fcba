"""Convex combinations that come closest to a target: many small quadratic programmes over the simplex, solved at once.

Shape letters: M programmes, R points of each.
"""

from __future__ import annotations

import torch
from torch import Tensor


def onto_simplex(points_MR: Tensor) -> Tensor:
    """Return the nearest point of the simplex (entries of 0 or more, sum 1) to each row; exact, by sorting.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008, Figure 1.
    """
    falling = points_MR.sort(dim=1, descending=True).values
    excess = falling.cumsum(1) - 1
    ranks = torch.arange(1, points_MR.shape[1] + 1, dtype=points_MR.dtype, device=points_MR.device)
    support = (falling * ranks > excess).sum(1, keepdim=True)
    return (points_MR - excess.gather(1, support - 1) / support).clamp_min(0)


def closest_mixture(gram_MRR: Tensor, cross_MR: Tensor, start_MR: Tensor, steps: int) -> Tensor:
    """Return the (M, R) weights of the simplex that minimise 0.5 w' G w - w' b in each programme, by accelerated projected gradient.

    With the Gram matrix G of R points and their products b with a target, w' G w / 2 - w' b is, up to a constant, half of the squared distance between
    the mixture of the points and the target. Momentum restarts in each programme where it points uphill (O'Donoghue and Candes, 2015). The
    number of steps is fixed, and no value is read back from the device.

    Args:
        gram_MRR: positive semidefinite.
        cross_MR: products of points and target.
        start_MR: weights to start from, such as the last ones of a nearly equal programme.
        steps: 0 or more.
    """
    rate_M1 = 1 / gram_MRR.abs().sum(2).amax(1, keepdim=True).clamp_min(1e-30)  # the largest row sum bounds the largest eigenvalue
    weights, ahead, pace_M1 = start_MR, start_MR, torch.ones_like(rate_M1)
    for _ in range(steps):
        slope = torch.bmm(gram_MRR, ahead[:, :, None])[:, :, 0] - cross_MR
        moved = onto_simplex(ahead - rate_M1 * slope)
        uphill = ((ahead - moved) * (moved - weights)).sum(1, keepdim=True) > 0
        pace = torch.where(uphill, torch.ones_like(pace_M1), pace_M1)
        next_pace = (1 + (1 + 4 * pace.square()).sqrt()) / 2
        ahead = moved + torch.where(uphill, torch.zeros_like(pace), (pace - 1) / next_pace) * (moved - weights)
        weights, pace_M1 = moved, next_pace
    return weights
