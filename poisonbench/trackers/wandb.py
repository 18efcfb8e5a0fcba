"""Send records to Weights & Biases, offline unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from poisonbench.record import Record


@dataclass(frozen=True, kw_only=True)
class WandbTracker:
    """One wandb run a record; its numbers become the run's summary.

    Args:
        project: of wandb.
        mode: "offline" writes below the results folder, for a later `wandb sync`; "online" needs an account.
    """

    VERSION: ClassVar[int] = 1
    project: str
    mode: Literal["offline", "online"]

    def log(self, record: Record, folder: Path) -> None:
        """Send one record."""
        import wandb

        parts = {"defended": record.metrics, "undefended": record.undefended, "baseline": record.baseline}
        run = wandb.init(project=self.project, mode=self.mode, dir=str(folder), name=record.key, config=dict(record.spec), settings=wandb.Settings(silent=True))
        failed = True
        try:
            run.summary.update({f"{part}/{name}": value for part, figures in parts.items() for name, value in _numbers(figures).items()})
            run.summary.update({"status": record.status, "reason": record.reason, "result_digest": record.result_digest})
            failed = record.status == "failed"
        finally:
            run.finish(exit_code=int(failed))


def _numbers(figures: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}
