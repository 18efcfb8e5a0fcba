"""Bagging: members on random draws of the rows, and a vote; few draws contain a poisoned row, so the votes have a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses.train.committee import Committee
from defenses.train.dpa import numbered
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Combine, Learner, Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Bagging:
    """Train each of R members on s rows, drawn with replacement, and let them vote.

    Source: Jia, Cao and Gong, "Intrinsic Certified Robustness of Bagging against Data Poisoning Attacks", AAAI 2021, section 3.

    Args:
        members: R, 1 or more.
        drawn: s, 1 or more.
        member: recipe of the members; null: the recipe of the run.
    """

    VERSION: ClassVar[int] = 1
    members: int
    drawn: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.members, self.drawn) < 1:
            raise ConfigError(f"defense.train.members={self.members}, drawn={self.drawn}: give 1 or more of each")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Bags(member=self.member or learner, members=self.members, drawn=self.drawn)


@dataclass(frozen=True, kw_only=True)
class Bags(Committee):
    """The learner that trains members on random draws.

    Source: Jia, Cao and Gong, AAAI 2021.

    Args:
        members: R.
        drawn: s.
    """

    VERSION: ClassVar[int] = 1
    MECHANISM: ClassVar[bool] = True
    members: int
    drawn: int

    @property
    def size(self) -> int:
        """Number of members."""
        return self.members

    def divided(self, data: Dataset, rng: Key) -> list[Dataset]:
        """Return the rows that each member draws."""
        places = torch.arange(self.drawn)
        draws = [(rng.child(f"bag/{member}").per_row(places)[:, 0] * len(data)).long() for member in range(self.members)]
        return [numbered(data.take(rows)) for rows in draws]

    def facts_of(self, data: Dataset, rng: Key, members: Sequence[Victim]) -> dict[str, object]:
        """Return s and N, which the certificate depends on."""
        return {"drawn": self.drawn, "training_rows": len(data)}

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that the member accepts s rows."""
        self.member.check(data.take(torch.arange(min(self.drawn, len(data)))), combine)
