"""Many networks of one architecture, trained in one pass.

The loop over epochs, the row losses, the learning rates and the augmentation are shared with the training of a single model (`loop.py`).
The step is separate: it moves G members with padding rows and a learning rate each, which torch's layers and SGD cannot do, and its
rounding differs from theirs, so a single model that used it would get other bits than its stored results.

Shape letters: N places, G members of a stack, B rows of a member's batch, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.learner import Batch, Combine, Plan, State, Trained, Victim
from poisonbench.core.rng import Key, per_row_of_each
from poisonbench.learn import device
from poisonbench.learn.descent import decays
from poisonbench.learn.loop import ORDER, run_epochs
from poisonbench.learn.objectives import row_losses
from poisonbench.learn.stacked_layers import How, MaskedNorm, stacked_layer
from poisonbench.nets.net import FeatureNet

if TYPE_CHECKING:
    from poisonbench.learn.central import Central, NetVictim

TOGETHER = 2_000_000  # most weights in a stack


class Stack:
    """G networks as one module: each of its tensors joins those of the members along the first axis.

    No arithmetic crosses from one member to another: convolutions are grouped or batched, linear layers batched,
    normalisation has separate statistics for every member and leaves padding rows out. A member's result depends on its own
    rows, on G and on B, not on the other members' rows.

    Args:
        module: the architecture.
        states: parameters and buffers of each member.
        how: "grouped" (grouped convolutions), "unfold" (patches and a batched product), or "vmap" (torch.func over one
            module; no batch normalisation).

    Raises:
        ConfigError: a layer that has no stacked form here.
    """

    def __init__(self, module: FeatureNet, states: Sequence[State], how: How) -> None:
        self.members, self.how = len(states), how
        self.one = copy.deepcopy(module)
        self._names = {name: value.ndim for name, value in states[0].items()}
        joined = {name: torch.cat([state[name].contiguous() for state in states]) if ndim else states[0][name].clone() for name, ndim in self._names.items()}
        self.module = self.one if how == "vmap" else stacked_layer(copy.deepcopy(self.one), self.members, how)
        self.norms = [layer for layer in self.module.modules() if isinstance(layer, MaskedNorm)]
        fixed = {name for name, weight in self.one.named_parameters() if not weight.requires_grad}
        self.weights = {name: joined[name].requires_grad_() for name, _ in self.one.named_parameters() if name not in fixed}
        self.rest = {name: value for name, value in joined.items() if name not in self.weights}
        if how == "vmap":
            _check_vmap(self.one)

    def scores(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Return (G, B, K) scores of (G, B, ...) inputs; `mask` (G, B) is false for padding rows."""
        if self.how == "vmap":
            stacks = {name: value.unflatten(0, (self.members, -1)) if value.ndim else value for name, value in (self.weights | self.rest).items()}
            axes = {name: 0 if value.ndim else None for name, value in (self.weights | self.rest).items()}
            each = torch.func.vmap(lambda state, rows: torch.func.functional_call(self.one, state, (rows,)), in_dims=(axes, 0))
            return cast("Tensor", each(stacks, inputs))
        for layer in self.norms:
            layer.mask = mask
        side_by_side = inputs.transpose(0, 1).flatten(1, 2)
        answers: Tensor = torch.func.functional_call(self.module, self.weights | self.rest, (side_by_side,))
        own: Tensor = answers.unflatten(1, (self.members, -1)).transpose(0, 1)
        return own

    def states(self) -> list[dict[str, Tensor]]:
        """Return each member's parameters and buffers, on the CPU."""
        joined = {name: value.detach() for name, value in (self.weights | self.rest).items()}
        parts = {name: value.chunk(self.members) if value.ndim else (value,) * self.members for name, value in joined.items()}
        return [{name: parts[name][member].to("cpu", copy=True) for name in self._names} for member in range(self.members)]


def fit_stacked(learner: Central, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None) -> list[NetVictim]:
    """Train one victim per part, in stacks of equal size; the last stack is filled with members without rows.

    Args:
        learner: the recipe; batches, draws and schedule are those of its loop, so results are equal up to rounding.
        parts: rows of each victim.
        combine: of use to continue `start` alone; there is one contributor.
        rngs: key of each victim.
        start: the victim that all of them continue; None is from scratch.

    Raises:
        Diverged: a loss that is not finite; `member` is its position in `parts`.
    """
    victims: list[NetVictim] = []
    first_one = learner.begin(parts[0], rngs[0]) if start is None else learner.restore(Trained.of(start), parts[0], combine)
    together = learner.stack_members or members_at_once(len(parts), sum(weight.numel() for weight in first_one.net.parameters()))
    for first in range(0, len(parts), together):
        some = slice(first, first + together)
        try:
            victims += _fit_stack(learner, parts[some], rngs[some], (together, None if start is None else first_one))
        except Diverged as error:
            raise Diverged(str(error), member=first + (error.member or 0)) from error
    return victims


def members_at_once(parts: int, parameters: int) -> int:
    """Return G: at most 256 members and 2 million weights, spread evenly over the passes that `parts` need.

    With more, weights, gradients and speeds together do not fit into a cache of 32 MiB.
    """
    passes = math.ceil(parts / max(1, min(256, TOGETHER // parameters)))
    return math.ceil(parts / passes)


def _fit_stack(learner: Central, parts: Sequence[Dataset], rngs: Sequence[Key], stacked: tuple[int, NetVictim | None]) -> list[NetVictim]:
    members, start = stacked
    begun = [learner.begin(part, rng) for part, rng in zip(parts, rngs, strict=True)] if start is None else [start]
    states: list[State] = [victim.net.state_dict() for victim in begun]
    stack = Stack(begun[0].net, [*states, *states[:1] * (members - len(states))], learner.stack)
    plans = [learner.planned(part) for part in parts]
    optimizer = StackedSGD(stack, learner.momentum, learner.weight_decay, learner.bias_lr)
    shelf = _Shelf(learner, parts, rngs, stack.members)

    def run_epoch(epoch: int) -> Tensor:
        losses = list[Tensor]()
        for number, (batch, mask) in enumerate(shelf.batches(epoch)):
            loss_G = _member_losses(learner, stack, batch, mask)
            gradients = torch.autograd.grad(loss_G.sum(), list(stack.weights.values()))
            optimizer.step(gradients, _rates(learner, plans, epoch, number, like=loss_G), mask.any(1))
            losses.append(loss_G.detach())
        return torch.stack(losses)

    run_epochs(learner.epochs, run_epoch)
    ended = stack.states()
    facts = [{"epochs": plan.epochs, "steps": plan.epochs * plan.steps} for plan in plans]
    for state, plan in zip(ended, plans, strict=False):
        state.update({name: value + plan.epochs * plan.steps for name, value in state.items() if value.ndim == 0 and not value.is_floating_point()})
    return [begun[0].become(Trained(state=state, facts=fact)) for state, fact in zip(ended, facts, strict=False)]


def _member_losses(learner: Central, stack: Stack, batch: Batch, mask: Tensor) -> Tensor:
    """Return each member's mean loss (G,) over the rows of its batch; `mask` (G, B) is false for padding rows."""
    with learner.autocast():
        scores = stack.scores(batch.inputs, mask)
    each = row_losses(scores.flatten(0, 1), batch.labels.flatten(), learner.label_smoothing)
    return torch.where(mask, each.view(mask.shape), 0.0).sum(1) / mask.sum(1).clamp_min(1)  # losses of padding rows do not count


def _rates(learner: Central, plans: Sequence[Plan], epoch: int, number: int, *, like: Tensor) -> Tensor:
    """Return each member's learning rate in a step of an epoch, in the shape (G,) and on the device of `like`; 0 for members without rows."""
    steps = [epoch * plan.steps + min(number, plan.steps - 1) for plan in plans]
    rates = [learner.lr * learner.factor(step, plan.epochs * plan.steps) for step, plan in zip(steps, plans, strict=True)]
    return torch.tensor([*rates, *[0.0] * (len(like) - len(rates))], device=like.device)


class _Shelf:
    """The rows of all members, joined.

    Each member's rows are shuffled and cut into its own number of steps of nearly equal size, as in a training of that member alone.
    """

    def __init__(self, learner: Central, parts: Sequence[Dataset], rngs: Sequence[Key], members: int) -> None:
        self.learner, self.parts, self.rngs = learner, parts, rngs
        self.place = device.resolve(learner.device)
        self.inputs = torch.cat([part.inputs for part in parts]).to(self.place)
        self.labels = torch.cat([part.labels for part in parts]).to(self.place)
        sizes = torch.tensor([len(part) for part in parts])
        steps = torch.tensor([learner.planned(part).steps for part in parts])
        self.member = torch.arange(len(parts)).repeat_interleave(sizes)
        first = sizes.cumsum(0) - sizes
        self.at = (*cut(torch.arange(len(self.labels)) - first[self.member], sizes[self.member], steps[self.member]), self.member)
        self.rows = torch.zeros(int(steps.max()), learner.batch_size, members, dtype=torch.int64)
        self.rows[:, :, : len(parts)] = first  # a padding row is row 0 of its member, or of the first member
        mask = torch.zeros(self.rows.shape, dtype=torch.bool)
        mask[self.at] = True
        self.masks = mask.transpose(1, 2).contiguous().to(self.place)

    def batches(self, epoch: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (G, B, ...) batches and their (G, B) masks."""
        draws = per_row_of_each([rng.child(ORDER) for rng in self.rngs], [part.ids for part in self.parts], epoch)[:, 0]
        order = draws.argsort(stable=True)
        order = order[self.member[order].argsort(stable=True)]
        augmentation, drawn = self.learner.augmentation, None
        form = self.parts[0].form
        if augmentation.changes(form):
            drawn = torch.cat([augmentation.draws(part.ids, epoch, rng) for part, rng in zip(self.parts, self.rngs, strict=True)]).to(self.place)
        plan = self.rows.clone()
        plan[self.at] = order
        for rows, mask in zip(plan.transpose(1, 2).to(self.place), self.masks, strict=True):
            flat = rows.flatten()
            inputs = self.inputs[flat] if drawn is None else augmentation(self.inputs[flat], drawn[flat])
            yield Batch(inputs=form.ready(inputs).unflatten(0, rows.shape), labels=self.labels[rows], ids=rows, form=form), mask


def cut(places_N: Tensor, sizes_N: Tensor, steps_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step of each place of a sequence, and its position in that step; cut as `Tensor.tensor_split` does: longer steps first.

    Args:
        places_N: (N,) places, from 0.
        sizes_N: length of the sequence that each place is in.
        steps_N: number of steps of that sequence.
    """
    short, longer = sizes_N // steps_N, sizes_N % steps_N
    early = places_N < longer * (short + 1)
    late = places_N - longer * (short + 1)
    steps = torch.where(early, places_N // (short + 1), longer + late // short)
    return steps, torch.where(early, places_N % (short + 1), late % short)


class StackedSGD:
    """SGD with Nesterov momentum, a learning rate for each member, and weight decay on tensors of two axes or more.

    Args:
        stack: the networks to train.
        momentum: in [0, 1).
        weight_decay: of tensors of two axes or more.
        bias_lr: factor on the learning rate of biases and shifts.
    """

    def __init__(self, stack: Stack, momentum: float, weight_decay: float, bias_lr: float) -> None:
        self.stack, self.momentum, self.weight_decay, self.bias_lr = stack, momentum, weight_decay, bias_lr
        self.speeds = {name: torch.zeros_like(weight).view(stack.members, -1) for name, weight in stack.weights.items()}

    def step(self, gradients: Sequence[Tensor], lr: Tensor, active: Tensor) -> None:
        """Move the weights of all members by their (joined) gradients.

        Args:
            gradients: one per weight of the stack.
            lr: (G,) learning rate of each member.
            active: (G,) bool; the others have no rows left in this epoch and do not change.
        """
        everyone, active = bool(active.all()), active[:, None]
        rates, kept = torch.where(active, -lr[:, None], 0.0), torch.where(active, self.momentum, 1.0)
        with torch.no_grad():
            # in place: a stack's weights fill the cache, and new memory of their size costs more time than the arithmetic
            for (name, weight), gradient in zip(self.stack.weights.items(), gradients, strict=True):
                own, slope = weight.view(self.stack.members, -1), gradient.reshape(self.stack.members, -1)
                decayed, speed = decays(weight), self.speeds[name]
                if decayed and self.weight_decay:
                    slope.add_(own, alpha=self.weight_decay)
                slope = slope if everyone else torch.where(active, slope, 0.0)
                speed.mul_(kept).add_(slope)
                own.addcmul_(slope.add_(speed, alpha=self.momentum), rates * (1.0 if decayed else self.bias_lr))


def _check_vmap(module: nn.Module) -> None:
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        raise ConfigError("learner.stack=vmap cannot keep padding rows out of batch normalisation; use grouped, unfold, or net.norm=group")
