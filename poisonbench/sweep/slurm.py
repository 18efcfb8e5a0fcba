"""Cells as jobs of a Slurm cluster, by submitit."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from poisonbench.core.errors import ConfigError
from poisonbench.sweep.audience import Audience
from poisonbench.sweep.cell import Cell
from poisonbench.sweep.engine import Lost, Ticket, gathered, work

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """One Slurm job a load, all loads as one array; `results_dir` and data must lie where every node sees them.

    Args:
        cluster: "slurm", or "local": the same jobs as processes of this machine, all at once, to try a set-up.
        partition: where jobs queue; None is the cluster's own choice.
        cpus: cores of a job, and so threads of a cell.
        gpus: cards of a job.
        memory_gb: of a job.
        job_minutes: longest time of a job, with all its cells.
        at_once: jobs that run at a time.
        cells_per_job: cells that one job runs one after the other.
        cell_minutes: longest time of one cell; None is without end.
        setup: shell lines before a job starts, such as `module load cuda`.
        logs: folder of the jobs' output.
    """

    cluster: Literal["slurm", "local"]
    partition: str | None
    cpus: int
    gpus: int
    memory_gb: float
    job_minutes: int
    at_once: int
    cells_per_job: int
    cell_minutes: float | None
    setup: tuple[str, ...]
    logs: str

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if min(self.cpus, self.job_minutes, self.at_once, self.cells_per_job) < 1 or self.gpus < 0 or not self.memory_gb > 0:
            raise ConfigError("engine: cpus, job_minutes, at_once and cells_per_job are 1 or more, gpus 0 or more, memory_gb above 0")
        if self.cell_minutes is not None and not 0 < self.cell_minutes * self.cells_per_job <= self.job_minutes:
            told = f"{self.cells_per_job} cells of at most cell_minutes={self.cell_minutes}"
            raise ConfigError(f"{told} may take longer than engine.job_minutes={self.job_minutes}; raise it, or lower engine.cells_per_job")

    @property
    def threads(self) -> int | None:
        """The cores of a job."""
        return self.cpus

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Cell]:
        """Run every cell and return what became of each, in their order."""
        return gathered(cells, audience, _Queue(self), per_load=self.cells_per_job)


class _Queue:
    def __init__(self, slurm: Slurm) -> None:
        self.slurm = slurm
        try:
            module = importlib.import_module("submitit")
        except ImportError as error:
            raise ConfigError('engine=slurm needs submitit: pip install "poisonbench[slurm]"') from error
        try:
            self.executor: submitit.AutoExecutor = module.AutoExecutor(folder=Path(slurm.logs).expanduser() / "%j", cluster=slurm.cluster)
        except RuntimeError as error:
            raise ConfigError(f"engine=slurm: {error}; on a machine without sbatch, engine.cluster=local runs the jobs here") from error
        asked = {"slurm_partition": slurm.partition, "slurm_setup": list(slurm.setup) or None, "slurm_array_parallelism": slurm.at_once}
        self.executor.update_parameters(
            name="poisonbench",
            timeout_min=slurm.job_minutes,
            cpus_per_task=slurm.cpus,
            gpus_per_node=slurm.gpus,
            mem_gb=slurm.memory_gb,
            **{name: value for name, value in asked.items() if value is not None},
        )

    def send(self, loads: Sequence[Sequence[tuple[str, ...]]]) -> list[Ticket]:
        with self.executor.batch():
            jobs = [self.executor.submit(work, load, self.slurm.cell_minutes, str(Path.cwd())) for load in loads]
        return [_Job(job) for job in jobs]


class _Job:
    def __init__(self, job: submitit.Job[list[Cell]]) -> None:
        self.job = job

    def ready(self) -> bool:
        return bool(self.job.done())

    def cells(self) -> list[Cell]:
        error = self.job.exception()
        if error is not None:
            raise Lost(f"job {self.job.job_id}: {str(error).strip().splitlines()[-1]}")
        cells: list[Cell] = self.job.result()
        return cells

    def cancel(self) -> None:
        self.job.cancel()
