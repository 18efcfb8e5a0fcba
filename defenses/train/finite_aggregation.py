"""Finite aggregation: each partition reaches several members, which gives a finer certificate with the same number of rows per member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class FiniteAggregation:
    """Hash rows into k d partitions and train k d members, each on the d partitions that reach it.

    Source: Wang, Levine and Feizi, "Improved Certified Defenses against Data Poisoning with (Deterministic) Finite Aggregation", ICML 2022.

    As in deep partition aggregation a member is trained on N / k rows, but there are d times as many members. With d = 1 both are the same.

    Args:
        parts: k, 1 or more.
        spread: d, the number of members that a row reaches, 1 or more; their offsets are drawn from the seed.
        member: recipe of the members; null: the recipe of the run.
    """

    VERSION: ClassVar[int] = 1
    parts: int
    spread: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.parts, self.spread) < 1:
            raise ConfigError(f"defense.train.parts={self.parts}, spread={self.spread}: give 1 or more of each")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, spread=self.spread)
