"""The certificate of partition ensembles.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.learner import Victim


@dataclass(frozen=True, kw_only=True)
class DpaCertificate:
    """How many rows may be inserted into or deleted from the training set before an answer can change.

    Source: Levine and Feizi, ICLR 2021, Theorem 1: with votes n_c and answer g, ties to the smaller class,
    rho = floor((n_g - max over c != g of (n_c + [c < g])) / 2). The certificate is around the training set that the ensemble
    was given, poisoned or not: it says nothing about poison that is already in there. A relabelled row counts once, since
    parts hang on inputs alone; an edited row counts twice.
    """

    VERSION: ClassVar[int] = 1

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii, -1 where the answer is already wrong."""
        radii, answers = radius(victim.scores(test.inputs).round().long())
        return torch.where(answers == test.labels, radii, -1)


def radius(votes_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M,) radii and (M,) answers from (M, K) int64 votes."""
    kinds = torch.arange(votes_MK.shape[1])
    answers = votes_MK.argmax(1)
    rivals = votes_MK + (kinds[None] < answers[:, None])  # ties break to the smaller class, so a larger one needs one vote more
    rivals = rivals.masked_fill(kinds[None] == answers[:, None], -1)
    gap = votes_MK.gather(1, answers[:, None])[:, 0] - rivals.max(1).values
    return gap.div(2, rounding_mode="floor"), answers
