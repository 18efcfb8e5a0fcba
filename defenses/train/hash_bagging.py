"""Hash bagging: several partitions of the rows, each by its own hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses.train.committee import Committee
from defenses.train.dpa import divided
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Combine, Learner, Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class HashBagging:
    """Partition the rows once for each group of members, each time by another hash, and train one member on each part.

    Source: Chen, Li, Li, Yan and Wu, "On Collective Robustness of Bagging Against Data Poisoning", ICML 2022, section 4.

    A changed row touches exactly one member of each group; in bagging this is random. With one group it is deep partition aggregation.

    Args:
        groups: G, 1 or more.
        parts: members per group, 1 or more.
        member: recipe of the members; null: the recipe of the run.
    """

    VERSION: ClassVar[int] = 1
    groups: int
    parts: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.groups, self.parts) < 1:
            raise ConfigError(f"defense.train.groups={self.groups}, parts={self.parts}: give 1 or more of each")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Groups(member=self.member or learner, groups=self.groups, parts=self.parts)


@dataclass(frozen=True, kw_only=True)
class Groups(Committee):
    """The learner that trains groups of members.

    Source: Chen et al., ICML 2022.

    Args:
        groups: G.
        parts: members per group.
    """

    VERSION: ClassVar[int] = 1
    MECHANISM: ClassVar[bool] = True
    groups: int
    parts: int

    @property
    def size(self) -> int:
        """Number of members."""
        return self.groups * self.parts

    def divided(self, data: Dataset, rng: Key) -> list[Dataset]:
        """Return the rows of each member, group after group."""
        return [part for group in range(self.groups) for part in divided(data, self.parts, rng.child(f"parts/{group}"))]

    def facts_of(self, data: Dataset, rng: Key, members: Sequence[Victim]) -> dict[str, object]:
        """Return G, which the certificate depends on."""
        return {"groups": self.groups}

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that there is a row for each part, and that the member accepts its rows.

        Raises:
            ConfigError: what to change.
        """
        if self.parts > len(data):
            raise ConfigError(f"defense.train.parts={self.parts}: there are {len(data)} training rows; give each part at least one")
        self.member.check(data.take(torch.arange(max(1, len(data) // self.parts))), combine)
