"""Adversarial training: train on the worst case of every row within a small distance.

Shape letters: B rows of a batch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.proof import Looks
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class WorstCaseStep(PlainStep):
    """Replace each batch by adversarial examples, found by projected gradient ascent.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018: Linf limit 8 of 255,
    7 steps of 2, a random start. As a defense against unlearnable examples and other small perturbations: Tao, Feng, Yi, Huang, Chen, "Better Safe
    Than Sorry: Preventing Delusive Adversaries with Adversarial Training", NeurIPS 2021.

    The model is in evaluation mode during the ascent, so its running statistics include only the final batch.

    Args:
        limit: Linf radius in grey levels, above 0.
        step_size: size of one ascent step in grey levels, above 0.
        ascents: number of ascent steps, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    limit: float
    step_size: float
    ascents: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (self.limit > 0 and self.step_size > 0 and self.ascents >= 1):
            raise ConfigError("defense.train.step: limit and step_size are above 0, ascents 1 or more")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that the inputs are images.

        Raises:
            Incompatible: they are not, so a limit in grey levels has no meaning.
        """
        if len(plan.shape) != 3:
            raise Incompatible(f"adversarial training perturbs pixels; this learner's model sees inputs of shape {plan.shape}")

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the perturbed batch."""
        clean, module = batch.inputs, moment.module
        start = torch.rand(clean.shape, generator=moment.rng.child("ball").torch()).to(clean.device)
        moved = (clean + (2 * start - 1) * self.limit).clamp(0, 255)
        module.eval()
        for _ in range(self.ascents):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(module(moved), batch.labels), moved)
            moved = moved.detach() + self.step_size * gradient.sign()
            moved = torch.minimum(torch.maximum(moved, clean - self.limit), clean + self.limit).clamp(0, 255)
        module.train()
        return dataclasses.replace(batch, inputs=moved.detach())
