"""Slab and sphere around the centres of the rows themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.feasible import FeasibleSet, Shape
from defenses.sanitize.certified_trim import judged
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.rng import Key
from poisonbench.forms.reals import NUMBERS


@dataclass(frozen=True, kw_only=True)
class DataTrim:
    """Drop the rows outside the slab and the sphere of their class, whose centres are those of the rows themselves, poison included.

    Source: Steinhardt, Koh, Liang, "Certified Defenses for Data Poisoning Attacks", NeurIPS 2017, section 5: data-dependent defenses. They need no
    trusted rows, but poison moves the centres, so it also moves the set that it has to lie in. The bound of defense=certified_trim does not hold.

    Differences: as for defense=certified_trim. The paper's bound for data-dependent sets, a semidefinite program, is not included.

    Args:
        shape: how large the set is.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    SEVERAL_CLASSES: ClassVar[bool] = True
    shape: Shape

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Judge every row against the set of its class; suspicion is the distance over the limit."""
        return judged(FeasibleSet.of(data, self.shape, "training"), data)
