"""The oracle filter: the upper bound of every filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Remove exactly the poisoned rows.

    Source: none. It gets the poison mask, so it is the upper bound that a filter can reach.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return the true poison mask as the verdict."""
        return Verdict(keep=~means.truth, suspicion=means.truth.float())
