"""The certificate of SS-DPA: that of partition ensembles, in flipped labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.certify.dpa import DpaCertificate
from poisonbench.core.electorate import Change
from poisonbench.core.proof import ALONE, Tolerance


@dataclass(frozen=True, kw_only=True)
class SsDpaCertificate(DpaCertificate):
    """How many labels may be flipped before an answer can change.

    Source: Levine and Feizi, ICLR 2021, Theorem 2: the radius of Theorem 1, in flips.

    Args:
        change: "flip"; a sorted split certifies nothing else.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # a filter may turn a flipped label into a missing row
    change: Change = "flip"
