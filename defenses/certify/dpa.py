"""The certificate of partition ensembles.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import UNITS, Change, Electorate, Rule, electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.proof import ROWS, Tolerance


@dataclass(frozen=True, kw_only=True)
class PartitionCertificate(NoCertificate):
    """Base class of certificates that convert radii in partitions into radii in changed rows.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one partition, "edit" two.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ROWS
    RULE: ClassVar[Rule] = "plurality"
    change: Change

    @property
    def unit(self) -> str:
        """The unit of the radii; insertions and deletions touch one partition each and may be mixed."""
        return "inserted or deleted rows" if self.change in ("insert", "delete") else UNITS[self.change]

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        raise NotImplementedError

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii, -1 where the answer is already wrong."""
        ensemble = electorate(victim)
        if ensemble.rule != self.RULE:
            raise ConfigError(f"defense.certify: {type(self).__name__} proves answers by {self.RULE}, this ensemble answers by {ensemble.rule}")
        radii, answers = self.proved(ensemble, test.inputs)
        return torch.where(answers == test.labels, radii.div(ensemble.touched(self.change), rounding_mode="floor"), -1)


@dataclass(frozen=True, kw_only=True)
class DpaCertificate(PartitionCertificate):
    """Certify how many training rows may be inserted or deleted before an answer changes.

    Source: Levine and Feizi, "Deep Partition Aggregation: Provable Defense against General Poisoning Attacks", ICLR 2021, Theorem 1: with votes n_c
    and answer g, where ties go to the smaller class, rho = floor((n_g - max over c != g of (n_c + [c < g])) / 2).

    The radius counts changes to the training set that the ensemble was given. Poison that this set already contains is not covered.

    Args:
        change: what is counted: inserted ("insert"), deleted ("delete") or relabelled rows ("flip"), one part each, since parts depend only on
            inputs; or rows with edited inputs ("edit"), two parts each.
    """

    VERSION: ClassVar[int] = 1
    change: Change = field(default="insert", metadata={"spec": "changed"})

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        alone(ensemble)
        return radius(ensemble.tally(inputs).votes_MK)


def alone(ensemble: Electorate) -> None:
    """Check that each partition reaches only one member.

    Raises:
        ConfigError: it reaches several.
    """
    if ensemble.reach().shape[1] > 1:
        raise ConfigError("defense.certify: this certificate is for rows that reach one member each; use that of finite_aggregation")


def radius(votes_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M,) radii in parts and (M,) answers from (M, K) int64 votes."""
    answers = votes_MK.argmax(1)
    gap = gaps(votes_MK, answers).masked_fill(at(answers, votes_MK.shape[1]), torch.iinfo(torch.int64).max)
    return gap.min(1).values.div(2, rounding_mode="floor"), answers


def gaps(votes_MK: Tensor, answers_M: Tensor) -> Tensor:
    """Return (M, K) int64, by how many votes the answer leads each class; ties go to the smaller class, so a smaller class counts one vote more."""
    kinds = torch.arange(votes_MK.shape[1])
    return votes_MK.gather(1, answers_M[:, None]) - votes_MK - (kinds < answers_M[:, None]).long()


def at(answers_M: Tensor, kinds: int) -> Tensor:
    """Return (M, K) bool, true at the answer."""
    return torch.arange(kinds) == answers_M[:, None]
