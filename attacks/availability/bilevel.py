"""Bilevel poisoning: inserted rows that follow the gradient of the loss of the retrained model.

Shape letters: R rows of poison, N rows, D columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.convex import Box, Points, Scale, Training
from attacks.injection import with_rows
from poisonbench.core.attack import Poisoned
from poisonbench.core.convex import signs
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.reals import NUMBERS

HALVINGS = 15  # of a step that does not raise the loss, before its rows stop


@dataclass(frozen=True, kw_only=True)
class Bilevel:
    """Insert rows with a wrong label, and move them so that the model that is trained on them has a large loss on clean rows.

    Source: Biggio, Nelson, Laskov, "Poisoning Attacks against Support Vector Machines", ICML 2012; Mei and Zhu, "Using Machine Teaching to Identify
    Optimal Training-Set Attacks on Machine Learners", AAAI 2015, for any convex learner; Melis et al., "secml", SoftwareX 2022, for logistic regression.

    The outer problem maximises the summed loss on clean rows. The inner problem is the victim's training on clean rows and the poison, which is
    solved to the optimum in float64. The gradient of the solution comes from the conditions of its optimum, by the implicit function theorem. It is
    exact for logistic regression, and for the squared hinge loss wherever no margin equals 1: only support vectors are in the Hessian, as in Biggio
    et al. The victim standardises its columns with the poison among the rows. The gradient goes through this step too.

    Each row starts at a random clean row and has the label of the other class. All rows of a group move together, along the gradient, each by the same
    largest share of the box. The box is the range of each column among the clean rows; a limit of the threat in Linf holds too.

    Differences: the papers have a separate validation set; here it is a share of the clean rows, or all of them, and the victim trains on it too.
    Biggio et al. attack a hinge loss with a kernel; learner=svm learner.kernel=linear has the squared hinge loss. They take a constant step along the
    gradient; here a step that does not raise the loss is halved. Pixels are rounded to whole grey levels at the end.

    Args:
        points: "together" moves all rows in each step; "one_by_one" moves one row after the other, as the papers do, with one row's steps each.
        steps: steps of each group, 1 or more.
        step_size: length of the first step, as a share of the box, in (0, 1].
        validation: share of the clean rows that are held out for the outer problem, in [0, 1) (papers: a separate set); with 0, all clean rows are in both
            problems. On seed 100, 0 was stronger than 0.3 for logistic regression on breast_cancer and MNIST 1-7, and weaker for the SVM on breast_cancer.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    SEVERAL_CLASSES: ClassVar[bool] = True
    points: Literal["together", "one_by_one"]
    steps: int
    step_size: float
    validation: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.steps < 1 or not 0 < self.step_size <= 1:
            raise ConfigError(f"attack.data: steps={self.steps} is 1 or more, step_size={self.step_size} lies in (0, 1]")
        if not 0 <= self.validation < 1:
            raise ConfigError(f"attack.data.validation={self.validation}: a share of rows to hold out lies in [0, 1)")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many as the budget allows.

        Raises:
            Incompatible: the surrogate is not a linear model of two classes.
            ConfigError: a limit in a norm other than Linf.
        """
        rows, chosen = known.rows, known.choose(torch.ones(len(known.rows), dtype=torch.bool), rng.child("rows"))
        if len(chosen) == 0:
            return Poisoned(data=rows, mask=known.mask(chosen), goal=Degrade())
        scale, labels = Scale.of(rows), 1 - rows.labels[chosen]
        training, starts = Training.of(known, scale), Points(points=scale.points(rows.inputs[chosen]), signs=signs(labels))
        held = rng.child("validation").per_row(rows.ids)[:, 0] < self.validation
        outer = training.clean.take(held) if held.any() else training.clean
        place = torch.arange(len(chosen))
        groups = [place] if self.points == "together" else place.split(1)
        climb = Climb(training=training.without(held), outer=outer, box=Box.around(starts.points, scale, known))
        moved = self.moved(climb, starts, groups)
        inputs = scale.inputs(moved, rows.inputs[chosen])
        return dataclasses.replace(with_rows(known, chosen, inputs, labels, Degrade()), origins=chosen)

    def moved(self, climb: Climb, starts: Points, groups: Sequence[Tensor]) -> Tensor:
        """Return the (R, D) rows after projected gradient ascent, one group of rows after the other."""
        added = starts.moved(climb.box.clamped(starts.points))
        theta = climb.training.solved(added)
        for group in groups:
            added, theta = self._climbed(climb, added, theta, group)
        return added.points

    def _climbed(self, climb: Climb, added: Points, theta: Tensor, group: Tensor) -> tuple[Points, Tensor]:
        """Return the poison after the steps of one group, and the parameters that are trained on it."""
        training, size, value = climb.training, self.step_size, climb.training.damage(theta, climb.outer)
        for _ in track(self.steps, "steps"):
            direction = torch.zeros_like(added.points)
            direction[group] = steepest(training.risen(theta, added, training.pull(theta, climb.outer)), climb.box)[group]
            while size > self.step_size / 2**HALVINGS:
                tried = added.moved(climb.box.clamped(added.points + size * direction))
                new = training.solved(tried, theta)
                if (raised := training.damage(new, climb.outer)) > value:
                    added, theta, value, size = tried, new, raised, min(self.step_size, 2 * size)
                    break
                size /= 2
            else:
                break
        return added, theta


@dataclass(frozen=True, eq=False, kw_only=True)
class Climb:
    """The two problems, and where the poison may be.

    Args:
        training: the inner problem.
        outer: the rows whose loss is raised.
        box: of the poison.
    """

    training: Training
    outer: Points
    box: Box


def steepest(gradient_RD: Tensor, box: Box) -> Tensor:
    """Return (R, D) steps of steepest ascent where each column is measured in sides of the box; the largest of each row is one side."""
    lengths = (gradient_RD * box.width).abs().amax(1, keepdim=True).clamp_min(1e-300)
    return box.width.square() * gradient_RD / lengths
