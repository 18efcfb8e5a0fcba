"""The certificate of finite aggregation.

Shape letters: M test rows, R members, K classes, H partitions, d members a partition reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.certify.dpa import PartitionCertificate, gaps
from poisonbench.core.electorate import Electorate, Tally

ROWS = 200  # test rows at a time: (rows, R, d) numbers are held


@dataclass(frozen=True, kw_only=True)
class FiniteAggregationCertificate(PartitionCertificate):
    """How many rows may change before an answer can: the partitions that would cost the answer most are taken first.

    Source: Wang, Levine and Feizi, ICML 2022, Theorem 2. A changed row of partition h can at worst turn every member that h
    reaches from the answer c to a rival c', which closes their gap by the sum over those members of 1 + [f = c] - [f = c'].
    The radius is the largest number of partitions whose greatest sums together still leave the gap open, over all rivals.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one partition, "edit" two.
    """

    VERSION: ClassVar[int] = 1

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        return radius(ensemble.tally(inputs), ensemble.reach())


def radius(tally: Tally, reach_Hd: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M,) radii in partitions and (M,) answers."""
    votes = tally.votes_MK
    answers = votes.argmax(1)
    gap = gaps(votes, answers)
    radii = torch.full((len(votes),), len(reach_Hd), dtype=torch.int64)
    for rows in torch.arange(len(votes)).split(ROWS):
        said, own = tally.answers_MR[rows].long(), answers[rows]
        for rival in range(votes.shape[1]):
            weights = (1 + (said == own[:, None]).long() - (said == rival).long())[:, reach_Hd].sum(2)
            held = affordable(weights, gap[rows, rival])
            radii[rows] = torch.where(own == rival, radii[rows], torch.minimum(radii[rows], held))
    return radii, answers


def affordable(weights_MH: Tensor, gap_M: Tensor) -> Tensor:
    """Return (M,) int64, how many of the greatest weights together do not exceed the gap."""
    taken = weights_MH.sort(1, descending=True).values.cumsum(1)
    return (taken <= gap_M[:, None]).sum(1)
