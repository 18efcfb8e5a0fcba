"""Stochastic gradient descent and AdamW, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

BETAS = (0.9, 0.95)


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
        clip: largest length of the gradient of all weights together; 0 is no limit.
    """

    def __init__(self, groups: Sequence[Group], momentum: float, clip: float = 0.0) -> None:
        self.groups, self.momentum, self.clip = groups, momentum, clip
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
        self._shorten()
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

    def _shorten(self) -> None:
        """Scale the gradients down to the largest allowed length."""
        if self.clip:
            nn.utils.clip_grad_norm_([weight for group in self.groups for weight in group.weights], self.clip)


class AdamDescent(Descent):
    """AdamW with the usual constants: betas of 0.9 and 0.95, epsilon of 1e-8; weight decay is independent of the gradient.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; the second beta as language models use it (Brown et al.,
    "Language Models are Few-Shot Learners", NeurIPS 2020). The moments begin at zero in every training, also in one that continues another.

    Args:
        groups: the weights that are trained.
        clip: largest length of the gradient of all weights together; 0 is no limit.
    """

    def __init__(self, groups: Sequence[Group], clip: float) -> None:
        super().__init__(groups, 0.0, clip)
        self.moments = dict[Tensor, tuple[Tensor, Tensor, Tensor]]()

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move each weight that has a gradient; see `Descent.step`."""
        self._shorten()
        for group in self.groups:
            slopes = {weight: weight.grad for weight in group.weights if weight.grad is not None}
            for weight in slopes:
                self.moments.setdefault(weight, (torch.zeros_like(weight), torch.zeros_like(weight), torch.zeros(())))
            first, second, steps = ([self.moments[weight][place] for weight in slopes] for place in range(3))
            adam(
                list(slopes),
                list(slopes.values()),
                first,
                second,
                [],
                steps,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=group.lr * factor,
                weight_decay=group.weight_decay,
                decoupled_weight_decay=True,
                eps=1e-8,
                maximize=False,
            )
