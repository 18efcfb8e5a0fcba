"""Trimmed loss: each epoch trains on the rows with the smallest losses.

Shape letters: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.defense import stated
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Moment, PlainStep, Plan
from poisonbench.core.threat import POISON_RATE

SCORED = 500  # rows in one forward pass


@dataclass(frozen=True, kw_only=True)
class TrimStep(PlainStep):
    """Train each epoch on the share 1 - expected_rate of all rows with the smallest cross-entropy.

    Source: Shen, Sanghavi, "Learning with Bad Training Data via Iterative Trimmed Loss Minimization", ICML 2019. Losses are those of all rows before
    the epoch, by the model in evaluation mode and without augmentation: this is the exact trimmed loss, not a selection within each batch.

    Differences: the paper trains to convergence between two selections, often from new initial weights. Here each epoch selects again and the
    training continues, after a start on all rows. The number of steps stays as planned, so steps have fewer rows.

    Args:
        expected_rate: share of wrong rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is oracle knowledge;
            with attack=none it is an assumption.
        warmup: share of the epochs at the start that train on all rows, in (0, 1]. Losses mean nothing before the first epoch.
    """

    VERSION: ClassVar[int] = 1
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    warmup: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.expected_rate is not None and not 0 <= self.expected_rate < 1:
            raise ConfigError(f"defense.train.step.expected_rate={self.expected_rate}: a rate to expect lies in [0, 1)")
        if not 0 < self.warmup <= 1:
            raise ConfigError(f"defense.train.step.warmup={self.warmup}: give a share of the epochs in (0, 1], such as 0.2")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that enough rows are left for the planned steps.

        Raises:
            ConfigError: a step would have less than two rows.
        """
        if (kept := self.kept(plan.rows)) < 2 * plan.steps:
            left = f"{kept} of {plan.rows} rows are left for {plan.steps} steps"
            raise ConfigError(f"defense.train.step.expected_rate={self.expected_rate}: {left}, which need two each; raise learner.batch_size")

    def kept(self, rows: int) -> int:
        """Return how many of `rows` rows are trained on."""
        return rows - math.floor(stated(self.expected_rate, "defense.train.step.expected_rate") * rows + 1e-9)

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Return the planned order without the rows of the largest losses, in the planned number of steps."""
        if moment.epoch < self.warmup * moment.plan.epochs:
            return batches
        planned = list(batches)
        keep_N = smallest(losses(moment.module, data), self.kept(len(data)))
        order = torch.cat(planned)
        return order[keep_N[order]].tensor_split(len(planned))


def losses(module: nn.Module, data: Dataset) -> Tensor:
    """Return the (N,) cross-entropies of all rows, by the model in evaluation mode; it is in training mode before and after."""
    module.eval()
    with torch.no_grad():
        parts = zip(data.inputs.split(SCORED), data.labels.split(SCORED), strict=True)
        found = [F.cross_entropy(module(data.form.ready(inputs)).float(), labels, reduction="none") for inputs, labels in parts]
    module.train()
    return torch.cat(found)


def smallest(losses_N: Tensor, count: int) -> Tensor:
    """Return (N,) bool, the `count` rows with the smallest losses; ties go to the earlier rows."""
    keep_N = torch.zeros(len(losses_N), dtype=torch.bool, device=losses_N.device)
    keep_N[losses_N.argsort(stable=True)[:count]] = True
    return keep_N
