"""Which training rows an attacker can write.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

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


@runtime_checkable
class Counted(Protocol):
    """A reach that tells the record how it came about, such as the domains that were bought."""

    def counts(self, data: Dataset, malicious: Tensor) -> Mapping[str, int]:
        """Return whole numbers by their names; the arguments are those of `Reach.writable`."""
        ...


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """All rows, or those of the malicious clients if the threat has some."""

    VERSION: ClassVar[int] = 1

    def writable(self, data: Dataset, malicious: Tensor) -> Tensor:
        """Return (N,) bool."""
        return torch.isin(data.owners, malicious) if len(malicious) else torch.ones(len(data), dtype=torch.bool)


OWN_ROWS = OwnRows()
