"""Finite aggregation: partitions that each reach several members, for a finer certificate from the same rows a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class FiniteAggregation:
    """Hash rows into k d partitions, and train k d members on the partitions that reach them, d each.

    Source: Wang, Levine and Feizi, "Improved Certified Defenses against Data Poisoning with (Deterministic) Finite Aggregation",
    ICML 2022. A member sees N / k rows as in deep partition aggregation, and there are d times as many of them. With d = 1 it is
    deep partition aggregation.

    Args:
        parts: k.
        spread: d, members that a row reaches; their offsets are drawn from the seed.
        member: another recipe for the members; null is that of the run.
    """

    VERSION: ClassVar[int] = 1
    parts: int
    spread: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if min(self.parts, self.spread) < 1:
            raise ConfigError(f"defense.train.parts={self.parts}, spread={self.spread}: give 1 or more of each")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, spread=self.spread)
