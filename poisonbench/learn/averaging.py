"""Averages of weights over a training."""

from __future__ import annotations

import torch
from torch import nn


class Lookahead:
    """Slow weights: every few steps they move half of the way to the trained weights, then the trained weights are set to them.

    Source: Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019, Algorithm 1, with
    their share of one half. A training ends with the slow weights; buffers, such as running statistics, are not averaged.

    Args:
        module: the module whose learned weights are averaged.
        every: steps between two averages; 0 is off.
        share: how far the slow weights go towards the trained ones, in (0, 1].
    """

    def __init__(self, module: nn.Module, every: int, share: float = 0.5) -> None:
        self.every, self.share = every, share
        self.weights = [weight for weight in module.parameters() if weight.requires_grad] if every else []
        self.slow = [weight.detach().clone() for weight in self.weights]

    def follow(self, done: int, last: bool) -> None:
        """Average if it is time to.

        Args:
            done: steps taken so far.
            last: whether the training ends here.
        """
        if not self.every or (done % self.every and not last):
            return
        with torch.no_grad():
            for slow, weight in zip(self.slow, self.weights, strict=True):
                weight.copy_(slow.lerp_(weight, self.share))
