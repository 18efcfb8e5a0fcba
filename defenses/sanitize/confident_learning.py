"""Confident learning: count which labels are probably wrong, and remove as many rows.

Shape letters: N rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import track
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class ConfidentLearning:
    """Drop the rows whose labels disagree with confident predictions of models that did not train on them.

    Source: Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.

    1. Probabilities of each row come from a model that trained on the other folds.
    2. The threshold of a class is the mean probability of the class over the rows with its label. A row counts in the confident joint at (label,
       guess), where the guess is the class with the largest probability among those that reach their thresholds. A row without one is not counted.
    3. The joint is scaled so that each label has as many rows as the data. Outside the diagonal it is the number of wrong labels.
    4. "by_class" removes from each class the estimated number of wrong rows, those with the smallest probabilities of their label.
       "by_noise_rate" removes for each pair (label, guess) as many rows with that label as the joint says, those with the largest
       difference between the probabilities of guess and label. "both" removes the rows that both remove. "confident_joint" removes the rows that
       were counted outside the diagonal.

    Folds are drawn by row id within each class, so that each has its share of every label. The row with the largest probability of its label always
    stays, so no class is lost. Probabilities are the softmax of a victim's scores, so models whose scores are no logits are badly calibrated.

    Args:
        folds: number of models, 2 or more (paper: 4 on CIFAR-10).
        prune: "both", "by_class", "by_noise_rate" or "confident_joint".
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    folds: int
    prune: Literal["both", "by_class", "by_noise_rate", "confident_joint"]

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.folds < 2:
            raise ConfigError(f"defense.sanitize.folds={self.folds}: give 2 or more")
        if self.prune not in ("both", "by_class", "by_noise_rate", "confident_joint"):
            raise ConfigError(f"defense.sanitize.prune={self.prune}: choose both, by_class, by_noise_rate or confident_joint")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Predict every row by a model that did not see it, and drop the rows with labels that are probably wrong.

        Raises:
            ConfigError: fewer rows than folds.
        """
        if len(data) < self.folds:
            raise ConfigError(f"defense.sanitize.folds={self.folds}: {len(data)} rows; give no more folds than rows")
        chances_NK = self._predicted(data, means, rng)
        wrong_N = self.wrong(chances_NK, data.labels) & ~surest(chances_NK, data.labels)
        return Verdict(keep=~wrong_N, suspicion=(1 - own(chances_NK, data.labels)).float())

    def _predicted(self, data: Dataset, means: Means, rng: Key) -> Tensor:
        """Return (N, K) float64 probabilities, each row by the model that trained on the other folds."""
        fold_N = dealt(data, rng.child("folds")) % self.folds
        chances_NK = torch.zeros(len(data), data.num_classes, dtype=torch.float64)
        for fold in track(self.folds, "folds"):
            out = fold_N == fold
            chances_NK[out] = means.fit(data.take(~out)).scores(data.inputs[out]).double().softmax(1)
        return chances_NK

    def wrong(self, chances_NK: Tensor, labels_N: Tensor) -> Tensor:
        """Return (N,) bool, the rows to remove."""
        counted_N = guesses(chances_NK, labels_N)
        if self.prune == "confident_joint":
            return (counted_N >= 0) & (counted_N != labels_N)
        joint_KK = calibrated(counted_N, labels_N, chances_NK.shape[1])
        pruned = {"by_class": by_class, "by_noise_rate": by_noise_rate}
        chosen = pruned.values() if self.prune == "both" else [pruned[self.prune]]
        return torch.stack([prune(joint_KK, chances_NK, labels_N) for prune in chosen]).all(0)


def dealt(data: Dataset, rng: Key) -> Tensor:
    """Return (N,) int64, the number of each row in a random order that goes through the classes one after the other."""
    coins_N = rng.per_row(data.ids)[:, 0]
    order = coins_N.argsort(stable=True)
    order = order[data.labels[order].argsort(stable=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))


def own(chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,), the probability of each row's label."""
    return chances_NK.gather(1, labels_N[:, None])[:, 0]


def guesses(chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) int64, the most probable class among those that reach their thresholds, the label if it ties; -1 where none does."""
    sums_K = torch.zeros(chances_NK.shape[1], dtype=chances_NK.dtype).index_add_(0, labels_N, own(chances_NK, labels_N))
    sizes_K = labels_N.bincount(minlength=len(sums_K))
    thresholds_K = torch.where(sizes_K > 0, sums_K / sizes_K.clamp_min(1), torch.inf)  # nothing is guessed to be of a class without rows
    reached_NK = chances_NK >= thresholds_K - 1e-12  # a class of equal rows reaches its own mean
    held_NK = chances_NK.masked_fill(~reached_NK, -1.0)
    best = held_NK.max(1)
    guess_N = torch.where(own(held_NK, labels_N) == best.values, labels_N, best.indices)
    return torch.where(best.values >= 0, guess_N, -1)


def calibrated(counted_N: Tensor, labels_N: Tensor, kinds: int) -> Tensor:
    """Return (K, K) float64, the estimated number of rows by label and true class; each label has as many as the data.

    A label without a counted row has all of them on the diagonal.
    """
    counted = counted_N >= 0
    joint_KK = (labels_N * kinds + counted_N)[counted].bincount(minlength=kinds * kinds).view(kinds, kinds).double()
    empty_K = joint_KK.sum(1) == 0
    joint_KK[empty_K, empty_K.nonzero()[:, 0]] = 1.0
    return joint_KK / joint_KK.sum(1, keepdim=True) * labels_N.bincount(minlength=kinds)[:, None]


def by_class(joint_KK: Tensor, chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) bool: in each class as many rows as are wrong, those with the smallest probabilities of their label."""
    wrong_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in range(len(joint_KK)):
        rows = (labels_N == label).nonzero()[:, 0]
        count = round(float(joint_KK[label].sum() - joint_KK[label, label]))
        wrong_N[rows[chances_NK[rows, label].argsort(stable=True)[:count]]] = True
    return wrong_N


def by_noise_rate(joint_KK: Tensor, chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) bool: for each label and guess as many rows as the joint says, those with the largest difference of both probabilities."""
    wrong_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label, guess in (~torch.eye(len(joint_KK), dtype=torch.bool)).nonzero().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        margins = chances_NK[rows, guess] - chances_NK[rows, label]
        wrong_N[rows[margins.argsort(descending=True, stable=True)[: round(float(joint_KK[label, guess]))]]] = True
    return wrong_N


def surest(chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) bool, one row of each class that has rows: that with the largest probability of its label."""
    mask_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        mask_N[rows[chances_NK[rows, label].argmax()]] = True
    return mask_N
