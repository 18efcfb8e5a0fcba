"""A training of a linear model as its attacker repeats it, in float64, and the gradient of its solution with respect to the poison.

The columns of the inputs are put on the scale of the clean rows, and this scale is fixed. The function that the victim learns is then v.z + c. Which
function it is does not depend on the scale, but its penalty does: the victim standardises the columns with the mean m and the deviation s of all rows
that it is given, poison included, so its weights are v * s and its bias is c + v.m. Gradients here go through m and s as well.
Shape letters: N rows, R rows of poison, C columns of the inputs, D columns that vary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from poisonbench.core.convex import LinearModel, needed, signs
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.threat import Known

NEWTON, HALVINGS = 100, 40  # most steps of the solver, and most halvings of one step
TOLERANCE = 1e-9  # of the gradient's largest entry, per row
FLAT = 1e-20  # a variance below this, on the scale of the clean rows, is a rounding error; the learner leaves such a column as it is


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale:
    """The fixed scale of the columns that vary among the clean rows, and the box of values that poison may have.

    Poison in the box has the value of the clean rows in every other column, so no model learns anything from these.

    Args:
        varies: (C,) bool, the columns of the inputs that vary; D in number.
        centre: (D,) means of the clean rows.
        unit: (D,) their deviations.
        low: (D,) the smallest value of each column among the clean rows, on this scale.
        high: (D,) the largest.
    """

    varies: Tensor
    centre: Tensor
    unit: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, rows: Dataset) -> Scale:
        """Measure the clean rows."""
        values_NC = rows.inputs.flatten(1).double()
        varies = values_NC.std(0, correction=0) > 1e-12 * values_NC.abs().amax(0)
        if not varies.any():
            raise ConfigError("all columns of the training rows are constant, so no row can be moved; choose another task")
        values_ND = values_NC[:, varies]
        centre, unit = values_ND.mean(0), values_ND.std(0, correction=0)
        return cls(varies=varies, centre=centre, unit=unit, low=(values_ND.amin(0) - centre) / unit, high=(values_ND.amax(0) - centre) / unit)

    def points(self, inputs: Tensor) -> Tensor:
        """Return (N, D) float64 points of inputs (N, ...)."""
        return (inputs.flatten(1)[:, self.varies].double() - self.centre) / self.unit

    def inputs(self, points_RD: Tensor, like: Tensor) -> Tensor:
        """Return points as inputs with the type and the shape of `like` (R, ...), and its values in columns that do not vary; whole numbers are rounded."""
        values = points_RD * self.unit + self.centre
        lowest, highest = self.low * self.unit + self.centre, self.high * self.unit + self.centre
        whole = like.flatten(1).clone()
        whole[:, self.varies] = (values if like.is_floating_point() else values.round()).clamp(lowest, highest).to(like.dtype)
        return whole.reshape(like.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Box:
    """The points that each row of poison may be moved to.

    Args:
        low: (R, D) smallest values.
        high: (R, D) largest values.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, starts_RD: Tensor, scale: Scale, known: Known) -> Box:
        """Return the box of the clean rows; where the threat limits changes, its part within the limit of each start.

        Raises:
            ConfigError: a norm other than Linf, or a limit that allows no change.
        """
        low, high = scale.low.expand_as(starts_RD), scale.high.expand_as(starts_RD)
        if known.budget.limit is None:
            return cls(low=low, high=high)
        if known.budget.norm != "linf":
            raise ConfigError(f"threat.budget.norm={known.budget.norm}: attacks on linear models know a limit in linf, or none; set norm and limit to null")
        limit, values = known.budget.limit, known.rows.inputs.flatten(1)[:, scale.varies]
        if values.is_floating_point():  # the stored numbers are rounded; the last digit must not exceed the limit
            reach = (limit - 2 * torch.finfo(values.dtype).eps * values.double().abs().amax(0)).clamp_min(0) / scale.unit
        else:
            reach = math.floor(limit) / scale.unit
        if not (reach > 0).any():
            raise ConfigError(f"threat.budget.limit={limit:g} allows no change of any column; give a larger one, or null for none")
        return cls(low=torch.maximum(low, starts_RD - reach), high=torch.minimum(high, starts_RD + reach))

    @property
    def width(self) -> Tensor:
        """(R, D) lengths of the sides."""
        return self.high - self.low

    def clamped(self, points_RD: Tensor) -> Tensor:
        """Return the nearest points in the box."""
        return points_RD.clamp(self.low, self.high)


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """Rows on the fixed scale.

    Args:
        points: (N, D) float64.
        signs: (N,) -1 for class 0, +1 for class 1.
    """

    points: Tensor
    signs: Tensor

    def margins(self, theta: Tensor) -> Tensor:
        """Return (N,) margins under (D + 1,) parameters, v and then c."""
        return self.signs * (self.points @ theta[:-1] + theta[-1])

    def take(self, rows: Tensor) -> Points:
        """Return some of the rows."""
        return Points(points=self.points[rows], signs=self.signs[rows])

    def moved(self, points: Tensor) -> Points:
        """Return rows with the same labels at other points."""
        return dataclasses.replace(self, points=points)


@dataclass(frozen=True, eq=False, kw_only=True)
class Training:
    """What the victim minimises, as a function of the poison that is added to the clean rows.

    Args:
        clean: the rows that stay as they are.
        model: loss and penalty of the victim's recipe.
    """

    clean: Points
    model: LinearModel

    @classmethod
    def of(cls, known: Known, scale: Scale) -> Training:
        """Return the training of the surrogate on the clean rows.

        Raises:
            Incompatible: the surrogate is not a linear model of two classes.
        """
        model = needed(known.fit(known.rows))
        return cls(clean=Points(points=scale.points(known.rows.inputs), signs=signs(known.rows.labels)), model=model)

    def moments(self, added: Points) -> tuple[Tensor, Tensor]:
        """Return (D,) means and (D,) variances of all rows; the learner takes 1 for the variance of a constant column."""
        (own_mean, own_spread), own, count = self.own_moments, len(self.clean.points), len(self.clean.points) + len(added.points)
        mean = (own * own_mean + added.points.sum(0)) / count
        middle = mean.detach()  # the derivative of a variance in its mean is zero
        variance = (own_spread + own * (own_mean - middle).square() + (added.points - middle).square().sum(0)) / count
        return mean, torch.where(variance > FLAT, variance, 1.0)

    @cached_property
    def own_moments(self) -> tuple[Tensor, Tensor]:
        """(D,) means of the clean rows, and (D,) sums of their squared distances to it."""
        mean = self.clean.points.sum(0) / max(1, len(self.clean.points))
        return mean, (self.clean.points - mean).square().sum(0)

    def objective(self, theta: Tensor, added: Points) -> Tensor:
        """Return the sum of the losses plus the penalty."""
        mean, variance = self.moments(added)
        loss, v, bias = self.model.loss, theta[:-1], theta[-1] + theta[:-1] @ mean
        penalty = (v.square() * variance).sum() + self.model.bias_penalty * bias.square()
        return loss.value(self.clean.margins(theta)).sum() + loss.value(added.margins(theta)).sum() + penalty / (2 * self.model.C)

    def damage(self, theta: Tensor, rows: Points) -> Tensor:
        """Return the summed loss of rows."""
        return self.model.loss.value(rows.margins(theta)).sum()

    def pull(self, theta: Tensor, rows: Points) -> Tensor:
        """Return (D + 1,), the gradient of the summed loss of rows."""
        push = rows.signs * self.model.loss.slope(rows.margins(theta))
        return torch.cat([push @ rows.points, push.sum()[None]])

    def gradient(self, theta: Tensor, added: Points, clean_pull: Tensor | None = None) -> Tensor:
        """Return (D + 1,), the gradient of the objective in the parameters; differentiable in the poison.

        Args:
            theta: the parameters.
            added: the poison.
            clean_pull: what `pull` gives for the clean rows, if it is known.
        """
        mean, variance = self.moments(added)
        bias = self.model.bias_penalty * (theta[-1] + theta[:-1] @ mean)
        penalty = torch.cat([theta[:-1] * variance + bias * mean, bias[None]]) / self.model.C
        return (self.pull(theta, self.clean) if clean_pull is None else clean_pull) + self.pull(theta, added) + penalty

    def hessian(self, theta: Tensor, added: Points) -> Tensor:
        """Return (D + 1, D + 1), the second derivative of the objective in the parameters."""
        mean, variance = self.moments(added)
        total = torch.diag(torch.cat([variance, variance.new_zeros(1)])) / self.model.C
        side = torch.cat([mean, mean.new_ones(1)])
        total += self.model.bias_penalty * torch.outer(side, side) / self.model.C
        for rows in (self.clean, added):
            curvature = self.model.loss.curvature(rows.margins(theta))
            bent = curvature > 0
            weighed = curvature[bent, None] * rows.points[bent]
            total[:-1, :-1] += rows.points[bent].T @ weighed
            total[:-1, -1] += weighed.sum(0)
            total[-1, :-1] += weighed.sum(0)
            total[-1, -1] += curvature.sum()
        return total

    def solved(self, added: Points, start: Tensor | None = None) -> Tensor:
        """Return (D + 1,), the parameters that the victim learns, by Newton's method with halved steps."""
        theta = self.clean.points.new_zeros(self.clean.points.shape[1] + 1) if start is None else start
        rows, value = len(self.clean.points) + len(added.points), self.objective(theta, added)
        for _ in range(NEWTON):
            slope = self.gradient(theta, added)
            if slope.abs().max() <= TOLERANCE * rows:
                break
            step = self.inverse(theta, added, slope)
            for halving in range(HALVINGS):
                tried = theta - step / 2**halving
                if (new := self.objective(tried, added)) < value:
                    break
            else:
                break  # no smaller value: what is left is rounding
            theta, value = tried, new
        return theta

    def inverse(self, theta: Tensor, added: Points, vector: Tensor) -> Tensor:
        """Return (D + 1,), the vector times the inverse of the Hessian."""
        hessian = self.hessian(theta, added)
        hessian.diagonal().add_(1e-10 * hessian.diagonal().mean())  # the squared hinge may leave c without curvature
        return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(hessian))[:, 0]

    def risen(self, theta: Tensor, added: Points, outward: Tensor) -> Tensor:
        """Return (R, D), how a function of the trained parameters changes with the poison, by the implicit function theorem.

        Training ends where the gradient g(theta, x) of the objective is zero, so dtheta/dx = -H^-1 dg/dx, with the Hessian H of the objective.

        Args:
            theta: the trained parameters.
            added: the poison.
            outward: (D + 1,) gradient of the function in the parameters.
        """
        adjoint = self.inverse(theta, added, outward)
        moving = added.points.clone().requires_grad_()
        slope = -(adjoint * self.gradient(theta, added.moved(moving))).sum()
        (gradient,) = torch.autograd.grad(slope, moving)
        return gradient

    def without(self, rows: Tensor) -> Training:
        """Return the training without the clean rows at these positions, or where a mask holds."""
        kept = torch.ones(len(self.clean.points), dtype=torch.bool)
        kept[rows] = False
        return dataclasses.replace(self, clean=self.clean.take(kept))
