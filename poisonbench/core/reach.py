"""Which training rows an attacker can write.

Shape letters: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from poisonbench.core.data import Dataset


class Reach(Protocol):
    """The rows that an attacker can write, as a frozen dataclass."""

    def writable(self, data: Dataset, malicious: Tensor) -> Tensor:
        """Return (N,) bool.

        Args:
            data: N clean training rows.
            malicious: (M,) int64, the clients that the attacker controls; empty if the threat has no malicious clients.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """All rows, or those of the malicious clients if the threat has some."""

    VERSION: ClassVar[int] = 1

    def writable(self, data: Dataset, malicious: Tensor) -> Tensor:
        """Return (N,) bool."""
        return torch.isin(data.owners, malicious) if len(malicious) else torch.ones(len(data), dtype=torch.bool)


OWN_ROWS = OwnRows()
