"""The geometric median: the point with the smallest sum of distances.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.aggregate.distances import room
from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GeometricMedian:
    """Weiszfeld steps from the mean, distances smoothed from below.

    Source: Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE TSP 2022 (RFA): three steps,
    smoothing 1e-6. Three steps from the mean do not converge; take more for the median itself. Needs n > 2 f.

    Args:
        steps: of Weiszfeld's algorithm.
        smoothing: smallest distance that is divided by.
    """

    VERSION: ClassVar[int] = 1
    steps: int
    smoothing: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.steps < 1 or not self.smoothing > 0:
            raise ConfigError("defense.aggregate: steps is 1 or more, smoothing above 0")

    def check(self, contributors: int, malicious: int) -> None:
        """Refuse n <= 2 f."""
        room(contributors, malicious, least=1, rule="geometric_median")

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (P,)."""
        rows = rows_RP.to(torch.float64)
        centre = rows.mean(0)
        for _ in range(self.steps):
            weights = 1 / (rows - centre).square().sum(1).sqrt().clamp_min(self.smoothing)
            centre = weights @ rows / weights.sum()
        return centre.to(rows_RP.dtype)
