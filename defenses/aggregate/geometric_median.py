"""The geometric median: the point with the smallest sum of distances.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.aggregate.columns import columnwise
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
        centre = columnwise(rows_RP, lambda rows: rows.mean(0))
        for _ in range(self.steps):
            weights = 1 / distances(rows_RP, centre).clamp_min(self.smoothing)
            centre = columnwise(rows_RP, weights.matmul) / weights.sum()
        return centre.to(rows_RP.dtype)


def distances(rows_RP: Tensor, centre: Tensor) -> Tensor:
    """Return (R,) float64 distances to the (P,) float64 centre.

    Two or three rows at a time in one buffer: fresh memory for all of them took longer than the sums.
    """
    groups = rows_RP.tensor_split(max(1, len(rows_RP) // 2))
    buffer = torch.empty_like(groups[0], dtype=torch.float64)
    return torch.cat([torch.sub(rows, centre, out=buffer[: len(rows)]).square_().sum(1) for rows in groups]).sqrt()
