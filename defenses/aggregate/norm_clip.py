"""Norm clipping: no contribution counts for more than its length allows.

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
    """Scale every contribution to a norm of at most `bound` and average.

    Source: Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019, without its noise. The paper
    fixes the bound by hand; the median norm of the round is the default here, since it needs no tuning.

    Args:
        bound: largest norm, above 0; null is the median norm of the round.
    """

    VERSION: ClassVar[int] = 1
    bound: float | None

    def __post_init__(self) -> None:
        """Refuse a bound that lets nothing through."""
        if self.bound is not None and not self.bound > 0:
            raise ConfigError(f"defense.aggregate.bound={self.bound}: a norm above 0, or null for the median norm")

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (P,)."""
        lengths = torch.linalg.vector_norm(rows_RP, dim=1)
        bound = lengths.median() if self.bound is None else lengths.new_tensor(self.bound)
        factors: Tensor = (bound / lengths.clamp_min(1e-12)).clamp_max(1.0)
        return (rows_RP * factors[:, None]).mean(0)
