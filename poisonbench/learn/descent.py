"""Stochastic gradient descent, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.sgd import sgd


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """Weights with the same learning rate and weight decay.

    Args:
        weights: changed in place by each step.
        lr: largest learning rate.
        weight_decay: added to the gradient, times the weight.
    """

    weights: Sequence[Tensor]
    lr: float
    weight_decay: float


def decays(weight: Tensor) -> bool:
    """Return whether weight decay acts on a weight: on matrices and filters, not on biases and normalisation."""
    return weight.ndim > 1


class Descent:
    """SGD with Nesterov momentum, by torch's function `sgd`.

    The class `torch.optim.SGD` gives the same bits, but making one imports torch's compiler, which takes 1.2 s of CPU in
    every process (torch 2.14).

    Args:
        groups: the weights that are trained.
        momentum: in [0, 1).
    """

    def __init__(self, groups: Sequence[Group], momentum: float) -> None:
        self.groups, self.momentum = groups, momentum
        self.velocities = dict[Tensor, Tensor | None]()

    def clear(self) -> None:
        """Remove the gradients of the step before."""
        for group in self.groups:
            for weight in group.weights:
                weight.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move each weight that has a gradient.

        Args:
            factor: learning rate of this step, divided by the largest.
        """
        for group in self.groups:
            slopes = {weight: weight.grad for weight in group.weights if weight.grad is not None}
            velocities = [self.velocities.get(weight) for weight in slopes]
            sgd(
                list(slopes),
                list(slopes.values()),
                velocities,
                weight_decay=group.weight_decay,
                momentum=self.momentum,
                lr=group.lr * factor,
                dampening=0.0,
                nesterov=self.momentum > 0,
                maximize=False,
            )
            self.velocities.update(zip(slopes, velocities, strict=True))
