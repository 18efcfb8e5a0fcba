"""The certificate of hash bagging.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.certify.dpa import PartitionCertificate, gaps
from poisonbench.core.electorate import Electorate, Tally
from poisonbench.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HashBaggingCertificate(PartitionCertificate):
    """Certify how many rows may change before an answer changes, if each row touches one member of every group.

    Source: Chen, Li, Li, Yan and Wu, "On Collective Robustness of Bagging Against Data Poisoning", ICML 2022.

    r rows touch at most r members of each group. The certificate assumes those whose change costs the answer most.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one member of each group, "edit" two.
    """

    VERSION: ClassVar[int] = 1

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in members of a group and (M,) answers."""
        if "groups" not in ensemble.facts:
            raise ConfigError("defense.certify: this is the certificate of defense=hash_bagging, whose members come in groups")
        return radius(ensemble.tally(inputs), int(str(ensemble.facts["groups"])))


def radius(tally: Tally, groups: int) -> tuple[Tensor, Tensor]:
    """Return (M,) radii and (M,) answers; members are ordered by group."""
    votes = tally.votes_MK
    answers = votes.argmax(1)
    gap = gaps(votes, answers)
    radii = torch.full((len(votes),), tally.answers_MR.shape[1] // groups, dtype=torch.int64)
    voted = tally.answers_MR.unflatten(1, (groups, -1)).long()
    for rival in range(votes.shape[1]):
        weights = 1 + (voted == answers[:, None, None]).long() - (voted == rival).long()
        taken = weights.sort(2, descending=True).values.cumsum(2).sum(1)
        held = (taken <= gap[:, rival, None]).sum(1)
        radii = torch.where(answers == rival, radii, torch.minimum(radii, held))
    return radii, answers
