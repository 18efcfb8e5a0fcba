"""FLTrust: trust by direction, measured against an update on the server's trusted rows.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.defense import Mean, Server


@dataclass(frozen=True, kw_only=True)
class FlTrust(Mean):
    """Scale contributions to the length of the server's own update and average them, weighted by the positive part of their cosine with it.

    Source: Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021.

    The server trains on the trusted rows (`task.trusted`; paper: 100 rows). If no contribution has a positive cosine, the model stays unchanged; some
    ports average all contributions in that case.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return the (P,) aggregate."""
        own = server.reference()
        length, lengths = torch.linalg.vector_norm(own), torch.linalg.vector_norm(rows_RP, dim=1).clamp_min(1e-12)
        trust: Tensor = (rows_RP @ own / (lengths * length.clamp_min(1e-12))).clamp_min(0)
        if trust.sum() == 0:
            return torch.zeros_like(own)
        together: Tensor = (trust * length / lengths) @ rows_RP / trust.sum()
        return together
