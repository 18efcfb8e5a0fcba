"""Canaries: rows that measure how much a model reveals about single training rows, as a lower bound on its epsilon.

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
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import NoGoal
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.reals import NUMBERS

MOST = 50.0  # the largest epsilon that is tested


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Add about half of Q canary rows to the training set and guess from the trained model's losses which were added.

    Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023.

    Each canary is a training row with inverted pixels and a random wrong label. It joins the training set with probability 1/2. After training, the
    canaries with the lowest losses are guessed to be in and those with the highest losses to be out; for the others no guess is made. Many right
    guesses rule out a small epsilon (adjacency: add or remove one row). Q is the number of rows that the budget allows, so the budget is never
    exceeded.

    The adversary sees only the scores of the final model, so the bound may be far below the epsilon spent. A bound above it would prove an error in
    the accounting.

    Args:
        guessed: share of the canaries that are guessed, in (0, 1], half of them in and half out; fixed before the run.
        confidence: confidence level of the bound, in (0, 1).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    guessed: float
    confidence: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (0 < self.guessed <= 1 and 0 < self.confidence < 1):
            raise ConfigError(f"attack.data: guessed={self.guessed} and confidence={self.confidence} are shares, such as 0.5 and 0.95")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by the canaries that joined."""
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
    """Return 255 minus uint8 pictures, or the negative of other inputs."""
    return 255 - inputs if inputs.dtype == torch.uint8 else -inputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Reveal(NoGoal):
    """Goal: the model reveals which canaries it was trained on.

    Args:
        inputs: (Q, ...) inputs of the canaries.
        labels: (Q,) int64 labels of the canaries.
        joined: (Q,) bool, the canaries that are training rows.
        guessed: share of the canaries that are guessed.
        confidence: confidence level of the bound on epsilon.
    """

    VERSION: ClassVar[int] = 1
    inputs: Tensor
    labels: Tensor
    joined: Tensor
    guessed: float
    confidence: float

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return "epsilon_lower" and "canaries_right", the share of right guesses; the bound is at the delta that the victim's training spent, or 0."""
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
    """Return the largest epsilon that this number of right guesses rules out, at most 50; 0 if it rules out none."""
    low, high = 0.0, MOST
    if chance(right, guesses, canaries, low, delta) > 1 - confidence:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(right, guesses, canaries, middle, delta) <= 1 - confidence else (low, middle)
    return low


def chance(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of at least `right` right guesses about an (epsilon, delta)-private training.

    With delta = 0, right guesses are no more likely than heads of a coin that shows heads with probability e^epsilon / (1 + e^epsilon). A delta above
    0 adds 2 Q delta times the largest average, over 1, 2, ..., of the coin's probabilities of one, two, ... heads fewer.
    """
    coin = 1 / (1 + np.exp(-epsilon))
    at_least = float(stats.binom.sf(right - 1, guesses, coin))
    if delta == 0 or right == 0:
        return at_least
    fewer = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, coin))
    return min(1.0, at_least + 2 * canaries * delta * float((fewer / np.arange(1, right + 1)).max()))
