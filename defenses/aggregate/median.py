"""The coordinate-wise median.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.aggregate.columns import middle
from defenses.aggregate.distances import room
from poisonbench.core.defense import Server


@dataclass(frozen=True, kw_only=True)
class Median:
    """Take the median of every coordinate; for an even number of contributions, the mean of the middle two.

    Source: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018. Needs n > 2 f.
    """

    VERSION: ClassVar[int] = 1

    def check(self, contributors: int, malicious: int) -> None:
        """Check that n > 2 f."""
        room(contributors, malicious, least=1, rule="median")

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return the (P,) aggregate."""
        central = middle(rows_RP, (len(rows_RP) - 1) // 2)
        return (central[0] + central[-1]) / 2 + 0  # the sort leaves +0 and -0 in any order; + 0 makes all of them +0
