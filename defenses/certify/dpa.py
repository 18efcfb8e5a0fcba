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
    """Radii in partitions become radii in changed rows.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one partition, "edit" two.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ROWS
    RULE: ClassVar[Rule] = "plurality"
    change: Change

    @property
    def unit(self) -> str:
        """What radii count; a row that comes and one that goes touch one partition each, in any mixture."""
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
    """How many rows may be inserted into or deleted from the training set before an answer can change.

    Source: Levine and Feizi, ICLR 2021, Theorem 1: with votes n_c and answer g, ties to the smaller class,
    rho = floor((n_g - max over c != g of (n_c + [c < g])) / 2). The certificate is around the training set that the ensemble
    was given, poisoned or not: it says nothing about poison that is already in there.

    Args:
        change: what is counted: rows that are put in ("insert"), taken out ("delete") or relabelled ("flip"), one part
            each, since parts depend on inputs alone; or rows whose inputs are edited ("edit"), two parts each.
    """

    VERSION: ClassVar[int] = 1
    change: Change = field(default="insert", metadata={"spec": "changed"})

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        alone(ensemble)
        return radius(ensemble.tally(inputs).votes_MK)


def alone(ensemble: Electorate) -> None:
    """Refuse partitions that reach several members.

    Raises:
        ConfigError: they do.
    """
    if ensemble.reach().shape[1] > 1:
        raise ConfigError("defense.certify: this certificate is for rows that reach one member each; use that of finite_aggregation")


def radius(votes_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M,) radii in parts and (M,) answers from (M, K) int64 votes."""
    answers = votes_MK.argmax(1)
    gap = gaps(votes_MK, answers).masked_fill(at(answers, votes_MK.shape[1]), torch.iinfo(torch.int64).max)
    return gap.min(1).values.div(2, rounding_mode="floor"), answers


def gaps(votes_MK: Tensor, answers_M: Tensor) -> Tensor:
    """Return (M, K) int64, by how many votes the answer leads each class; ties break to the smaller class, so a smaller one counts one more."""
    kinds = torch.arange(votes_MK.shape[1])
    return votes_MK.gather(1, answers_M[:, None]) - votes_MK - (kinds < answers_M[:, None]).long()


def at(answers_M: Tensor, kinds: int) -> Tensor:
    """Return (M, K) bool, true at the answer."""
    return torch.arange(kinds) == answers_M[:, None]
