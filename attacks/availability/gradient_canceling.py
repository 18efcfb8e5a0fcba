"""Gradient canceling: inserted rows that make chosen parameters the solution of the training.

Shape letters: R rows of poison, D columns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
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


@dataclass(frozen=True, kw_only=True)
class GradientCanceling:
    """Choose bad parameters, and insert rows whose gradients cancel the gradient of the clean rows there: training then stops at these parameters.

    Source: Lu, Kamath, Yu, "Exploring the Limits of Model-Targeted Indiscriminate Data Poisoning Attacks", ICML 2023. The parameters are those of
    GradPC (Sun et al., "Exploring the Vulnerability of Deep Neural Networks: A Study of Parameter Corruption", 2020): gradient ascent on the
    training loss in a Euclidean ball around the clean parameters.

    The rows minimise the squared length of the gradient of the victim's whole objective at these parameters. The term of the clean rows is constant
    and computed once. The gradient contains the intercept, the penalty, and the standardisation of the columns, which depends on the poison. For
    a convex objective a zero gradient means that the victim learns these parameters exactly. With few rows, or rows in a box, this is often impossible
    for a large ball (the paper's "poisoning-ratio threshold"). The attacker therefore tries every radius in `radii`, retrains, and takes the rows
    with which clean rows have the largest loss.

    Differences: the paper has no penalty and, in the published code, no intercept; it fixes one radius for each task. It takes gradient
    descent with a learning rate of 10 and a cosine schedule; here it is L-BFGS-B, which has no learning rate and keeps to the box. The paper starts from
    clean rows with their own labels; "flipped" starts from the same rows with the other label.

    Args:
        radii: radii of the ball, as multiples of the length of the clean parameters on standardised columns, each above 0, at most 1e6.
        ascent: steps of gradient ascent to the parameters, 1 or more.
        steps: most steps of the rows, 1 or more (paper: 1000, of gradient descent).
        labels: of the rows: "flipped" or "kept".
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    SEVERAL_CLASSES: ClassVar[bool] = True
    radii: tuple[float, ...]
    ascent: int
    steps: int
    labels: Literal["flipped", "kept"]

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not self.radii or not all(0 < radius <= 1e6 for radius in self.radii) or self.ascent < 1 or self.steps < 1:
            raise ConfigError("attack.data: radii has one or more numbers above 0, at most 1e6, ascent and steps are 1 or more")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many as the budget allows.

        Raises:
            Incompatible: the surrogate is not a linear model of two classes.
            ConfigError: a limit in a norm other than Linf.
        """
        rows, chosen = known.rows, known.choose(torch.ones(len(known.rows), dtype=torch.bool), rng.child("rows"))
        if len(chosen) == 0:
            return Poisoned(data=rows, mask=known.mask(chosen), goal=Degrade())
        scale, labels = Scale.of(rows), {"flipped": 1 - rows.labels[chosen], "kept": rows.labels[chosen]}[self.labels]
        training, starts = Training.of(known, scale), Points(points=scale.points(rows.inputs[chosen]), signs=signs(labels))
        box = Box.around(starts.points, scale, known)
        clean, tried = training.solved(starts.take(chosen[:0])), list[tuple[float, Tensor]]()
        for place in track(len(self.radii), "radii"):
            wanted = corrupted(training, clean, self.radii[place] * float(clean.norm()), self.ascent)
            points = self.canceled(training, wanted, starts, box)
            tried.append((float(training.damage(training.solved(starts.moved(points), clean), training.clean)), points))
        inputs = scale.inputs(max(tried, key=lambda pair: pair[0])[1], rows.inputs[chosen])
        return dataclasses.replace(with_rows(known, chosen, inputs, labels, Degrade()), origins=chosen)

    def canceled(self, training: Training, wanted: Tensor, starts: Points, box: Box) -> Tensor:
        """Return the (R, D) rows in the box with the smallest gradient of the objective at the wanted parameters."""
        clean_pull, shape = training.pull(wanted, training.clean), starts.points.shape

        def left(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            points = torch.from_numpy(values).reshape(shape).requires_grad_()
            length = training.gradient(wanted, starts.moved(points), clean_pull).square().sum()
            (slope,) = torch.autograd.grad(length, points)
            return float(length.detach()), slope.flatten().numpy()

        first = box.clamped(starts.points).flatten().numpy()
        sides = Bounds(box.low.flatten().numpy(), box.high.flatten().numpy())
        found = minimize(left, first, jac=True, method="L-BFGS-B", bounds=sides, options={"maxiter": self.steps, "ftol": 0.0, "gtol": 1e-12})
        return box.clamped(torch.from_numpy(found.x).reshape(shape))


def corrupted(training: Training, clean: Tensor, radius: float, steps: int) -> Tensor:
    """Return (D + 1,) parameters with a large loss on clean rows, within a Euclidean ball around the clean ones."""
    theta = clean
    for _ in range(steps):
        rise = training.pull(theta, training.clean)
        offset = theta + 2 * radius / steps * rise / rise.norm().clamp_min(1e-300) - clean
        theta = clean + offset * min(1.0, radius / float(offset.norm().clamp_min(1e-300)))
    return theta
