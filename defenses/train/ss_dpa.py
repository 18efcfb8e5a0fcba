"""SS-DPA: partition aggregation against flipped labels, where the inputs are taken to be clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.train.dpa import Ensemble
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class SsDpa:
    """Train one member on every k-th row in lexicographic order of the inputs.

    Source: Levine and Feizi, ICLR 2021, section 3.2. Parts are even and hang on no label, so a flipped label touches one part; an inserted
    or deleted row moves all others, so that flips alone are certified. The paper's members know all inputs without their labels, by
    self-supervision; here a member may be given features that hang on no training row, such as learner=kernel_ridge.

    Args:
        parts: k.
        member: another recipe for the members; null is that of the run.
    """

    VERSION: ClassVar[int] = 1
    parts: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Refuse a number that means nothing."""
        if self.parts < 1:
            raise ConfigError(f"defense.train.parts={self.parts}: give 1 or more")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, split="sorted")
