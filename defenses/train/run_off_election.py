"""Run-off election: two rounds of voting among the members of a partition ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble, Parted
from poisonbench.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class RunOffElection(Parted):
    """Train members as in deep partition aggregation; a second round of voting decides between the two classes with the most votes.

    Source: Rezaei, Banihashem, Chegini and Feizi, "Run-Off Election: Improved Provable Defense against Data Poisoning Attacks", ICML 2023.

    In the second round each member votes for the class that it scores higher. Ties in both rounds go to the smaller class.

    Args:
        parts: k, 1 or more.
        member: recipe of the members; null: the recipe of the run.
    """

    VERSION: ClassVar[int] = 1

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, rule="run_off")
