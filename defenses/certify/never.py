"""The certificate of a named answer: how many training rows have to change before an ensemble can give it.

Shape letters: M test rows, K classes, k parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.certify.dpa import DpaCertificate, alone
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim


@dataclass(frozen=True, kw_only=True)
class NeverCertificate(DpaCertificate):
    """Certify, beside the radius of each row, how many changes it takes before an ensemble can give a named wrong answer.

    Source: Ghitu and Wicker, "Towards Poisoning Robustness Certification for Natural Language Generation", 2026 (arXiv 2602.09757), "targeted partition
    aggregation", of which only the abstract was read. The closed form was derived here and is compared with a breadth-first search over votes.

    Let n_c be the votes, ties go to the smaller class. Whoever owns B parts turns B votes into votes for the named class h, and takes them where they
    are most in the way. Then h has n_h + B votes, and each class c has to lose max(0, n_c + [c < h] - n_h - B) at least. So h can be the answer
    exactly if the sum of these over all c != h is at most B. The sum falls with B, so the smallest such B is found by bisection. The radius against h
    is floor((B - 1) / parts that one change touches), and -1 where h is the answer already.

    This holds for each test row and each class by itself. It is at least the radius of the answer, since another answer may be reached first. Rows of
    the named class itself do not count: there it is the right answer.

    Args:
        change: as for `DpaCertificate`.
        classes: the named classes; null: all, one after the other.
    """

    VERSION: ClassVar[int] = 1
    classes: tuple[int, ...] | None

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.classes is not None and (not self.classes or min(self.classes) < 0):
            raise ConfigError(f"defense.certify.classes={self.classes}: give one or more classes, from 0, or null for all")

    def never(self, victim: Victim, test: Dataset) -> Mapping[int, Tensor]:
        """Return by named class the int64 radii against it, those of the test rows of other classes.

        Raises:
            ConfigError: a class that does not exist.
        """
        ensemble = electorate(victim)
        alone(ensemble)
        named = range(test.num_classes) if self.classes is None else self.classes
        if max(named) >= test.num_classes:
            raise ConfigError(f"defense.certify.classes={self.classes}: there are {test.num_classes} classes, from 0 to {test.num_classes - 1}")
        parts_MK = least(ensemble.tally(test.inputs).votes_MK) - 1
        radii_MK = parts_MK.div(ensemble.touched(self.change), rounding_mode="floor")
        return {kind: radii_MK[test.labels != kind, kind] for kind in named}


def least(votes_MK: Tensor) -> Tensor:
    """Return (M, K) int64, the smallest number of votes that somebody has to own so that each class can be the answer; 0 where it is."""
    kinds = torch.arange(votes_MK.shape[1])
    wanted_MKK = votes_MK[:, None] + (kinds < kinds[:, None]) - votes_MK[:, :, None]  # by named class and other class, what is in the way
    wanted_MKK[:, kinds, kinds] = 0
    low, high = torch.full_like(votes_MK, -1), votes_MK.sum(1, keepdim=True).expand_as(votes_MK) - votes_MK  # too few, and enough
    while bool((high - low > 1).any()):
        middle = (low + high).div(2, rounding_mode="floor")
        enough = (wanted_MKK - middle[:, :, None]).clamp_min(0).sum(2) <= middle
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high
