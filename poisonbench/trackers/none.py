"""Send records nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from poisonbench.storage.record import Record


class Tracker(Protocol):
    """Hears of every record after it is on the disk, as a frozen dataclass."""

    def log(self, record: Record, folder: Path) -> None:
        """Send one record; files of the tracker's own go into `folder`."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """The tracker that hears nothing."""

    VERSION: ClassVar[int] = 1

    def log(self, record: Record, folder: Path) -> None:
        """Do nothing."""
