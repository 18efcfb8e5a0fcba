"""The interface of trackers, and the one that sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from poisonbench.storage.record import Record


class Tracker(Protocol):
    """Receives every record after it is on the disk; a frozen dataclass."""

    def log(self, record: Record, folder: Path) -> None:
        """Send one record; the tracker writes its own files into `folder`."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """The tracker that sends nothing."""

    VERSION: ClassVar[int] = 1

    def log(self, record: Record, folder: Path) -> None:
        """Do nothing."""
