"""FLTrust: trust by direction, measured against an update on the server's own rows.

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
    """Weigh each contribution by the positive part of its cosine with the server's update, all at the server's length.

    Source: Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021. The
    root rows are `task.trusted` (the paper: 100). Where nobody is trusted the model stays as it is; some ports then
    average everybody.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (P,)."""
        own = server.reference()
        length, lengths = torch.linalg.vector_norm(own), torch.linalg.vector_norm(rows_RP, dim=1).clamp_min(1e-12)
        trust: Tensor = (rows_RP @ own / (lengths * length.clamp_min(1e-12))).clamp_min(0)
        if trust.sum() == 0:
            return torch.zeros_like(own)
        together: Tensor = (trust * length / lengths) @ rows_RP / trust.sum()
        return together
