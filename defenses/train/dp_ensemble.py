"""Many private trainings on all rows, and a vote, to measure what differential privacy proves against poison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from defenses.train.committee import Committee
from defenses.train.dp_sgd import PrivateStep, composed
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Combine, Learner, Victim
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class DpEnsemble:
    """Train M models by DP-SGD on the same rows, each with its own randomness, and let them vote.

    Source: Ma, Zhu and Hsu, "Data Poisoning against Differentially-Private Learners: Attacks and Defenses", IJCAI 2019, on how private training
    bounds poison; Liu, Cullen, Montague, Erfani and Rubinstein, "Enhancing the Antidote: Improved Pointwise Certifications against Poisoning
    Attacks", AAAI 2023, on the answers of many trainings.

    The certificate is about a single training; the votes of the M members are a sample of its answers. The epsilon of the step is the budget of each
    training. Since all trainings use the same rows, their results together spend more: the record's `epsilon` is that of all M together, and
    `epsilon_of_one_member` that of each.

    Args:
        members: M, 1 or more.
        step: the private step of every member.
    """

    VERSION: ClassVar[int] = 1
    members: int
    step: PrivateStep

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.members < 1:
            raise ConfigError(f"defense.train.members={self.members}: give 1 or more")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Repetitions(member=learner.with_step(self.step), members=self.members)


@dataclass(frozen=True, kw_only=True)
class Repetitions(Committee):
    """The learner that trains the same recipe M times on the same rows.

    Source: Ma, Zhu and Hsu, IJCAI 2019.

    Args:
        members: M.
    """

    VERSION: ClassVar[int] = 2
    LOOKS_AT: ClassVar[Looks] = "nothing"
    MECHANISM: ClassVar[bool] = True
    members: int

    @property
    def size(self) -> int:
        """Number of members."""
        return self.members

    def divided(self, data: Dataset, rng: Key) -> list[Dataset]:
        """Return all rows for each member."""
        return [data] * self.members

    def facts_of(self, data: Dataset, rng: Key, members: Sequence[Victim]) -> dict[str, object]:
        """Return the noise of one training, which the certificate depends on, and the epsilon of all of them."""
        return composed(members[0].facts, self.members)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that the member accepts the rows."""
        self.member.check(data, combine)
