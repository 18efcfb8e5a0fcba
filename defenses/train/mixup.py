"""Mixup: train on weighted averages of two rows and of their losses.

Shape letters: B rows of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Network, Objective, PlainStep
from poisonbench.core.rng import Key
from poisonbench.forms.reals import NUMBERS


@dataclass(frozen=True, kw_only=True)
class MixupStep(PlainStep):
    """Mix each row with another row of its batch.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018. One weight is drawn for each batch from
    Beta(alpha, alpha), and the partners are a random order of the batch, as in the paper. The loss is the average of the losses of both labels with
    the same weight, which equals the cross-entropy of the averaged labels.

    Rows are mixed after augmentation. Objectives that look at the inputs themselves, such as those of `ueraser`, get the mixed rows' scores alone.

    Args:
        alpha: 0 or more; 0 is plain training (paper: 0.2 to 0.4 for ImageNet, 1 for CIFAR-10, 8 and more for wrong labels).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS  # there is no average of two words
    alpha: float

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if not 0 <= self.alpha < math.inf:
            raise ConfigError(f"defense.train.step.alpha={self.alpha}: give a finite number of 0 or more, such as 1")

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective on mixed rows."""
        rng = moment.rng.child("mixup")
        weight = float(rng.child("weight").numpy().beta(self.alpha, self.alpha)) if self.alpha else 1.0
        return Mixed(inner=objective, weight=weight, order=rng.child("order"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Mixed:
    """An objective on mixed rows.

    Args:
        inner: the objective of each label.
        weight: of the rows themselves, in [0, 1]; their partners have the rest.
        order: draws the partners, the same ones in every call.
    """

    VERSION: ClassVar[int] = 1
    inner: Objective
    weight: float
    order: Key

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) losses; the network is asked once."""
        partners = torch.randperm(len(batch.labels), generator=self.order.torch()).to(batch.labels.device)
        outputs = network(self.weight * batch.inputs + (1 - self.weight) * batch.inputs[partners])
        other = dataclasses.replace(batch, labels=batch.labels[partners])
        own_B, other_B = (self.inner(lambda _: outputs, one, label_smoothing) for one in (batch, other))
        return self.weight * own_B + (1 - self.weight) * other_B
