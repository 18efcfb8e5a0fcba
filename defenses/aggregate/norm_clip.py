"""Norm clipping: limits the length of every contribution before averaging.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.defense import Mean, Server
from poisonbench.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NormClip(Mean):
    """Scale every contribution down to a norm of at most `bound`, then average.

    Source: Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019.

    Differences: the paper fixes the bound by hand; the default here is the median norm of the round, which needs no tuning.

    Not included: the noise that the paper adds.

    Args:
        bound: largest norm, above 0; null: the median norm of the round.
    """

    VERSION: ClassVar[int] = 1
    bound: float | None

    def __post_init__(self) -> None:
        """Check that the bound is in range."""
        if self.bound is not None and not self.bound > 0:
            raise ConfigError(f"defense.aggregate.bound={self.bound}: a norm above 0, or null for the median norm")

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return the (P,) aggregate."""
        lengths = torch.linalg.vector_norm(rows_RP, dim=1)
        bound = lengths.median() if self.bound is None else lengths.new_tensor(self.bound)
        factors: Tensor = (bound / lengths.clamp_min(1e-12)).clamp_max(1.0)
        return (rows_RP * factors[:, None]).mean(0)
