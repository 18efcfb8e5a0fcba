"""The certificate of run-off elections.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.certify.dpa import PartitionCertificate, alone, at, gaps
from defenses.train.committee import finalists
from poisonbench.core.electorate import Electorate, Rule, Tally

FAR = torch.iinfo(torch.int64).max // 4


@dataclass(frozen=True, kw_only=True)
class RunOffCertificate(PartitionCertificate):
    """Certify how many rows may change before the winner of a run-off changes.

    Source: Rezaei, Banihashem, Chegini and Feizi, "Run-Off Election: Improved Provable Defense against Data Poisoning Attacks", ICML 2023, Theorems 1
    and 2, in closed form.

    The winner p can lose in two ways:

    - Two classes overtake it in the first round. A member that changes from p to one of them closes that gap by 2 and the other by 1. So with gaps a
      and b the cost is the largest of a/2, b/2 and (a + b)/3, each rounded up.
    - One class reaches the second round instead of the other finalist q, and beats p there. The cost is the larger of the two costs, since one member
      can contribute to both.

    The radius is the smallest cost minus one. Members that give two classes the same score count for neither in the second round.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one part, "edit" two.
    """

    VERSION: ClassVar[int] = 1
    RULE: ClassVar[Rule] = "run_off"

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        alone(ensemble)
        return radius(ensemble.tally(inputs))


def radius(tally: Tally) -> tuple[Tensor, Tensor]:
    """Return (M,) radii in parts and (M,) winners."""
    votes, wins = tally.votes_MK, tally.wins_MKK
    winners, seconds = finalists(votes, wins)
    rows, kinds = torch.arange(len(votes)), votes.shape[1]
    rival = ~at(winners, kinds)
    # votes that each rival lacks to overtake the winner, and the other finalist, in the first round
    first = lacking(gaps(votes, winners)).masked_fill(~rival, FAR)
    place = lacking(gaps(votes, seconds)).masked_fill(at(seconds, kinds), 0)
    duel = wins[rows, winners] - wins[rows, :, winners] + (torch.arange(kinds) > winners[:, None]).long()  # a tie goes to the smaller class
    ousted = _halved(torch.maximum(place, duel.clamp_min(0))).masked_fill(~rival, FAR).min(1).values
    if kinds < 3:
        return ousted - 1, winners
    one, other = first.sort(1).values[:, :2].unbind(1)
    overtaken = torch.maximum(_halved(other), -((one + other).neg() // 3))
    return torch.minimum(overtaken, ousted) - 1, winners


def lacking(gaps_MK: Tensor) -> Tensor:
    """Return how many votes each class lacks to come first, from the gaps by which it trails."""
    return (gaps_MK + 1).clamp_min(0)


def _halved(values: Tensor) -> Tensor:
    return -(values.neg() // 2)
