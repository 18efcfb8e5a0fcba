"""EPIC: rows that are alone in gradient space are dropped while the model is trained.

Shape letters: N rows, R rows of one class, K classes, P picked rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Moment, PlainStep, Plan

CHUNK = 500
BLOCK = 64  # gains that are computed together; a larger block wastes some of them, a smaller one waits more often
LEFT = "_epic_left"  # attribute of the module: (N,) bool, the rows that are still trained on


@dataclass(frozen=True, kw_only=True)
class EpicStep(PlainStep):
    """Every few epochs, drop for good the rows of each class whose gradients are isolated.

    Source: Yang, Liu, Mirzasoleiman, "Not All Poisons are Created Equal: Robust Training against Data Poisoning", ICML 2022, Algorithm 1 (EPIC): poisons
    that change the answer for a target have gradients unlike those of the other rows of their class. The gradient of a row is that of the loss with
    respect to the scores, softmax(scores) - one-hot(label), in evaluation mode and without augmentation. Medoids of a class are chosen greedily by
    facility location: the next medoid is the row that raises the sum over all rows of the similarity to their nearest medoid most. Each row joins its
    nearest medoid, and medoids without another row are dropped.

    Differences: the similarity is the largest distance of the class minus the distance; the published code uses the Euclidean one of submodlib. By our
    reading that code looks for medoids among all rows, those that were dropped before too; here, as in Algorithm 1, among the rows that are left. It
    drops nothing after the last fall of the learning rate, and in transfer learning after epoch 10 of 40; `until` does the same. It reports the model
    with the best test accuracy; here the last epoch counts.

    On digits with bullseye_polytope on a linear head (seed 100, four targets, 5 % of the rows, Linf 64, start 10 and every 2 of 40 epochs) it dropped 80 %
    of the poison and 44 % of the other rows. A record counts all of them as kept, since no filter has judged them.

    The number of steps stays, so batches become smaller. A round that would leave fewer than two rows for each step drops nothing.

    Args:
        share: medoids / rows of a class, in (0, 1); rounded up (paper: 0.1 to 0.3).
        start: K, epochs before the first round, 1 or more (paper: 10 of 40 or 30 of 200).
        every: T, epochs from one round to the next, 1 or more (paper: 2 of 40 or 10 of 200).
        until: epochs after which no round follows; null: the end of the training.
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    share: float
    start: int
    every: int
    until: int | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 < self.share < 1:
            raise ConfigError(f"defense.train.step.share={self.share}: a share of medoids lies in (0, 1), such as 0.2")
        if min(self.start, self.every) < 1 or (self.until is not None and self.until < self.start):
            asked = f"start={self.start}, every={self.every}, until={self.until}"
            raise ConfigError(f"defense.train.step: {asked}: start and every are 1 or more, until is start or more, or null")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse a training that ends before the first round.

        Raises:
            ConfigError: what to change.
        """
        if plan.epochs <= self.start:
            raise ConfigError(f"defense.train.step.start={self.start}: the training has {plan.epochs} epochs; give fewer than that")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Start with all rows."""
        setattr(module, LEFT, None)

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Return the plan without the dropped rows, in as many steps."""
        planned, module = list(batches), moment.module
        left: Tensor | None = getattr(module, LEFT)
        left = torch.ones_like(data.labels, dtype=torch.bool) if left is None else left
        if self.due(moment.epoch):
            fewer = left & ~isolated(gradients(module, data), data.labels, left, self.share)
            left = fewer if int(fewer.sum()) >= 2 * moment.plan.steps else left
        setattr(module, LEFT, left)
        if left.all():
            return planned
        rows = torch.cat(planned)
        return rows[left[rows]].tensor_split(len(planned))

    def due(self, epoch: int) -> bool:
        """Return whether rows are dropped before this epoch, counted from 0."""
        return epoch >= self.start and (epoch - self.start) % self.every == 0 and (self.until is None or epoch <= self.until)

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Return how many rows were dropped."""
        left: Tensor | None = getattr(module, LEFT)
        delattr(module, LEFT)
        return {"epic_dropped": 0 if left is None else int((~left).sum())}


def gradients(module: nn.Module, data: Dataset) -> Tensor:
    """Return (N, K) float32, softmax(scores) - one-hot(label), in evaluation mode."""
    module.eval()
    with torch.no_grad():
        scores = torch.cat([module(data.form.ready(some)).float() for some in data.inputs.split(CHUNK)])
    module.train()
    return scores.softmax(1) - torch.nn.functional.one_hot(data.labels, scores.shape[1])


def isolated(gradients_NK: Tensor, labels_N: Tensor, left_N: Tensor, share: float) -> Tensor:
    """Return (N,) bool, the medoids that no other of the rows that are left joins; a class of one row keeps it."""
    alone = torch.zeros_like(left_N)
    for label in labels_N[left_N].unique().tolist():
        rows = (left_N & (labels_N == label)).nonzero()[:, 0]
        if len(rows) > 1:
            alone[rows[lonely(gradients_NK[rows], math.ceil(share * len(rows) - 1e-9))]] = True
    return alone


def lonely(points_RK: Tensor, count: int) -> Tensor:
    """Return the positions of those of `count` medoids that no other row joins."""
    distances = torch.cdist(points_RK, points_RK, compute_mode="donot_use_mm_for_euclid_dist")
    picks = medoids(distances.max() - distances, count)
    joined = distances[:, picks].argmin(1)
    joined[picks] = torch.arange(len(picks), device=picks.device)  # a medoid stays with itself, even if another one is equal
    return picks[joined.bincount(minlength=len(picks)) == 1]


def medoids(similarity_RR: Tensor, count: int) -> Tensor:
    """Return (P,) int64, at most `count` positions that greedily maximise the sum over rows of the largest similarity to one of them.

    Ties go to the first position. Similarities are 0 or more; the choice ends early where no further medoid gains anything.
    """
    covered, picks = torch.zeros_like(similarity_RR[0]), list[int]()
    bounds = similarity_RR.sum(0)  # of the gain of each position; the sum is submodular, so a gain computed earlier is an upper bound
    while len(picks) < min(count, len(bounds)):
        exact = torch.zeros_like(bounds, dtype=torch.bool)
        while not exact[best := int(bounds.argmax())]:
            some = torch.where(exact, -torch.inf, bounds).topk(min(BLOCK, len(bounds))).indices
            some = torch.cat([some, some.new_tensor([best])])  # of equal bounds, topk may leave out the first
            bounds[some] = (similarity_RR[:, some] - covered[:, None]).clamp_min(0).sum(0)
            exact[some] = True
        if picks and bounds[best] <= 0:
            break
        picks.append(best)
        covered = torch.maximum(covered, similarity_RR[:, best])
        bounds[best] = -torch.inf
    return torch.tensor(picks, dtype=torch.int64, device=bounds.device)
