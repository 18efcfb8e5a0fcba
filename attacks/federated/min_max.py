"""Min-Max: an update as far from the mean as the spread of the honest updates allows.

Shape letters: V visible updates, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.federated.seen import benign, sent_by_all
from poisonbench.core.attack import Crafted, Round
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Send mean + gamma * p, with gamma as large as the spread of the honest updates allows.

    Source: Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated Learning", NDSS
    2021, AGR-agnostic Min-Max. gamma is the largest value with max_i ||h + gamma p - u_i|| <= max_ij ||u_i - u_j||, where u_i are the honest updates
    and h is their mean.

    Differences: the paper searches gamma by halving steps. The condition is quadratic in gamma for each i, so it is solved exactly here. The
    deviation of "std" divides by the number of updates minus one; dividing by the number would change the length of p, and so gamma, but not the
    update.

    The paper has two attackers: one knows all honest updates (threat=federated, the default here and the stronger one); the other knows only those of
    the malicious clients (threat=federated_partial).

    Args:
        direction: p: "std" (minus the standard deviation), "sign" (minus the sign of the mean) or "unit" (minus the mean, scaled to norm 1).
    """

    VERSION: ClassVar[int] = 1
    direction: Literal["std", "sign", "unit"]

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with mean + gamma * p from every malicious client."""
        seen = benign(round)
        mean = seen.mean(0)
        directions = {
            "std": -seen.std(0) if len(seen) > 1 else torch.zeros_like(mean),
            "sign": -mean.sign(),
            "unit": -mean / torch.linalg.vector_norm(mean).clamp_min(1e-12),
        }
        towards = directions[self.direction]
        gamma = largest_gamma(seen, towards)
        return sent_by_all(round, mean + gamma * towards, {"gamma": gamma})


def largest_gamma(updates_VP: Tensor, towards_P: Tensor) -> float:
    """Return the largest gamma with ||h + gamma p - u_i|| <= max_jk ||u_j - u_k|| for all i; 0 if the direction is zero.

    With D_i = ||h - u_i||^2, c_i = <p, h - u_i> and M the diameter, it is min_i (-c_i + sqrt(c_i^2 + ||p||^2 (M^2 - D_i))) / ||p||^2.
    """
    off = (updates_VP.mean(0) - updates_VP).to(torch.float64)
    gram = off @ off.T
    squared = gram.diagonal()
    diameter = (squared[:, None] + squared[None] - 2 * gram).max().clamp_min(0)
    size = towards_P.to(torch.float64).square().sum()
    if size == 0:
        return 0.0
    along = off @ towards_P.to(torch.float64)
    return float(((-along + (along.square() + size * (diameter - squared)).clamp_min(0).sqrt()) / size).min())
