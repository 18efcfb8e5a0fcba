"""Robust losses: bounded losses that wrong labels pull at less than at the cross-entropy.

Shape letters: B rows of a batch, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Network, Objective, PlainStep
from poisonbench.core.proof import Looks


@dataclass(frozen=True, kw_only=True)
class RobustLossStep(PlainStep):
    """Minimise a loss that is robust to wrong labels, in place of the recipe's objective and without label smoothing.

    Source: "gce" is the generalised cross-entropy (1 - p^q) / q of Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks
    with Noisy Labels", NeurIPS 2018, where p is the probability of the label: q near 0 is the cross-entropy, q = 1 the mean absolute error. "sce" is
    the symmetric cross-entropy of Wang, Ma, Chen, Luo, Yi, Bailey, "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019:
    alpha times the cross-entropy and beta times -log_zero (1 - p), the reverse cross-entropy with log 0 set to log_zero.

    Differences: the truncated form of "gce" prunes the rows whose p is at most `truncation`; the paper decides that every few epochs for all rows,
    here each step decides for its own rows. The loss of a pruned row is a constant, as in the paper, so it has no gradient.

    The default of alpha is that of the paper's MNIST. With 0.1, the network still learns wrong labels of the digits: C-Acc 80.3 % where 40 % are wrong,
    with 0.01 96.4 % (symmetric noise, seed 100).

    Args:
        how: "gce" or "sce".
        q: of "gce", in [0.001, 1] (paper: 0.7).
        truncation: of "gce", the probability k of the label that a row needs to have a gradient, in [0, 1); 0 is off (paper: 0.5).
        truncate_from: share of the epochs before rows are pruned, in [0, 1] (paper: 40 of 120 epochs). An untrained network gives most labels a
            probability below `truncation`, so with 0 it may never learn.
        alpha: of "sce", 0 or more (paper: 0.1 for CIFAR-10, 0.01 for MNIST).
        beta: of "sce", above 0 (paper: 1).
        log_zero: of "sce", below 0 (paper: -4; the published code clips labels at 1e-4, which is -9.2).
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    how: Literal["gce", "sce"]
    q: float
    truncation: float
    truncate_from: float
    alpha: float
    beta: float
    log_zero: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.how not in ("gce", "sce"):
            raise ConfigError(f"defense.train.step.how={self.how}: choose gce or sce")
        if not (1e-3 <= self.q <= 1 and 0 <= self.truncation < 1 and 0 <= self.truncate_from <= 1):
            asked = f"q={self.q}, truncation={self.truncation}, truncate_from={self.truncate_from}"
            raise ConfigError(f"defense.train.step: {asked}; q lies in [0.001, 1], truncation in [0, 1), truncate_from in [0, 1]")
        if not (0 <= self.alpha < math.inf and 0 < self.beta < math.inf and -math.inf < self.log_zero < 0):
            asked = f"alpha={self.alpha}, beta={self.beta}, log_zero={self.log_zero}"
            raise ConfigError(f"defense.train.step: {asked}; alpha is 0 or more, beta above 0, log_zero below 0, all finite")

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the robust loss; the objective of the recipe, and of steps before this one, is not used."""
        if self.how == "sce":
            return SymmetricCrossEntropy(alpha=self.alpha, beta=self.beta, log_zero=self.log_zero)
        pruning = moment.epoch >= self.truncate_from * moment.plan.epochs
        return GeneralisedCrossEntropy(q=self.q, truncation=self.truncation if pruning else 0.0)


@dataclass(frozen=True, kw_only=True)
class GeneralisedCrossEntropy:
    """The loss (1 - p^q) / q of the probability p of the label.

    Args:
        q: in (0, 1].
        truncation: rows with a smaller p have the loss of this p; 0 is off.
    """

    VERSION: ClassVar[int] = 1
    q: float
    truncation: float

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) losses; labels are not smoothed."""
        scores = network(batch.inputs)
        logs_B = F.log_softmax(scores if scores.dtype == torch.float64 else scores.float(), 1).gather(1, batch.labels[:, None])[:, 0]
        losses_B = -torch.expm1(self.q * logs_B) / self.q  # exact for small q, where 1 - p^q loses all digits
        if self.truncation == 0:
            return losses_B
        return torch.where(logs_B.exp() > self.truncation, losses_B, (1 - self.truncation**self.q) / self.q)


@dataclass(frozen=True, kw_only=True)
class SymmetricCrossEntropy:
    """The cross-entropy and the reverse cross-entropy, weighed.

    Args:
        alpha: weight of the cross-entropy.
        beta: weight of the reverse cross-entropy.
        log_zero: stands for the logarithm of 0 in it.
    """

    VERSION: ClassVar[int] = 1
    alpha: float
    beta: float
    log_zero: float

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) losses; labels are not smoothed."""
        scores = network(batch.inputs)
        logs_B = F.log_softmax(scores if scores.dtype == torch.float64 else scores.float(), 1).gather(1, batch.labels[:, None])[:, 0]
        return -self.alpha * logs_B + self.beta * self.log_zero * torch.expm1(logs_B)
