"""The referee inside a training that the attacker runs: it counts and measures the rows that each step changes.

Shape letters: B rows of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from poisonbench.core.audit import change
from poisonbench.core.data import Dataset
from poisonbench.core.errors import BudgetError
from poisonbench.core.learner import Batch, Moment, Objective, PlainStep, Plan, Step
from poisonbench.core.threat import Budget


@dataclass(frozen=True, kw_only=True)
class Refereed(PlainStep):
    """An attacker's step, with the threat's budget enforced in every step of the training.

    An attacker who runs the training may change different rows in every epoch, so the budget counts changed rows of batches: over the
    first t steps no more than budget.rate times the rows of t steps, rounded down (`allowed`). Rows are changed before augmentation
    (`Step.rows`), where they can be compared with the clean ones; `Step.batch` has to leave them as they are.

    Args:
        step: the attacker's step.
        budget: the threat's budget.
    """

    VERSION: ClassVar[int] = 1
    step: Step
    budget: Budget

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse what the attacker's step refuses."""
        self.step.check(module, plan)

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Begin as the attacker's step does; an attacker has no trusted rows."""
        self.step.begin(module, trusted.take(torch.arange(0)))

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Yield the rows that the attacker chooses for each step, in the planned number.

        Raises:
            BudgetError: another number of steps, or of rows in a step.
        """
        planned = list(batches)
        copied = data.with_columns({name: column.clone() for name, column in data.columns.items()})
        chosen = iter(self.step.sample([batch.clone() for batch in planned], copied, moment))
        for batch in planned:
            rows = next(chosen, batch[:0])
            if rows.shape != batch.shape:
                raise BudgetError(f"an attacker who runs the training chooses which rows a step sees, not how many: {len(rows)} instead of {len(batch)}")
            yield rows
        if next(chosen, None) is not None:
            raise BudgetError(f"an attacker who runs the training chooses which rows a step sees, not how many steps there are: more than {len(planned)}")

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Return the rows as the attacker changes them.

        Raises:
            BudgetError: more rows than allowed, or a change that the threat forbids.
        """
        moment = dataclasses.replace(moment, allowed=allowed(self.budget, moment))
        after = self.step.rows(_copy(batch), moment)
        changed = _changed(batch, after)
        if int(changed.sum()) > moment.allowed:
            rate = self.budget.share(moment.plan.rows)
            raise BudgetError(f"{int(changed.sum())} of {len(batch.labels)} rows changed in one step; {rate:g} of the rows allows {moment.allowed} here")
        if not self.budget.relabel and not torch.equal(after.labels, batch.labels):
            raise BudgetError("labels changed in a training step, but threat.budget.relabel=false is a clean-label threat")
        if self.budget.norm is not None and self.budget.limit is not None and changed.any():
            size = float(change(after.inputs[changed], batch.inputs[changed], batch.form, self.budget.norm).max())
            if size > self.budget.limit + 1e-4:
                raise BudgetError(f"a row changed by {size:.4g} in {self.budget.norm} in a training step; threat.budget.limit={self.budget.limit}")
        return after

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch, which the attacker's step has to leave as it is.

        Raises:
            BudgetError: it changed a row.
        """
        after = self.step.batch(_copy(batch), moment)
        if _changed(batch, after).any():
            raise BudgetError("an attacker who runs the training changes rows before augmentation, in Step.rows, where the referee can measure them")
        return after

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective, which the attacker's step has to leave as it is.

        Raises:
            BudgetError: it is another one.
        """
        if self.step.objective(objective, moment) is not objective:
            raise BudgetError("an attacker who runs the training changes losses in Step.loss: an objective could train on rows that the referee does not see")
        return objective

    def loss(self, losses: Tensor, batch: Batch, moment: Moment) -> Tensor:
        """Return the losses that the attacker minimises."""
        return self.step.loss(losses, _copy(batch), moment)

    def update(self, moment: Moment) -> None:
        """Let the attacker act on the gradients."""
        self.step.update(moment)

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Return the facts of the attacker's step."""
        return self.step.finish(module, plan)


def allowed(budget: Budget, moment: Moment) -> int:
    """Return how many rows may change in this step: over a whole epoch, the budget's share of the rows."""
    plan = moment.plan
    each = budget.share(plan.rows) * plan.rows / plan.steps
    return math.floor(each * (moment.step + 1) + 1e-9) - math.floor(each * moment.step + 1e-9)


def _copy(batch: Batch) -> Batch:
    """Return a copy of the batch, so that writing into it does not change the original that it is compared with."""
    return dataclasses.replace(batch, inputs=batch.inputs.clone(), labels=batch.labels.clone(), ids=batch.ids.clone())


def _changed(before: Batch, after: Batch) -> Tensor:
    """Return (B,) bool, the rows that differ."""
    if not torch.equal(after.ids, before.ids) or after.inputs.shape != before.inputs.shape or after.inputs.dtype != before.inputs.dtype:
        raise BudgetError("an attacker who runs the training keeps ids, types and shapes of the rows of a step")
    return (after.inputs != before.inputs).flatten(1).any(1) | (after.labels != before.labels)
