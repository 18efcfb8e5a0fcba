"""The upper bound on the loss of a linear model that is trained within a fixed feasible set.

Shape letters: N rows, D columns.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from defenses.feasible import FeasibleSet, Shape
from poisonbench.core.audit import marks_of
from poisonbench.core.convex import LinearModel, hinge, linear_of, signs
from poisonbench.core.data import Dataset
from poisonbench.core.defense import stated
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Around, Combine, Learner, Trained, Victim
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SHARPNESS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)  # of the smooth bound, one solve after the other
STEPS = 200  # most steps of one solve


@dataclass(frozen=True, kw_only=True)
class BoundLoss:
    """Train on the rows in the feasible set only, and state how large the loss on clean rows can become under any attack.

    Source: Steinhardt, Koh, Liang, "Certified Defenses for Data Poisoning Attacks", NeurIPS 2017, section 3.

    Let F be the set, n the clean rows in it, and k the most rows that the attacker inserts or changes. The victim minimises the sum of the losses of all
    its rows plus a penalty, and no loss is negative. For every linear function f therefore
        loss of the victim on clean rows <= loss of f on clean rows + k * largest loss of f on a point of F + penalty of f,
    all over n. Each f gives a valid bound; the best one is a convex problem. It depends on the clean rows, the trusted rows and k, and on no attack.

    For a victim that is a linear model of two classes, the facts of the record contain:
        loss_bound: the bound on the mean loss that the victim minimises, over the clean rows in F. It includes by how much the victim's objective
            exceeds its minimum, because the bound above is one for the exact minimiser.
        clean_loss: that loss of the trained victim, which is never above it. A clean row that the attacker changed counts 0.
        hinge_bound, clean_hinge: the same for the hinge loss, max(0, 1 - margin). The bound follows from loss_bound.
    The bound holds where no more than k rows are poison and no other filter removes rows. The clean rows are the referee's knowledge. The figures use
    them; the training does not. Facts are those of the victim before any repair.

    Differences: the paper bounds the hinge loss of a support vector machine in a ball of parameters. Here the bound is about the loss and the penalty
    of the learner: logistic regression, or the squared hinge loss. Where the hinge loss is needed, it is bounded by that loss. The penalty of f is that of
    the victim's standardised columns, which the poison may change; its largest value is used. The paper's Algorithm 1 solves the problem by online
    gradient steps, here it is L-BFGS on a smooth maximum over both classes; both evaluate the bound exactly at the end, so weak duality holds up to
    rounding. The paper's integer constraints and the box of pixels are not part of F, which makes it larger and the bound valid.

    Args:
        expected_rate: inserted or changed rows / clean rows to assume, in [0, 1). null: what the threat's budget states, which is oracle knowledge.
        shape: how large the set is; that of defense.sanitize.
    """

    VERSION: ClassVar[int] = 2
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    shape: Shape

    def __post_init__(self) -> None:
        """Check that the rate is in range."""
        if self.expected_rate is not None and not 0 <= self.expected_rate < 1:
            raise ConfigError(f"defense.train.expected_rate={self.expected_rate}: a rate to expect lies in [0, 1)")

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner that trains within the set."""
        return Bounded(member=learner, rate=stated(self.expected_rate, "defense.train.expected_rate"), shape=self.shape)


@dataclass(frozen=True, kw_only=True)
class Bounded(Around):
    """A learner that trains on the rows in a feasible set; see `BoundLoss`.

    Args:
        member: the recipe.
        rate: inserted or changed rows / clean rows.
        shape: how large the set is.
    """

    VERSION: ClassVar[int] = 2
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    rate: float
    shape: Shape

    @property
    def stages(self) -> frozenset[str]:
        """Those of the member: a single model is trained."""
        return self.member.stages

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train the member on the rows in the set, and add the bound to its facts."""
        feasible = FeasibleSet.of(combine.trusted, self.shape, "trusted")
        victim = self.member.fit(data.take(feasible.excess(data) <= 1), combine, rng, start)
        model = linear_of(victim)
        if model is None:
            return victim
        clean = combine.clean.take(feasible.excess(combine.clean) <= 1)
        facts = self.figures(model, feasible, clean, data, math.floor(self.rate * len(combine.clean) + 1e-9))
        return cast("Victim", dataclasses.replace(cast("DataclassInstance", victim), facts={**victim.facts, **facts}))

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild a victim of the member."""
        return self.member.restore(trained, like, combine)

    def figures(self, model: LinearModel, feasible: FeasibleSet, clean: Dataset, data: Dataset, changes: int) -> Mapping[str, float]:
        """Return the losses of a victim on clean rows beside their bounds."""
        bound = Bound(feasible=feasible, model=model, points=feasible.points(clean), signs=signs(clean.labels), changes=changes).least()
        bound += shortfall(model, data.take(feasible.excess(data) <= 1)) / len(clean)
        margins = signs(clean.labels) * model.scores(clean.form.table(clean.inputs).double())
        unchanged = still_there(clean, data)
        loss, angle = (float((values * unchanged).mean()) for values in (model.loss.value(margins), hinge(margins)))
        return {"clean_loss": loss, "loss_bound": bound, "clean_hinge": angle, "hinge_bound": model.loss.hinge(bound)}


def still_there(clean: Dataset, data: Dataset) -> Tensor:
    """Return (N,) bool, the clean rows of which `data` has a copy; of several equal rows as many as it has."""
    left = Counter(marks_of(data))
    found = list[bool]()
    for mark in marks_of(clean):
        found.append(left[mark] > 0)
        left[mark] -= 1
    return torch.tensor(found)


def shortfall(model: LinearModel, rows: Dataset) -> float:
    """Return by how much the objective of the model, over its training rows, exceeds the minimum that L-BFGS finds from there; 0 or more.

    The bound holds for the exact minimiser. A solver stops a little above it, or far above it after few iterations.
    """
    standard_ND = (rows.form.table(rows.inputs).double() - model.mean) / model.scale
    signs_N, start = signs(rows.labels), torch.cat([model.weights.double(), torch.tensor([model.bias], dtype=torch.float64)])

    def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = torch.from_numpy(values).requires_grad_()
        weights, bias = theta[:-1], theta[-1]
        total = model.loss.value(signs_N * (standard_ND @ weights + bias)).sum()
        total = total + (weights.square().sum() + model.bias_penalty * bias.square()) / (2 * model.C)
        (slope,) = torch.autograd.grad(total, theta)
        return float(total.detach()), slope.numpy()

    best = minimize(objective, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9})
    return max(0.0, objective(start.numpy().copy())[0] - float(best.fun))


@dataclass(frozen=True, eq=False, kw_only=True)
class Bound:
    """The bound as a function of the parameters (D + 1,) of f: a weight for each column on the scale of the set, then the intercept.

    Args:
        feasible: the set.
        model: loss and penalty of the victim.
        points: (N, D) the clean rows in the set.
        signs: (N,) of their labels.
        changes: k, the most rows that are inserted or changed.
    """

    feasible: FeasibleSet
    model: LinearModel
    points: Tensor
    signs: Tensor
    changes: int

    def worst(self, theta: Tensor, soft: float = 0.0) -> Tensor:
        """Return (2,), the largest loss of f on a feasible point of each class."""
        least = [sign * theta[-1] + self.feasible.least(sign * theta[:-1], label, soft) for label, sign in enumerate((-1.0, 1.0))]
        return self.model.loss.value(torch.stack(least))

    def penalty(self, theta: Tensor) -> Tensor:
        """Return the largest penalty that f can have.

        The weight of a standardised column is v * s with its deviation s over the victim's rows. At least N - k clean rows are among them, and at most k
        others, all of which are in the set. A variance around the mean is the smallest around any point. A column that is constant there adds nothing:
        the intercept takes its part.
        """
        v, least = theta[:-1], len(self.points) - self.changes
        reach = (self.feasible.radii + (self.feasible.centres - self._mean).square().sum(1).sqrt()).max()
        spread = (v.square() * self._spread).sum() + self.changes * v.abs().max().square() * reach.square()
        bias = self.points.sum(0) @ v / least + len(self.points) / least * theta[-1]
        far = (v.square().sum() + 1e-300).sqrt() * reach + (self._mean @ v + theta[-1]).abs()  # no value of f in the set is larger
        return (spread / least + self.model.bias_penalty * (bias.abs() + 2 * self.changes / least * far).square()) / (2 * self.model.C)

    def value(self, theta: Tensor, sharpness: float = math.inf) -> Tensor:
        """Return the bound on the mean loss; with a finite sharpness a smooth function that is slightly larger."""
        worst = self.worst(theta, 1 / sharpness)
        most = worst.max() if math.isinf(sharpness) else torch.logsumexp(sharpness * worst, 0) / sharpness
        clean = self.model.loss.value(self.signs * (self.points @ theta[:-1] + theta[-1])).sum()
        return (clean + self.changes * most + self.penalty(theta)) / len(self.points)

    def best(self) -> Tensor:
        """Return the parameters with the smallest bound.

        Raises:
            ConfigError: the attacker may change as many rows as there are clean ones in the set.
        """
        if self.changes >= len(self.points):
            raise ConfigError(f"defense.train: the set has {len(self.points)} clean rows, and {self.changes} may be changed; lower expected_rate")

        theta = torch.zeros(self.points.shape[1] + 1, dtype=torch.float64)
        for sharpness in SHARPNESS:

            def descent(values: NDArray[np.float64], sharpness: float = sharpness) -> tuple[float, NDArray[np.float64]]:
                moving = torch.from_numpy(values).requires_grad_()
                bound = self.value(moving, sharpness)
                (slope,) = torch.autograd.grad(bound, moving)
                return float(bound.detach()), slope.numpy()

            found = minimize(descent, theta.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
            theta = torch.from_numpy(found.x)
        return theta

    def least(self) -> float:
        """Return the smallest bound that was found."""
        return float(self.value(self.best()))

    def attack(self) -> tuple[Tensor, Tensor]:
        """Return the paper's candidate attack: (2, D) the worst points of both classes, and (2,) how many rows to insert at each.

        At the optimum the gradients of the clean rows and of the penalty are balanced by those of the two points, with the weights of the maximum.
        Where f has no part across the axis, the paper's attack is spread over several points of a class, and this one is weaker.
        """
        theta = self.best()
        weights = torch.softmax(SHARPNESS[-1] * self.worst(theta, 1 / SHARPNESS[-1]), 0)
        points = torch.stack([self.feasible.lowest(sign * theta[:-1], label) for label, sign in enumerate((-1.0, 1.0))])
        many = int((self.changes * weights[0]).round())
        return points, torch.tensor([many, self.changes - many])

    @cached_property
    def _mean(self) -> Tensor:
        return self.points.mean(0)

    @cached_property
    def _spread(self) -> Tensor:
        return (self.points - self._mean).square().sum(0)
