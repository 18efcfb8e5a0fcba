"""The certificate of finite aggregation.

Shape letters: M test rows, R members, K classes, H partitions, d members that a partition reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.certify.dpa import PartitionCertificate, gaps
from poisonbench.core.electorate import Electorate, Tally

ROWS = 200  # test rows per chunk, which needs (rows, R, d) numbers


@dataclass(frozen=True, kw_only=True)
class FiniteAggregationCertificate(PartitionCertificate):
    """Certify how many rows may change before an answer changes, if each row reaches several members.

    Source: Wang, Levine and Feizi, "Improved Certified Defenses against Data Poisoning with (Deterministic) Finite Aggregation", ICML 2022, Theorem
    2.

    At worst, a changed row of partition h turns every member that h reaches from the answer c to a rival c'. This closes their gap by the sum over
    those members of 1 + [f = c] - [f = c']. The radius is the largest number of partitions whose largest sums together do not close the gap, for
    every rival.

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
        voted, own = tally.answers_MR[rows].long(), answers[rows]
        for rival in range(votes.shape[1]):
            weights = (1 + (voted == own[:, None]).long() - (voted == rival).long())[:, reach_Hd].sum(2)
            held = affordable(weights, gap[rows, rival])
            radii[rows] = torch.where(own == rival, radii[rows], torch.minimum(radii[rows], held))
    return radii, answers


def affordable(weights_MH: Tensor, gap_M: Tensor) -> Tensor:
    """Return (M,) int64, the largest number of largest weights whose sum does not exceed the gap."""
    taken = weights_MH.sort(1, descending=True).values.cumsum(1)
    return (taken <= gap_M[:, None]).sum(1)
