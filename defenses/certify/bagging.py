"""The certificate of bagging.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.proof import ROWS, Tolerance

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BaggingCertificate(NoCertificate):
    """Certify how many rows may be inserted, deleted or edited before the likeliest answer changes, with confidence 1 - alpha for all test rows together.

    Source: Jia, Cao and Gong, "Intrinsic Certified Robustness of Bagging against Data Poisoning Attacks", AAAI 2021, Theorem 1 and Corollary 1.

    There are N rows, of which a member draws s. Let the answer have probability at least p and its rival at most q. Then r changed rows cannot change
    the answer if for every number N' of rows after the attack, N - r <= N' <= N + r, (N'/N)^s - 2 ((max(N, N') - r) / N)^s + 1 - p + q < 0. p and q
    are Clopper-Pearson bounds from the members' votes. The confidence is over the draws, which come from the run's seed: against an attacker who
    knows the seed, use `salt=system`.

    Differences: the bounds are at level alpha / (2 M K), in the paper at alpha / (M K). The votes also select the answer, so both bounds must hold
    for each class. The paper's slack for rounding probabilities to multiples of N^-s is below 10^-50 and is omitted, since the inequality is strict.

    Args:
        alpha: probability that any certificate is wrong, in (0, 1).
    """

    VERSION: ClassVar[int] = 2
    TOLERATES: ClassVar[Tolerance] = ROWS
    alpha: float

    def __post_init__(self) -> None:
        """Check that alpha is in range."""
        if not 0 < self.alpha < 1:
            raise ConfigError(f"defense.certify.alpha={self.alpha}: give a chance in (0, 1), such as 0.001")

    @property
    def unit(self) -> str:
        """The unit of the radii."""
        return "inserted, deleted or edited rows"

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii, -1 where the answer is already wrong or cannot be distinguished from its rival."""
        votes = electorate(victim).tally(test.inputs).votes_MK
        if "drawn" not in victim.facts:
            raise ConfigError("defense.certify: this is the certificate of defense=bagging, whose members draw their rows")
        lead = margin(votes.numpy(), self.alpha)
        rows, drawn = (int(str(victim.facts[name])) for name in ("training_rows", "drawn"))
        radii = torch.tensor([radius(float(gap), rows, drawn) for gap in lead], dtype=torch.int64)
        return torch.where(votes.argmax(1) == test.labels, radii, -1)


def margin(votes_MK: npt.NDArray[np.int64], alpha: float) -> Floats:
    """Return (M,) p - q from counts of votes."""
    lower, upper = bounds(votes_MK, alpha)
    return lower - upper


def bounds(votes_MK: npt.NDArray[np.int64], alpha: float) -> tuple[Floats, Floats]:
    """Return (M,) p and (M,) q: Clopper-Pearson bounds that hold for all test rows and classes together with confidence 1 - alpha."""
    level, members = alpha / (2 * votes_MK.size), votes_MK.sum(1)
    ordered = np.sort(votes_MK, 1)
    first, second = ordered[:, -1], ordered[:, -2]
    lower = np.where(first > 0, stats.beta.ppf(level, np.maximum(first, 1), members - first + 1), 0.0)
    upper = np.where(second < members, stats.beta.ppf(1 - level, second + 1, np.maximum(members - second, 1)), 1.0)
    return lower, np.minimum(upper, 1 - lower)


def radius(margin: float, rows: int, drawn: int) -> int:
    """Return the largest r that is certified, at most N - 1, since one row must be left; -1 if not even r = 0 is."""
    low, high = -1, rows
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(margin, rows, drawn, middle) else (low, middle)
    return low


def holds(margin: float, rows: int, drawn: int, changed: int) -> bool:
    """Return whether `changed` rows cannot change the answer; the worst number of rows afterwards is at an end, at N, or where the slope is 0."""
    if changed == 0:
        return margin > 0
    turn = changed / (1 - 0.5 ** (1 / (drawn - 1))) if drawn > 1 else rows + changed
    after = {rows - changed, rows, rows + changed, *(min(max(whole, rows), rows + changed) for whole in (int(turn), int(turn) + 1))}
    return all((then / rows) ** drawn - 2 * ((max(rows, then) - changed) / rows) ** drawn + 1 - margin < 0 for then in after)
