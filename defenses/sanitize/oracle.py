"""The ceiling of every filter: it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Remove exactly the poisoned rows.

    Source: none; the upper bound that a filter can reach, since the poison mask is handed to it.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return the truth."""
        return Verdict(keep=~means.truth, suspicion=means.truth.float())
