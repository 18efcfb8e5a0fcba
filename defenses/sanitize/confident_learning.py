"""Confident learning: count which labels are probably wrong, and remove as many rows.

Shape letters: N rows, K classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threads import one_thread

ITERATIONS = 1000  # of the logistic regression, at most
NEAR = 1e-6  # by which another class must be more probable than the label; cleanlab's value


@dataclass(frozen=True, kw_only=True)
class ConfidentLearning:
    """Drop the rows whose labels disagree with confident predictions of models that did not train on them.

    Source: Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.

    1. Probabilities of each row come from a model that trained on the other folds.
    2. The threshold of a class is the mean probability of the class over the rows with its label. A row counts in the confident joint at (label,
       guess), where the guess is the class with the largest probability among those that reach their thresholds. A row without one is not counted.
    3. The joint is scaled so that each label has as many rows as the data, and rounded to whole numbers. Outside the diagonal it is the number of wrong
       labels.
    4. "by_class" removes from each class the estimated number of wrong rows, those with the smallest probabilities of their label.
       "by_noise_rate" removes for each pair (label, guess) as many rows with that label as the joint says, those with the largest
       difference between the probabilities of guess and label. "both" removes the rows that both remove. "confident_joint" removes the rows that
       were counted outside the diagonal.

    A row whose label is the most probable class, or as probable as it, stays. The paper removes it with "confident_joint", cleanlab does not. Given the
    same probabilities, the rows removed are those that cleanlab 2.9 names (`filter_by`, with min_examples_per_class=0; its default is 1), with two
    exceptions: which of several equally probable rows are removed, and which number of the joint is rounded up where remainders are equal. Then the row
    with the largest probability of its label is put back, so no class is lost.

    Folds are drawn by row id within each class, so that each has its share of every label. Probabilities are the softmax of a victim's scores, so models
    whose scores are no logits are badly calibrated.

    With predict="head" one victim trains on all rows, and only a logistic regression on its features is fitted for each fold. This costs one training
    instead of `folds`. The features have seen the label of every row, so the victim should train for few epochs, as the short victim of `audit` does.

    Args:
        folds: number of models, 2 or more (paper: 4 on CIFAR-10).
        prune: "both", "by_class", "by_noise_rate" or "confident_joint".
        predict: "victims", one for each fold, or "head", a linear head for each fold on the features of one victim.
        score: what the suspicion is: "margin", the largest probability of another class minus that of the label, or "self_confidence", 1 minus the
            probability of the label. It does not change which rows are removed. Measured on digits with victims of 4 epochs (seeds 100 to 102): among the
            N most suspicious rows, of N flips between two similar classes (a fifth of 3 or 4 to 8 or 9, and both ways), "margin" finds 82 %,
            "self_confidence" 71 %; of 5 % random flips 97 and 96 %. With predict="head" both find 58 and 90 %, and after a full training 30 and 85 %.
    """

    VERSION: ClassVar[int] = 3
    SEVERAL_CLASSES: ClassVar[bool] = True
    FINDS: ClassVar[Finds] = Finds(
        kind="label error",
        reads="short",
        because="labelled {label}, but models that did not train on it say {guess}",
        settings=MappingProxyType({"predict": "head", "score": "margin"}),
    )
    folds: int
    prune: Literal["both", "by_class", "by_noise_rate", "confident_joint"]
    predict: Literal["victims", "head"] = field(default="victims", metadata={"spec": "changed"})
    score: Literal["self_confidence", "margin"] = field(default="margin", metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.folds < 2:
            raise ConfigError(f"defense.sanitize.folds={self.folds}: give 2 or more")
        if self.prune not in ("both", "by_class", "by_noise_rate", "confident_joint"):
            raise ConfigError(f"defense.sanitize.prune={self.prune}: choose both, by_class, by_noise_rate or confident_joint")
        if self.predict not in ("victims", "head") or self.score not in ("self_confidence", "margin"):
            raise ConfigError(
                f"defense.sanitize.predict={self.predict}, defense.sanitize.score={self.score}: choose victims or head, and self_confidence or margin"
            )

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Predict every row by a model that did not see it, and drop the rows with labels that are probably wrong.

        Raises:
            ConfigError: fewer rows than folds.
        """
        if len(data) < self.folds:
            raise ConfigError(f"defense.sanitize.folds={self.folds}: {len(data)} rows; give no more folds than rows")
        fold_N = dealt(data, rng.child("folds")) % self.folds
        chances_NK = headed(data, means, fold_N) if self.predict == "head" else trained(data, means, fold_N)
        wrong_N = self.wrong(chances_NK, data.labels) & ~surest(chances_NK, data.labels)
        rival_N = rivals(chances_NK, data.labels)
        confidence_N = own(chances_NK, data.labels)
        doubt_N = 1 - confidence_N if self.score == "self_confidence" else chances_NK.gather(1, rival_N[:, None])[:, 0] - confidence_N
        return Verdict(keep=~wrong_N, suspicion=doubt_N.float(), evidence={"guess": rival_N})

    def wrong(self, chances_NK: Tensor, labels_N: Tensor) -> Tensor:
        """Return (N,) bool, the rows to remove."""
        counted_N = guesses(chances_NK, labels_N)
        doubted_N = own(chances_NK, labels_N) + NEAR < chances_NK.max(1).values
        if self.prune == "confident_joint":
            return (counted_N >= 0) & (counted_N != labels_N) & doubted_N
        joint_KK = rounded(calibrated(counted_N, labels_N, chances_NK.shape[1]))
        pruned = {"by_class": by_class, "by_noise_rate": by_noise_rate}
        chosen = pruned.values() if self.prune == "both" else [pruned[self.prune]]
        return torch.stack([prune(joint_KK, chances_NK, labels_N) for prune in chosen]).all(0) & doubted_N


def trained(data: Dataset, means: Means, fold_N: Tensor) -> Tensor:
    """Return (N, K) float64 probabilities, each row by the victim that trained on the other folds."""
    chances_NK = torch.zeros(len(data), data.num_classes, dtype=torch.float64)
    for fold in track(int(fold_N.max()) + 1, "folds"):
        out = fold_N == fold
        chances_NK[out] = means.fit(data.take(~out)).scores(data.inputs[out]).double().softmax(1)
    return chances_NK


def headed(data: Dataset, means: Means, fold_N: Tensor) -> Tensor:
    """Return (N, K) float64 probabilities, each row by a logistic regression of the other folds on the features of one victim; 0 for a class they lack."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features_ND = means.fit(data).features(data.inputs).double().numpy()
    labels_N, chances_NK = data.labels.numpy(), torch.zeros(len(data), data.num_classes, dtype=torch.float64)
    for fold in track(int(fold_N.max()) + 1, "folds"):
        out = (fold_N == fold).numpy()
        if len(known := data.labels[fold_N != fold].unique()) == 1:  # a regression needs two classes
            chances_NK[out, known] = 1.0
            continue
        with one_thread():
            head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS)).fit(features_ND[~out], labels_N[~out])
        chances_NK[out.nonzero()[0][:, None], known] = torch.from_numpy(head.predict_proba(features_ND[out]))
    return chances_NK


def rivals(chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) int64, the most probable class other than the label."""
    return chances_NK.scatter(1, labels_N[:, None], -1.0).argmax(1)


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


def rounded(joint_KK: Tensor) -> Tensor:
    """Return (K, K) int64: each row rounded to whole numbers with the same sum, those with the largest remainders up, as cleanlab does."""
    whole_KK = joint_KK.round()
    for exact_K, whole_K in zip(joint_KK, whole_KK, strict=True):
        lacking = round(float(exact_K.sum() - whole_K.sum()))
        remainder_K = exact_K - whole_K
        whole_K[remainder_K.argsort(descending=lacking > 0, stable=True)[: abs(lacking)]] += 1 if lacking > 0 else -1
    return whole_KK.long()


def by_class(joint_KK: Tensor, chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) bool: in each class as many rows as are wrong, those with the smallest probabilities of their label."""
    wrong_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in range(len(joint_KK)):
        rows = (labels_N == label).nonzero()[:, 0]
        count = int(joint_KK[label].sum() - joint_KK[label, label])
        wrong_N[rows[chances_NK[rows, label].argsort(stable=True)[:count]]] = True
    return wrong_N


def by_noise_rate(joint_KK: Tensor, chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) bool: for each label and guess as many rows as the joint says, those with the largest difference of both probabilities."""
    wrong_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label, guess in (~torch.eye(len(joint_KK), dtype=torch.bool)).nonzero().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        margins = chances_NK[rows, guess] - chances_NK[rows, label]
        wrong_N[rows[margins.argsort(descending=True, stable=True)[: int(joint_KK[label, guess])]]] = True
    return wrong_N


def surest(chances_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) bool, one row of each class that has rows: that with the largest probability of its label."""
    mask_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        mask_N[rows[chances_NK[rows, label].argmax()]] = True
    return mask_N
