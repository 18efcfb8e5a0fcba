"""Many private trainings on all rows, and a vote: what differential privacy proves about poison, made measurable."""

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
    """Train M models by DP-SGD on the same rows, each with randomness of its own.

    Source: Ma, Zhu and Hsu, "Data Poisoning against Differentially-Private Learners: Attacks and Defenses", IJCAI 2019, on how a private
    training bounds poison; Liu, Cullen, Montague, Erfani and Rubinstein, "Enhancing the Antidote: Improved Pointwise Certifications
    against Poisoning Attacks", AAAI 2023, on the answers of many trainings. The certificate is about one training; the votes of M are a
    sample for it, no more. The epsilon of the step is the budget of each training. All of them use the same rows, so what is released
    spends more: the record's `epsilon` is that of all M together, and `epsilon_of_one_member` that of each.

    Args:
        members: M.
        step: the private step of every member.
    """

    VERSION: ClassVar[int] = 1
    members: int
    step: PrivateStep

    def __post_init__(self) -> None:
        """Refuse a number that means nothing."""
        if self.members < 1:
            raise ConfigError(f"defense.train.members={self.members}: give 1 or more")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Repetitions(member=learner.with_step(self.step), members=self.members)


@dataclass(frozen=True, kw_only=True)
class Repetitions(Committee):
    """The learner that trains the same recipe on the same rows again and again.

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

    def told(self, data: Dataset, rng: Key, members: Sequence[Victim]) -> dict[str, object]:
        """Return how one training was noised, which the certificate depends on, and what all of them spent."""
        return composed(members[0].facts, self.members)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse what the member refuses."""
        self.member.check(data, combine)
