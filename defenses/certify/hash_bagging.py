"""The certificate of hash bagging.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.certify.dpa import gaps
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import Change, Tally, electorate
from poisonbench.core.learner import Victim


@dataclass(frozen=True, kw_only=True)
class HashBaggingCertificate:
    """How many rows may change before an answer can, where each touches one member of every group.

    Source: Chen, Li, Li, Yan and Wu, ICML 2022. r rows touch at most r members of each group: those that would cost the answer most.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one member a group, "edit" two.
    """

    VERSION: ClassVar[int] = 1
    change: Change

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii, -1 where the answer is already wrong."""
        ensemble = electorate(victim)
        radii, answers = radius(ensemble.tally(test.inputs), int(str(victim.facts.get("groups", 1))))
        return torch.where(answers == test.labels, radii.div(ensemble.touched(self.change), rounding_mode="floor"), -1)


def radius(tally: Tally, groups: int) -> tuple[Tensor, Tensor]:
    """Return (M,) radii and (M,) answers; members lie group after group."""
    votes = tally.votes_MK
    answers = votes.argmax(1)
    gap = gaps(votes, answers)
    radii = torch.full((len(votes),), tally.answers_MR.shape[1] // groups, dtype=torch.int64)
    said = tally.answers_MR.unflatten(1, (groups, -1)).long()
    for rival in range(votes.shape[1]):
        weights = 1 + (said == answers[:, None, None]).long() - (said == rival).long()
        taken = weights.sort(2, descending=True).values.cumsum(2).sum(1)
        held = (taken <= gap[:, rival, None]).sum(1)
        radii = torch.where(answers == rival, radii, torch.minimum(radii, held))
    return radii, answers
