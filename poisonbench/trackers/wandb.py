"""Send records to Weights & Biases, by default offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from poisonbench.storage.record import Record
from poisonbench.trackers.figures import FIGURES, curve_points, figures, numbers


@dataclass(frozen=True, kw_only=True)
class WandbTracker:
    """One wandb run per record: its numbers as the run's summary and as a table, its curves round by round.

    Args:
        project: in wandb.
        mode: "offline" writes below the results folder, for a later `wandb sync`; "online" needs an account.
        group: name for runs that belong together; None for no group.
    """

    VERSION: ClassVar[int] = 1
    project: str
    mode: Literal["offline", "online"]
    group: str | None

    def log(self, record: Record, folder: Path) -> None:
        """Send one record; a failed record ends as a failed run."""
        import wandb

        settings = wandb.Settings(silent=True)
        run = wandb.init(project=self.project, mode=self.mode, dir=str(folder), name=record.key, group=self.group, config=dict(record.spec), settings=settings)
        failed = True
        try:
            for values in curve_points(record):
                run.log(values)
            run.log({"figures": wandb.Table(columns=["", *FIGURES], data=[[part, *row] for part, row in figures(record).items()])})
            run.summary.update(numbers(record))
            run.summary.update({"status": record.status, "reason": record.reason, "result_digest": record.result_digest})
            failed = record.status == "failed"
        finally:
            run.finish(exit_code=int(failed))
