"""Send records nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from poisonbench.record import Record


class Tracker(Protocol):
    """Hears of every record after it is on the disk, as a frozen dataclass."""

    def log(self, record: Record) -> None:
        """Send one record."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """The tracker that hears nothing."""

    VERSION: ClassVar[int] = 1

    def log(self, record: Record) -> None:
        """Do nothing."""
