"""The filter that keeps the rows which the publisher signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import Refused
from poisonbench.core.manifest import row_digests
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class SignedManifest:
    """Remove the rows whose digest is not in the list that the publisher signed.

    Source: the check of hashes against an index in Carlini, Jagielski, Choquette-Choo, Paleka, Pearce, Anderson, Terzis, Thomas, Tramer, "Poisoning
    Web-Scale Training Datasets is Practical", IEEE S&P 2024, section 6, with a signature over the list.

    The defender knows the publisher's key. A list with another signature, or without one, proves nothing about any row, so the whole training set is
    refused: the run is skipped with that reason, no row is kept, and the record counts the benign and the poisoned rows that were refused.

    What it cannot find: poison that was in the rows before they were signed, which is how every attack except `supply_chain` works here; copies of
    a signed row; rows that are missing; and an old list in place of today's, of which nothing in the list tells. With an old list, rows that were
    added since are removed although they are clean.

    The verdict on a row also depends on the list, which the attacker can replace, so no certificate holds behind this filter.

    The suspicion is 1 for a row that is not listed and 0 for all others.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"manifest"})

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return which rows are listed.

        Raises:
            Refused: the list is not signed by the publisher, or it lists none of the rows.
        """
        refusal = f"defense=signed_manifest refuses all {len(data)} training rows and keeps none"
        if fault := means.manifest.fault():
            raise Refused(f"{refusal}: the list that came with them is not valid, {fault}")
        keep = means.manifest.lists(row_digests(data))
        if not keep.any():
            raise Refused(f"{refusal}: the publisher's list names none of them")
        return Verdict(keep=keep, suspicion=(~keep).float())
