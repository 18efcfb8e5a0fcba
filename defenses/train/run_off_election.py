"""Run-off election: two rounds of voting among the members of a partition ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble, Parted
from poisonbench.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class RunOffElection(Parted):
    """Train members as deep partition aggregation does; the two classes with the most votes meet in a second round.

    Source: Rezaei, Banihashem, Chegini and Feizi, "Run-Off Election: Improved Provable Defense against Data Poisoning Attacks",
    ICML 2023. In the second round each member votes for the one of the two classes that it scores higher; ties, there and in
    the first round, go to the smaller class.

    Args:
        parts: k.
        member: another recipe for the members; null is that of the run.
    """

    VERSION: ClassVar[int] = 1

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, rule="run_off")
