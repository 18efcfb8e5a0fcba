"""Slab and sphere: rows that are far from the centre of their class.

Shape letters: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.feasible import FeasibleSet, Shape
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.reals import NUMBERS


@dataclass(frozen=True, kw_only=True)
class CertifiedTrim:
    """Drop the rows outside the slab and the sphere of their class, whose centres are those of trusted rows.

    Source: Steinhardt, Koh, Liang, "Certified Defenses for Data Poisoning Attacks", NeurIPS 2017: the "oracle" defenses, whose centres no attacker can
    move. The set is fixed before the attack, which is what the bound of `defenses.train.certified_trim` needs.

    Differences: the paper's oracle knows the true centres; here they are estimated from the defender's trusted rows, and so are radius and width, as
    quantiles over the trusted rows. Columns can be standardised with the trusted rows. With more than two classes, the slab of a class points to
    the centre of all others.

    Args:
        shape: how large the set is.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    SEVERAL_CLASSES: ClassVar[bool] = True
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    shape: Shape

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Judge every row against the set of its class; suspicion is the distance over the limit."""
        return judged(FeasibleSet.of(means.trusted, self.shape, "trusted"), data)


def judged(feasible: FeasibleSet, data: Dataset) -> Verdict:
    """Return the verdict of a feasible set on rows."""
    excess = feasible.excess(data)
    return Verdict(keep=excess <= 1, suspicion=excess.float())
