"""The training loop: what a single model and a stack of models have in common, then the training of a single model.

Shape letters: N rows, B rows of a batch, G members of a stack (1 for a single model), S steps of an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import Diverged
from poisonbench.core.learner import Batch, Moment, Objective, Plan, State
from poisonbench.core.progress import track
from poisonbench.core.rng import Key, seeded
from poisonbench.learn import device
from poisonbench.learn.averaging import Lookahead
from poisonbench.learn.descent import AdamDescent, Descent, Group, decays
from poisonbench.learn.distributed import Crew
from poisonbench.nets.net import FeatureNet

if TYPE_CHECKING:
    from poisonbench.learn.central import Central

ORDER = "order"  # the random stream that shuffles rows


def run_epochs(epochs: int, run_epoch: Callable[[int], Tensor]) -> None:
    """Train for all epochs; report progress, and stop at a loss that is not finite.

    Args:
        epochs: passes over the data.
        run_epoch: takes the number of an epoch, trains for it and returns the (S, G) losses of its steps.

    Raises:
        Diverged: the first epoch, step and member with a loss that is not finite.
    """
    for epoch in track(epochs, "epochs"):
        losses_SG = run_epoch(epoch)
        wrong = (~losses_SG.isfinite()).nonzero()  # the only wait for the device in an epoch
        if len(wrong):
            step, member = wrong[0].tolist()
            raise Diverged(f"the loss is not finite in epoch {epoch + 1}, step {step + 1} of {len(losses_SG)}; lower learner.lr", member=member)


@dataclass(frozen=True, eq=False, kw_only=True)
class Training:
    """One training of a single model.

    Args:
        recipe: learning rates, augmentation, precision and steps.
        module: the model; `run` changes its weights.
        data: N rows, on the recipe's device.
        plan: epochs and steps.
        rng: key of this training.
        crew: the processes that share it.
    """

    recipe: Central
    module: FeatureNet
    data: Dataset
    plan: Plan
    rng: Key
    crew: Crew

    def run(self) -> tuple[State, ...]:
        """Train for all epochs, and return the models that the recipe keeps, on the CPU.

        Raises:
            Diverged: a loss that is not finite.
        """
        history = list[State]()
        descent, slow = self._descent(), Lookahead(self.module, self.recipe.lookahead)
        self.module.train()
        called, last = self.crew.around(self.module), self.plan.epochs * self.plan.steps

        def run_epoch(epoch: int) -> Tensor:
            losses = []
            with seeded(self.rng.child(f"epoch/{epoch}")):
                for number, rows in enumerate(self._batches(epoch)):
                    moment = self._moment(epoch, number, self.rng.child(f"step/{epoch}/{number}"))
                    each = self._losses(called, self.batch(self.crew.share(rows), moment), moment)
                    losses.append(self._descend(self.crew.loss(each, len(rows)), moment, descent))
                    slow.follow(moment.step + 1, last=moment.step + 1 == last)
            if self.recipe.history_every and (self.plan.epochs - 1 - epoch) % self.recipe.history_every == 0:
                history.append({name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()})
            return self.crew.over_all(torch.stack(losses))[:, None]

        run_epochs(self.recipe.epochs, run_epoch)
        return tuple(history)

    def _moment(self, epoch: int, number: int, rng: Key) -> Moment:
        return Moment(module=self.module, plan=self.plan, epoch=epoch, step=epoch * self.plan.steps + number, rng=rng)

    def _batches(self, epoch: int) -> Iterable[Tensor]:
        """Return the row positions of each step: shuffled, cut into steps of nearly equal size, then changed by the recipe's steps."""
        order = self.rng.child(ORDER).per_row(self.data.ids, epoch)[:, 0].argsort(stable=True)
        batches: Iterable[Tensor] = order.tensor_split(self.plan.steps)
        first = self._moment(epoch, 0, self.rng.child(f"sample/{epoch}"))
        for step in self.recipe.steps:
            batches = step.sample(batches, self.data, first)
        return batches

    def batch(self, rows: Tensor, moment: Moment) -> Batch:
        """Return the rows at these positions as they are trained on: changed by steps before and after augmentation."""
        form = self.data.form
        extra = {name: column[rows] for name, column in self.data.extra.items()}
        batch = Batch(inputs=self.data.inputs[rows], labels=self.data.labels[rows], ids=self.data.ids[rows], form=form, extra=extra)
        for step in self.recipe.steps:
            batch = step.rows(batch, moment)
        inputs, augmentation = batch.inputs, self.recipe.augmentation
        if augmentation.changes(form):
            inputs = augmentation(inputs, augmentation.draws(batch.ids, moment.epoch, self.rng))
        batch = dataclasses.replace(batch, inputs=device.laid_out(form.ready(inputs)))
        for step in self.recipe.steps:
            batch = step.batch(batch, moment)
        return batch

    def _losses(self, called: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        def network(*inputs: Tensor) -> Tensor:
            with self.recipe.autocast():
                outputs: Tensor = called(*inputs)
            return outputs

        objective: Objective = self.recipe.objective
        for step in self.recipe.steps:
            objective = step.objective(objective, moment)
        losses = objective(network, batch, self.recipe.label_smoothing)
        for step in self.recipe.steps:
            losses = step.loss(losses, batch, moment)
        return losses

    def _descend(self, loss: Tensor, moment: Moment, descent: Descent) -> Tensor:
        descent.clear()
        loss.backward()
        for step in self.recipe.steps:
            step.update(moment)
        descent.step(self.recipe.factor(moment.step, self.plan.epochs * self.plan.steps))
        return loss.detach()

    def _descent(self) -> Descent:
        recipe, learned = self.recipe, [weight for weight in self.module.parameters() if weight.requires_grad]
        decayed = Group(weights=[weight for weight in learned if decays(weight)], lr=recipe.lr, weight_decay=recipe.weight_decay)
        spared = Group(weights=[weight for weight in learned if not decays(weight)], lr=recipe.lr * recipe.bias_lr, weight_decay=0.0)
        groups = [group for group in (decayed, spared) if group.weights]
        return AdamDescent(groups, recipe.clip) if recipe.optimizer == "adamw" else Descent(groups, recipe.momentum, recipe.clip)
