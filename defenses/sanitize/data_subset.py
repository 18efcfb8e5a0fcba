"""Data-efficient training as a defense: the victim is trained on a small share of the rows.

Shape letters: N rows, R rows of one class, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key

TINY = 1e-300  # where all rows of a class are equal, so that nothing is divided by zero


@dataclass(frozen=True, kw_only=True)
class DataSubset:
    """Keep the same share of the rows of every class: random ones, those that cover the class, or those that are easy or hard to learn.

    Source: k-centre: Sener, Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018. EL2N: Paul, Ganguli,
    Dziugaite, "Deep Learning on a Data Diet: Finding Important Examples Early in Training", NeurIPS 2021.

    This filter looks for no poison. Methods of data-efficient training promise the same C-Acc from less data, and less data may give an attacker less
    leverage. A random subset keeps the poison rate, so "random" shows what the smaller number of rows does by itself. The two other rules may keep
    more poison than it: rare rows become centres, and poison is hard to learn early. On digits with bullseye_polytope (seed 100, ten targets, 5 % of
    the rows, Linf 64) a quarter of the rows holds 21 % of the poison if drawn at random, 33 % as k-centres and 49 % as hard rows by EL2N, with ASR 0,
    30 and 60 %; without the filter it is 30 %. The easy half of the rows holds 11 % of it (ASR 0).

    - "random": rows drawn at random.
    - "k_centre": the first centre is drawn at random; each next one is the row that is farthest from all centres so far, in the features of the
      undefended victim. Ties go to the smaller row id.
    - "el2n": the mean over several networks, early in their training, of the Euclidean length of softmax(scores) - one-hot(label).

    Differences: Sener and Savarese choose from all unlabelled rows, and improve the greedy centres by an integer program; here the greedy rule is
    applied within each class, so that every class keeps its share. Paul et al. also choose without regard to the class; their early networks are
    stopped early in the full schedule (20 of 200 epochs), here their schedule ends after `epochs`. The victim is trained for as many epochs as
    without the filter, thus for fewer steps.

    Args:
        share: rows kept of each class / rows of that class, in (0, 1]; rounded, and at least one row.
        how: "random", "k_centre" or "el2n".
        keep: for "el2n", the rows with the largest scores ("hard", paper) or the smallest ("easy").
        networks: for "el2n", networks whose scores are averaged, 1 or more (paper: 10).
        epochs: for "el2n", epochs that they are trained for, 1 or more (paper: 20 of 200).
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    share: float
    how: Literal["random", "k_centre", "el2n"]
    keep: Literal["hard", "easy"]
    networks: int
    epochs: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 < self.share <= 1:
            raise ConfigError(f"defense.sanitize.share={self.share}: give a share of the rows in (0, 1], such as 0.25")
        if self.how not in ("random", "k_centre", "el2n") or self.keep not in ("hard", "easy"):
            raise ConfigError(f"defense.sanitize: how={self.how} is random, k_centre or el2n, keep={self.keep} is hard or easy")
        if min(self.networks, self.epochs) < 1:
            raise ConfigError(f"defense.sanitize: networks={self.networks} and epochs={self.epochs} are 1 or more")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Keep the least suspicious rows of each class; suspicion says how late the rule would choose a row."""
        rules: dict[str, Callable[[Dataset, Means, Key], Tensor]] = {"random": self._random, "k_centre": self._k_centre, "el2n": self._el2n}
        suspicion = rules[self.how](data, means, rng.child("data_subset"))
        keep = torch.zeros(len(data), dtype=torch.bool)
        for rows in classes(data):
            keep[rows[suspicion[rows].argsort(stable=True)[: self.kept(len(rows))]]] = True
        return Verdict(keep=keep, suspicion=suspicion.float())

    def kept(self, rows: int) -> int:
        """Return how many of the rows of a class are kept."""
        return max(1, round(self.share * rows))

    def _random(self, data: Dataset, means: Means, rng: Key) -> Tensor:
        return rng.per_row(data.ids)[:, 0]

    def _k_centre(self, data: Dataset, means: Means, rng: Key) -> Tensor:
        """Return (N,) from 0 for the second centre of a class up to 1: one minus `reach` over the largest of the class; -1 for the first centre."""
        features, draws = means.fit(data).features(data.inputs).double(), rng.per_row(data.ids)[:, 0]
        suspicion = torch.full((len(data),), -1.0, dtype=torch.float64)
        for rows in classes(data):
            first = int(draws[rows].argmin())
            reach = k_centre(features[rows], first=first, count=self.kept(len(rows)))
            others = rows[torch.arange(len(rows)) != first]
            far = reach[torch.arange(len(rows)) != first]
            suspicion[others] = 1 - far / far.max().clamp_min(TINY) if len(far) else far
        return suspicion

    def _el2n(self, data: Dataset, means: Means, rng: Key) -> Tensor:
        """Return (N,), the EL2N scores, or their negatives if hard rows are kept."""
        early = [means.tune(None, data, epochs=self.epochs, draw=draw) for draw in range(self.networks)]
        scores = torch.stack([el2n(victim.scores(data.inputs), data.labels) for victim in early]).mean(0)
        return -scores if self.keep == "hard" else scores


def classes(data: Dataset) -> Iterator[Tensor]:
    """Yield the positions of the rows of each class that has any, by ascending ids, so that the order of the rows breaks no tie."""
    order = data.ids.argsort(stable=True)
    for label in data.labels.unique().tolist():
        yield order[data.labels[order] == label]


def k_centre(features_RD: Tensor, *, first: int, count: int) -> Tensor:
    """Choose `count` centres: after the first one, always the row that is farthest from all centres so far; ties go to the first such row.

    Returns:
        (R,), of a centre its distance to the centres before it (infinite for the first), of other rows that to all centres. So the centres
        are the first `count` rows in descending order.
    """
    reach, found = torch.full((len(features_RD),), torch.inf, dtype=features_RD.dtype), torch.zeros(len(features_RD), dtype=features_RD.dtype)
    left, pick = torch.ones(len(features_RD), dtype=torch.bool), first
    for _ in range(count):
        found[pick], left[pick] = reach[pick], False
        reach = torch.minimum(reach, (features_RD - features_RD[pick]).square().sum(1).sqrt())
        pick = int(torch.where(left, reach, -1.0).argmax())
    return torch.where(left, reach, found)


def el2n(scores_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) float64, the Euclidean length of softmax(scores) - one-hot(label)."""
    error = scores_NK.double().softmax(1) - torch.nn.functional.one_hot(labels_N, scores_NK.shape[1])
    return error.square().sum(1).sqrt()
