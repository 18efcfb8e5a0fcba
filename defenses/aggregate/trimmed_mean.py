"""The coordinate-wise trimmed mean.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.aggregate.columns import middle
from defenses.aggregate.distances import assumed, borne, room
from poisonbench.core.defense import Server


@dataclass(frozen=True, kw_only=True)
class TrimmedMean:
    """Drop the f largest and the f smallest values of every coordinate and average the rest.

    Source: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018. Needs n > 2 f.

    Args:
        malicious: f; null: the true number of the threat, which is oracle knowledge.
    """

    VERSION: ClassVar[int] = 1
    malicious: int | None

    def check(self, contributors: int, malicious: int) -> None:
        """Check that n > 2 f."""
        room(contributors, assumed(self.malicious, malicious), least=1, rule="trimmed_mean", own=self.malicious is not None)

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return the (P,) aggregate."""
        f = borne(assumed(self.malicious, server.malicious), len(rows_RP), least=1, rule="trimmed_mean")
        return middle(rows_RP, f).mean(0)
