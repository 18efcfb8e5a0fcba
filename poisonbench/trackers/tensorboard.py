"""Write records to files for TensorBoard."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from poisonbench.core.errors import ConfigError
from poisonbench.storage.record import Record
from poisonbench.trackers.figures import curve_points, numbers


@dataclass(frozen=True, kw_only=True)
class TensorboardTracker:
    """One folder of events per record, below `tensorboard` in the results folder; needs poisonbench[tensorboard].

    Args:
        group: a subfolder for runs that belong together; None for no subfolder.
    """

    VERSION: ClassVar[int] = 1
    group: str | None

    def log(self, record: Record, folder: Path) -> None:
        """Write one record: its numbers at step 0, its curves at their rounds.

        Raises:
            ConfigError: the package tensorboard is missing.
        """
        try:
            tensorboard = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ConfigError('tracker=tensorboard needs its package: pip install "poisonbench[tensorboard]"') from error
        with tensorboard.SummaryWriter(str(folder / "tensorboard" / (self.group or "") / record.key)) as writer:
            writer.add_text("command", record.command)
            for name, value in numbers(record).items():
                writer.add_scalar(name, value, 0)
            for point in curve_points(record):
                for name, value in point.items():
                    if name != "round":
                        writer.add_scalar(f"rounds/{name}", value, int(point["round"]))
