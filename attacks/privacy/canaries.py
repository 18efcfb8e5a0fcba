"""Canaries: rows that show how much a training tells about single rows, as a lower bound on its epsilon.

Shape letters: N rows, Q canaries, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import NoGoal
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known

MOST = 50.0  # the largest epsilon that is asked about


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Put about half of Q canaries into the training set, and let the trained model's losses guess which.

    Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023. Each canary is a training row with its pixels
    inverted and a wrong label drawn at random, and joins with probability 1/2. Afterwards the canaries whose losses
    are the lowest are guessed to be in, those whose losses are the highest to be out, and about the others nothing is said. Too many right guesses
    contradict a small epsilon, add or remove one row. Q is what the budget allows, which then is never exceeded. The adversary sees the
    final model's scores alone, so the bound may lie far below what was spent; a bound above it would prove an error in the accounting.

    Args:
        guessed: share of the canaries that are guessed, half of them in and half out; chosen beforehand.
        confidence: of the bound.
    """

    VERSION: ClassVar[int] = 1
    guessed: float
    confidence: float

    def __post_init__(self) -> None:
        """Refuse shares that mean nothing."""
        if not (0 < self.guessed <= 1 and 0 < self.confidence < 1):
            raise ConfigError(f"attack.data: guessed={self.guessed} and confidence={self.confidence} are shares, such as 0.5 and 0.95")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the canaries that joined behind them."""
        rows = known.rows
        chosen = known.choose(torch.ones(len(rows), dtype=torch.bool), rng.child("rows"))
        canaries = rows.take(chosen)
        draws_Q2 = rng.child("canaries").per_row(canaries.ids, draws=2)
        wrong = (canaries.labels + 1 + (draws_Q2[:, 0] * (rows.num_classes - 1)).long()) % rows.num_classes
        canaries = canaries.edit(torch.arange(len(chosen)), inputs=inverted(canaries.inputs), labels=wrong)
        joined = draws_Q2[:, 1] < 0.5
        new = canaries.take(joined).with_columns({**canaries.take(joined).columns, "ids": -1 - torch.arange(int(joined.sum()))})
        goal = Reveal(inputs=canaries.inputs, labels=wrong, joined=joined, guessed=self.guessed, confidence=self.confidence)
        return Poisoned(data=rows.append(new), mask=torch.cat([known.mask(chosen[:0]), torch.ones(len(new), dtype=torch.bool)]), goal=goal)


def inverted(inputs: Tensor) -> Tensor:
    """Return the negatives of uint8 pictures, the opposites of other inputs."""
    return 255 - inputs if inputs.dtype == torch.uint8 else -inputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Reveal(NoGoal):
    """The model is to tell which canaries it was trained on.

    Args:
        inputs: (Q, ...) of the canaries.
        labels: (Q,) int64, theirs.
        joined: (Q,) bool, those that are training rows.
        guessed: share of the canaries that are guessed.
        confidence: of the bound on epsilon.
    """

    VERSION: ClassVar[int] = 1
    inputs: Tensor
    labels: Tensor
    joined: Tensor
    guessed: float
    confidence: float

    def measure(self, victim: Victim) -> Mapping[str, float]:
        """Return "epsilon_lower", at the delta that the victim's training spent or 0, and "canaries_right", the share of right guesses."""
        each = int(self.guessed * len(self.labels)) // 2
        if not each:
            return {}
        losses_Q = torch.nn.functional.cross_entropy(victim.scores(self.inputs), self.labels, reduction="none")
        order = losses_Q.argsort(stable=True)
        right = int(self.joined[order[:each]].sum()) + int((~self.joined[order[-each:]]).sum())
        delta = victim.facts.get("delta", 0.0)
        least = least_epsilon(right, 2 * each, len(self.labels), delta=float(str(delta)), confidence=self.confidence)
        return {"epsilon_lower": least, "canaries_right": right / (2 * each)}


def least_epsilon(right: int, guesses: int, canaries: int, *, delta: float, confidence: float) -> float:
    """Return the largest epsilon that so many right guesses contradict, 0 if none; at most 50."""
    low, high = 0.0, MOST
    if chance(right, guesses, canaries, low, delta) > 1 - confidence:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(right, guesses, canaries, middle, delta) <= 1 - confidence else (low, middle)
    return low


def chance(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return a bound of the chance that an (epsilon, delta)-private training lets anybody guess so many right.

    With delta 0 right guesses are no more likely than heads of a coin that shows them with e^epsilon / (1 + e^epsilon). A delta adds
    2 Q delta times the largest average, over 1, 2, ..., of the coin's chances of one, two, ... heads fewer.
    """
    coin = 1 / (1 + np.exp(-epsilon))
    at_least = float(stats.binom.sf(right - 1, guesses, coin))
    if delta == 0 or right == 0:
        return at_least
    fewer = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, coin))
    return min(1.0, at_least + 2 * canaries * delta * float((fewer / np.arange(1, right + 1)).max()))
