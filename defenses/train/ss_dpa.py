"""SS-DPA: partition aggregation against flipped labels, for inputs that are assumed to be clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble, Parted
from poisonbench.core.learner import Learner
from poisonbench.core.proof import ALONE, Tolerance


@dataclass(frozen=True, kw_only=True)
class SsDpa(Parted):
    """Sort the rows by their inputs, give every k-th row to the same part, and train one member on each of the k parts.

    Source: Levine and Feizi, "Deep Partition Aggregation: Provable Defense against General Poisoning Attacks", ICLR 2021, section 3.2.

    Parts have equal size and do not depend on labels, so a flipped label touches one part. An inserted or deleted row moves all others to other
    parts, so only flips are certified.

    Differences: the paper's members learn from all inputs without labels, by self-supervision. Here a member may use features that do not depend on
    the training rows, such as learner=kernel_ridge.

    Args:
        parts: k, 1 or more.
        member: recipe of the members; null: the recipe of the run.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # for every certificate: a row that a filter removes moves all others to other parts

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, split="sorted")
