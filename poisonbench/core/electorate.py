"""Ensembles that answer by vote, as certificates use them.

Shape letters: M test rows, R members, K classes, H partitions of the training rows, d members trained on one partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim


@dataclass(frozen=True, eq=False, kw_only=True)
class Tally:
    """The votes of all members.

    Args:
        answers_MR: (M, R) int32, the answer of each member.
        wins_MKK: (M, K, K) int64, how many members score the first class strictly above the second.
    """

    answers_MR: Tensor
    wins_MKK: Tensor

    @property
    def votes_MK(self) -> Tensor:  # shape letters
        """(M, K) int64, how many members answer with each class."""
        return votes(self.answers_MR, self.wins_MKK.shape[1])


def votes(answers_MR: Tensor, kinds: int) -> Tensor:
    """Count (M, R) answers into (M, K) int64."""
    counts = answers_MR.new_zeros((len(answers_MR), kinds)).long()
    for kind in range(kinds):
        counts[:, kind] = (answers_MR == kind).sum(1)
    return counts


Rule: TypeAlias = Literal["plurality", "run_off"]
Change: TypeAlias = Literal["insert", "delete", "flip", "edit"]  # of one training row: added, removed, its label, its inputs
UNITS: Mapping[Change, str] = MappingProxyType({"insert": "inserted rows", "delete": "deleted rows", "flip": "flipped labels", "edit": "edited rows"})


@runtime_checkable
class Electorate(Victim, Protocol):
    """An ensemble; each member is trained on some partitions of the rows."""

    @property
    def rule(self) -> Rule:
        """How votes become an answer."""
        ...

    def tally(self, inputs: Tensor) -> Tally:
        """Return the votes of all members."""
        ...

    def reach(self) -> Tensor:  # shape letters
        """(H, d) int64, the members that are trained on each partition."""
        ...

    def touched(self, change: Change) -> int:
        """Return how many partitions one change touches.

        Raises:
            ConfigError: a kind of change that this ensemble does not cover.
        """
        ...


def electorate(victim: Victim) -> Electorate:
    """Return the victim as an ensemble.

    Raises:
        ConfigError: it is not an ensemble.
    """
    if not isinstance(victim, Electorate):
        raise ConfigError(f"defense.certify counts votes, and {type(victim).__name__} has none; choose a defense.train that makes an ensemble, such as dpa")
    return victim
