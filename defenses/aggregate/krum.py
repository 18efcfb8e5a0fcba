"""Krum: the one contribution that is closest to its neighbours.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from defenses.aggregate.distances import assumed, borne, krum_scores, room, squared_distances
from poisonbench.core.defense import Server


class Score(NamedTuple):
    """The score of a published code: the power of the distance, n - f - `fewer` neighbours, and whether a contribution is its own neighbour."""

    power: int
    fewer: int
    include_self: bool = False


VARIANTS = {
    "paper": Score(2, 2),
    "byzfl": Score(2, 1),
    "flpoison": Score(1, 1),
    "lie": Score(1, 0, include_self=True),
    "ndss21": Score(2, 2, include_self=True),
    "epfml": Score(4, 2),
}


@dataclass(frozen=True, kw_only=True)
class Krum:
    """Take the contribution with the smallest sum of squared distances to its n - f - 2 nearest others.

    Source: Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017. Needs n
    > 2 f + 2.

    Published codes differ in the power, in the number of neighbours, and in whether a contribution is its own neighbour. `variant` offers their
    scores so that results can be compared.

    Args:
        malicious: f; null: the true number of the threat, which is oracle knowledge.
        variant: "paper", or the score of a published code: "byzfl", "flpoison", "lie", "ndss21", "epfml".
    """

    VERSION: ClassVar[int] = 1
    malicious: int | None
    variant: Literal["paper", "byzfl", "flpoison", "lie", "ndss21", "epfml"]

    def check(self, contributors: int, malicious: int) -> None:
        """Check that n > 2 f + 2."""
        room(contributors, assumed(self.malicious, malicious), least=3, rule="krum", own=self.malicious is not None)

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (P,), one of the contributions."""
        return rows_RP[self.scores(rows_RP, server).argmin()]

    def scores(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (R,) scores; smaller is better."""
        score = VARIANTS[self.variant]
        f = borne(assumed(self.malicious, server.malicious), len(rows_RP), least=3, rule="krum")
        neighbours = len(rows_RP) - f - score.fewer
        return krum_scores(squared_distances(rows_RP), neighbours, power=score.power, include_self=score.include_self)
