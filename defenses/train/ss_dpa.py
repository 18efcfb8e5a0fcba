"""SS-DPA: partition aggregation against flipped labels, where the inputs are taken to be clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble, Parted
from poisonbench.core.learner import Learner
from poisonbench.core.proof import ALONE, Tolerance


@dataclass(frozen=True, kw_only=True)
class SsDpa(Parted):
    """Train one member on every k-th row in lexicographic order of the inputs.

    Source: Levine and Feizi, ICLR 2021, section 3.2. Parts are even and depend on no label, so a flipped label touches one part; an inserted
    or deleted row moves all others, so that flips alone are certified. The paper's members know all inputs without their labels, by
    self-supervision; here a member may be given features that depend on no training row, such as learner=kernel_ridge.

    Args:
        parts: k.
        member: another recipe for the members; null is that of the run.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # whatever certificate: a row that a filter takes out moves all others to other parts

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, split="sorted")
