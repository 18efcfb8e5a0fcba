"""Adversarial poisoning: the training poisons a part of each batch itself, and learns the right answers in spite of it.

Shape letters: B rows of a batch, I inputs that are poisoned, J targets, P parameters.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class PoisonedBatchStep(PlainStep):
    """Perturb a part of each batch so that training on it would give the other part a wrong label; then train on both parts with the right labels.

    Source: Geiping, Fowl, Somepalli, Goldblum, Moeller, Goldstein, "What Doesn't Kill You Makes You Robust(er): How to Adversarially Train against Data
    Poisoning", 2021. The first rows of a batch are targets, the others inputs. The wrong label of all targets is the most frequent label of the inputs,
    the smallest of several. Signed steps of Adam on the inputs minimise 1 - cos(grad L(inputs, their labels), grad L(targets, wrong label)), gradients
    with respect to the parameters, for the model in evaluation mode. This is the attack of gradient matching with few steps.

    Differences: the published code takes steps of 0.1 on normalised pixels, about 6 grey levels; here a step is a share of the limit. Of the attacks that
    the paper defends against in this way, only gradient matching is included, not those with patches and triggers.

    Args:
        limit: Linf radius in grey levels, in (0, 255].
        step_size: size of one step, as a share of the limit, above 0.
        steps: steps of Adam in each training step, 1 or more (paper: 5).
        share: inputs / rows of a batch, in (0, 1); rounded down (option sep-half of the published code: 0.5).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    limit: float
    step_size: float
    steps: int
    share: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (0 < self.limit <= 255 and 0 < self.step_size < math.inf and self.steps >= 1 and 0 < self.share < 1):
            raise ConfigError("defense.train.step: limit lies in (0, 255], step_size is finite and above 0, steps 1 or more, share lies in (0, 1)")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that the inputs are pictures.

        Raises:
            Incompatible: they are not, so a limit in grey levels has no meaning.
        """
        if len(plan.shape) != 3:
            raise Incompatible(f"adversarial poisoning perturbs pixels; this learner's model sees inputs of shape {plan.shape}")

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch with perturbed inputs; a batch of one row, which has no other part, stays as it is."""
        targets = len(batch.labels) - math.floor(self.share * len(batch.labels) + 1e-9)
        if not 0 < targets < len(batch.labels):
            return batch
        module = moment.module
        module.eval()
        wrong = batch.labels[targets:].bincount().argmax().expand(targets)
        wanted = weight_gradient(module, batch.inputs[:targets], wrong, graph=False)
        moved = self.poisoned(module, batch.inputs[targets:], batch.labels[targets:], wanted, moment.rng.child("poison"))
        module.train()
        return dataclasses.replace(batch, inputs=torch.cat([batch.inputs[:targets], moved]))

    def poisoned(self, module: nn.Module, clean: Tensor, labels: Tensor, wanted_P: Tensor, rng: Key) -> Tensor:
        """Return (I, C, H, W) inputs whose gradient is closer to the wanted one, within the limit and 0..255."""
        noise = (self.limit * torch.randn(clean.shape, generator=rng.torch())).to(clean.device)
        noise = within(noise, clean, self.limit).requires_grad_()
        optimizer = torch.optim.Adam([noise], lr=self.step_size * self.limit)
        for _ in range(self.steps):
            loss = misalignment(weight_gradient(module, clean + noise, labels, graph=True), wanted_P)
            noise.grad = torch.autograd.grad(loss, noise)[0].sign()
            optimizer.step()
            with torch.no_grad():
                noise.copy_(within(noise, clean, self.limit))
        return clean + noise.detach()


def weight_gradient(module: nn.Module, inputs: Tensor, labels: Tensor, *, graph: bool) -> Tensor:
    """Return (P,), the gradient of the mean cross-entropy with respect to the trained parameters; with `graph` it can be differentiated itself."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    loss = F.cross_entropy(module(inputs), labels)
    parts = torch.autograd.grad(loss, weights, create_graph=graph, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def misalignment(own_P: Tensor, wanted_P: Tensor) -> Tensor:
    """Return 1 - cosine of two gradients, in [0, 2]."""
    return 1 - F.cosine_similarity(own_P, wanted_P, dim=0)


def within(noise: Tensor, clean: Tensor, limit: float) -> Tensor:
    """Return the noise clipped to the limit and to pixels in 0..255."""
    return (clean + noise.clamp(-limit, limit)).clamp(0, 255) - clean
