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
    """How many rows may change before the winner of a run-off can.

    Source: Rezaei, Banihashem, Chegini and Feizi, ICML 2023, Theorems 1 and 2, in closed form. The winner p falls in one of two
    ways. Either two classes overtake it in the first round: a member that turns from p to one of them closes that gap by 2 and
    the other by 1, so with gaps a and b the cost is the largest of a/2, b/2 and (a + b)/3, each rounded up. Or one class reaches
    the second round, in place of the other finalist q, and beats p there: the larger of both costs, since one member can do
    both. The radius is one less than the cheapest way. Members that score two classes alike count for neither in the second round.

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
    # what each rival lacks to come before the winner, and before the other finalist, in the first round
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
    """Return what each class lacks to come first, from by how much it may fall short and still not."""
    return (gaps_MK + 1).clamp_min(0)


def _halved(values: Tensor) -> Tensor:
    return -(values.neg() // 2)
