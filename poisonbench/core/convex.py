"""Linear models of two classes whose training minimises a convex loss: what attacks and bounds on such models need to know of a victim.

A row with the sign y (-1 for class 0, +1 for class 1) has the margin y (w.x + b). Training minimises the sum of the losses of the margins, plus a
penalty on w, and for some recipes on b.
Shape letters: N rows, D columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from poisonbench.core.errors import Incompatible
from poisonbench.core.learner import Victim


class MarginLoss(Protocol):
    """A convex loss of a margin that is never negative and falls with the margin, as a frozen dataclass; all methods act on (N,) float64."""

    def value(self, margins: Tensor) -> Tensor:
        """Return the losses."""
        ...

    def slope(self, margins: Tensor) -> Tensor:
        """Return their first derivative; it is differentiable itself."""
        ...

    def curvature(self, margins: Tensor) -> Tensor:
        """Return their second derivative."""
        ...

    def hinge(self, mean: float) -> float:
        """Return an upper bound of the mean hinge loss, max(0, 1 - margin), of rows whose mean loss is this."""
        ...


@dataclass(frozen=True, kw_only=True)
class LogisticLoss:
    """log(1 + exp(-margin)), of logistic regression."""

    VERSION: ClassVar[int] = 1
    # the largest max(0, 1 - m) / log(1 + exp(-m)) over all m; it is 1.5422 at m = -0.612, and this is rounded up
    RATIO: ClassVar[float] = 1.543

    def value(self, margins: Tensor) -> Tensor:
        """Return the losses."""
        return torch.nn.functional.softplus(-margins)

    def slope(self, margins: Tensor) -> Tensor:
        """Return the first derivative."""
        return -torch.sigmoid(-margins)

    def curvature(self, margins: Tensor) -> Tensor:
        """Return the second derivative."""
        return torch.sigmoid(margins) * torch.sigmoid(-margins)

    def hinge(self, mean: float) -> float:
        """Return the mean times the largest ratio of the two losses."""
        return self.RATIO * mean


@dataclass(frozen=True, kw_only=True)
class SquaredHinge:
    """max(0, 1 - margin) squared, of LIBLINEAR's support vector machine."""

    VERSION: ClassVar[int] = 1

    def value(self, margins: Tensor) -> Tensor:
        """Return the losses."""
        return (1 - margins).clamp_min(0).square()

    def slope(self, margins: Tensor) -> Tensor:
        """Return the first derivative."""
        return -2 * (1 - margins).clamp_min(0)

    def curvature(self, margins: Tensor) -> Tensor:
        """Return the second derivative: 2 for support vectors, which have a margin below 1."""
        return 2.0 * (margins < 1).to(margins.dtype)

    def hinge(self, mean: float) -> float:
        """Return the root of the mean, by Jensen's inequality."""
        return math.sqrt(mean)


def hinge(margins: Tensor) -> Tensor:
    """Return the hinge losses of margins."""
    return (1 - margins).clamp_min(0)


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearModel:
    """A trained linear model of two classes and what its training minimises.

    The columns of the table (`Form.table`) are standardised with the mean and the deviation of the training rows; a constant column keeps its scale.
    Training minimises sum of loss(y (w.x + b)) + (w.w + bias_penalty * b * b) / (2 C) over the standardised rows x.

    Args:
        weights: (D,) w, float64.
        bias: b.
        mean: (D,) of the columns.
        scale: (D,) of the columns.
        loss: of a margin.
        C: inverse weight of the penalty.
        bias_penalty: 1 if b is penalised as the weights are, else 0.
    """

    weights: Tensor
    bias: float
    mean: Tensor
    scale: Tensor
    loss: MarginLoss
    C: float
    bias_penalty: float

    def scores(self, table_ND: Tensor) -> Tensor:
        """Return (N,) w.x + b; above 0 the answer is class 1."""
        return (table_ND - self.mean) / self.scale @ self.weights + self.bias


@runtime_checkable
class Linear(Protocol):
    """A victim that may be such a model."""

    def linear_model(self) -> LinearModel | None:
        """Return the model; None for more than two classes, for one class, for words, and for recipes that are not linear."""
        ...


def linear_of(victim: Victim) -> LinearModel | None:
    """Return the linear model of a victim, or None."""
    return victim.linear_model() if isinstance(victim, Linear) else None


def needed(victim: Victim) -> LinearModel:
    """Return the linear model of a surrogate.

    Raises:
        Incompatible: it is none.
    """
    model = linear_of(victim)
    if model is None:
        raise Incompatible(
            "this attack needs a surrogate that is linear and has two classes; use learner=logistic, or learner=svm learner.kernel=linear, on a task of two"
            " classes, such as task=breast_cancer or task=mnist task.classes=[1,7]"
        )
    return model


def signs(labels: Tensor) -> Tensor:
    """Return (N,) float64, -1 for class 0 and +1 for class 1."""
    return 2.0 * labels.double() - 1
