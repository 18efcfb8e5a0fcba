"""What filters after the search share: how deep they look.

Shape letters: D passages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.errors import ConfigError
from poisonbench.core.proof import Looks
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class Deeper:
    """Base class of filters that see the first D passages of a search; of those that they keep, the best k are read.

    A removed passage is replaced by a deeper one as long as there is one among the D. Without deeper ones fewer than k passages are read.

    Args:
        reach: D over k, 1 or more; 1: removed passages are not replaced.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    LOOKS_AT: ClassVar[Looks] = "all rows"
    reach: int

    def __post_init__(self) -> None:
        """Check that the reach is in range."""
        if self.reach < 1:
            raise ConfigError(f"defense.train.sift.reach={self.reach}: give 1 or more times the passages that are read")

    def depth(self, top: int) -> int:
        """Return how many passages it wants to see where `top` are read."""
        return self.reach * top
