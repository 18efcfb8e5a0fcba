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
    """Approximate the geometric median by Weiszfeld steps from the mean, with smoothed distances.

    Source: Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE TSP 2022 (RFA): three steps, smoothing 1e-6. Needs n > 2 f.

    Three steps from the mean do not converge; use more steps for the median itself.

    Args:
        steps: steps of Weiszfeld's algorithm, 1 or more.
        smoothing: smallest distance used as a divisor, above 0.
    """

    VERSION: ClassVar[int] = 1
    steps: int
    smoothing: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.steps < 1 or not self.smoothing > 0:
            raise ConfigError("defense.aggregate: steps is 1 or more, smoothing above 0")

    def check(self, contributors: int, malicious: int) -> None:
        """Check that n > 2 f."""
        room(contributors, malicious, least=1, rule="geometric_median")

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return the (P,) aggregate."""
        centre = columnwise(rows_RP, lambda rows: rows.mean(0))
        for _ in range(self.steps):
            weights = 1 / distances(rows_RP, centre).clamp_min(self.smoothing)
            centre = columnwise(rows_RP, weights.matmul) / weights.sum()
        return centre.to(rows_RP.dtype)


def distances(rows_RP: Tensor, centre: Tensor) -> Tensor:
    """Return (R,) float64 distances to the (P,) float64 centre.

    Two or three rows at a time share one buffer: allocating memory for all rows took longer than the sums.
    """
    groups = rows_RP.tensor_split(max(1, len(rows_RP) // 2))
    buffer = torch.empty_like(groups[0], dtype=torch.float64)
    return torch.cat([torch.sub(rows, centre, out=buffer[: len(rows)]).square_().sum(1) for rows in groups]).sqrt()
