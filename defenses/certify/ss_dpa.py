"""The certificate of SS-DPA: that of partition ensembles, in flipped labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.certify.dpa import DpaCertificate
from poisonbench.core.electorate import Change
from poisonbench.core.proof import ALONE, Tolerance


@dataclass(frozen=True, kw_only=True)
class SsDpaCertificate(DpaCertificate):
    """Certify how many training labels may be flipped before an answer changes.

    Source: Levine and Feizi, "Deep Partition Aggregation: Provable Defense against General Poisoning Attacks", ICLR 2021, Theorem 2: the radius of
    Theorem 1, counted in flips.

    Args:
        change: "flip"; a sorted split certifies nothing else.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # a filter may turn a flipped label into a missing row
    change: Change = "flip"
