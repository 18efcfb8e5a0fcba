"""Multi-Krum: the mean of the contributions with the lowest Krum scores.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.aggregate.distances import assumed, borne, krum_scores, need, room, squared_distances
from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MultiKrum:
    """Average the m contributions with the lowest Krum scores.

    Source: Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017, section
    4. Needs n > 2 f + 2 and m <= n - f - 2.

    Scores are computed once; some codes compute them again after each selection.

    Args:
        malicious: f; null: the true number of the threat, which is oracle knowledge.
        kept: m, 1 or more; null: n - f - 2.
    """

    VERSION: ClassVar[int] = 1
    malicious: int | None
    kept: int | None

    def __post_init__(self) -> None:
        """Check that at least one contribution is kept."""
        if self.kept is not None and self.kept < 1:
            raise ConfigError(f"defense.aggregate.kept={self.kept}: give 1 or more, or null for n - f - 2")

    def check(self, contributors: int, malicious: int) -> None:
        """Check that n > 2 f + 2 and m <= n - f - 2."""
        f = assumed(self.malicious, malicious)
        room(contributors, f, least=3, rule="multi_krum", own=self.malicious is not None)
        most = contributors - f - 2
        limit = f"defense=multi_krum keeps at most n - f - 2; this round has n = {contributors} with f = {f}"
        need(self.kept is None or self.kept <= most, f"{limit}; set defense.aggregate.kept={most}, or null")

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (P,), the mean of the kept contributions."""
        neighbours = len(rows_RP) - borne(assumed(self.malicious, server.malicious), len(rows_RP), least=3, rule="multi_krum") - 2
        scores = krum_scores(squared_distances(rows_RP), neighbours)
        return rows_RP[scores.argsort(stable=True)[: self.kept or neighbours]].mean(0)
