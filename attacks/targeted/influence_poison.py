"""Influence functions as an attack: training rows that are moved along their influence on one test row.

Shape letters: N rows, R rows chosen, D columns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.convex import Box, Points, Scale, Training
from attacks.targeted.aims import Wish, wished
from poisonbench.core.attack import Poisoned
from poisonbench.core.convex import signs
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Flip
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.reals import NUMBERS


@dataclass(frozen=True, kw_only=True)
class InfluencePoison:
    """Move the training rows whose inputs have the largest influence on the answer to a target, and keep their labels.

    Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017, section 5.2.

    The influence of a training row's inputs on the loss of the target with the wished label is -grad_w L(target) . H^-1 . d2L/dw dx. The Hessian H is
    exact, because the surrogate is a linear model of two classes. The attack chooses the rows with the largest influence, the sum of its absolute
    values over the columns, each measured in sides of the box. They move by signed steps that lower the target's loss with the wished label, and
    stay in the box of the clean rows, and within the threat's limit in Linf if there is one. After each step the model is solved again.

    Differences: the paper perturbs pictures for the last layer of a network, one row or a few at a time, and raises the loss of the true label; here it
    is the loss of the wished label, which for a confident model has a larger gradient. The influence goes through the standardisation of the
    columns. The paper's steps end at a fixed number; here the best step is kept.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels, or the "next" class; with two classes, both are the other one.
        steps: 1 or more.
        step_size: length of a step, as a share of the box, in (0, 1]; it falls linearly to 0.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    ONE_TARGET: ClassVar[bool] = True
    SEVERAL_CLASSES: ClassVar[bool] = True
    wish: Wish
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.steps < 1 or not 0 < self.step_size <= 1:
            raise ConfigError(f"attack.data: steps={self.steps} is 1 or more, step_size={self.step_size} lies in (0, 1]")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many of them moved as the budget allows.

        Raises:
            Incompatible: the surrogate is not a linear model of two classes.
            ConfigError: a limit in a norm other than Linf, or too few rows.
        """
        rows, wish = known.rows, wished(known.targets, self.wish, rng)
        goal, count = Flip(ids=known.targets.ids, wish=wish), known.budget.rows(len(rows))
        pool = known.pool(torch.ones(len(rows), dtype=torch.bool), count)
        if count == 0:
            return Poisoned(data=rows, mask=known.mask(pool[:0]), goal=goal)
        scale = Scale.of(rows)
        training, target = Training.of(known, scale), Points(points=scale.points(known.targets.inputs), signs=signs(wish))
        size = (influence(training, target).abs() * (scale.high - scale.low)).sum(1)
        chosen = pool[size[pool].argsort(descending=True, stable=True)[:count]]
        starts = training.clean.take(chosen)
        moved = self.moved(training.without(chosen), starts, target, Box.around(starts.points, scale, known))
        return Poisoned(data=rows.edit(chosen, inputs=scale.inputs(moved, rows.inputs[chosen])), mask=known.mask(chosen), goal=goal)

    def moved(self, rest: Training, starts: Points, target: Points, box: Box) -> Tensor:
        """Return the (R, D) rows with which the target has the smallest loss with the wished label."""
        added, theta = starts, rest.solved(starts)
        tried = [(float(target.margins(theta)), starts.points)]
        for step in range(self.steps):
            rise = rest.risen(theta, added, rest.pull(theta, target))
            added = added.moved(box.clamped(added.points - self.step_size * (1 - step / self.steps) * box.width * rise.sign()))
            theta = rest.solved(added, theta)
            tried.append((float(target.margins(theta)), added.points))
        return max(tried, key=lambda pair: pair[0])[1]


def influence(training: Training, target: Points) -> Tensor:
    """Return (N, D), the derivative of the target's loss in the inputs of each training row, the model being trained again."""
    everyone = training.clean
    empty = dataclasses.replace(training, clean=everyone.take(torch.arange(0)))
    theta = empty.solved(everyone)
    return empty.risen(theta, everyone, training.pull(theta, target))
