"""Run cells as jobs of a Slurm cluster, with submitit."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from poisonbench.core.errors import ConfigError
from poisonbench.sweep.audience import Audience
from poisonbench.sweep.cell import Outcome
from poisonbench.sweep.engine import Lost, Ticket, gathered, work

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """One Slurm job per load, all loads as one job array; every node must be able to read `results_dir` and the data.

    Args:
        cluster: "slurm", or "local": the same jobs as processes of this machine, all at once, to test the settings.
        partition: of the cluster; None is the cluster's default.
        cpus: cores of a job, and also threads of a cell.
        gpus: GPUs of a job.
        memory_gb: of a job.
        job_minutes: longest time of a job, with all its cells.
        at_once: jobs that run at a time.
        cells_per_job: cells that one job runs one after the other.
        cell_minutes: longest time of one cell; None is without limit.
        setup: shell commands that run before a job starts, such as `module load cuda`.
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
        """Check the numbers."""
        if min(self.cpus, self.job_minutes, self.at_once, self.cells_per_job) < 1 or self.gpus < 0 or not self.memory_gb > 0:
            counts = f"cpus={self.cpus}, job_minutes={self.job_minutes}, at_once={self.at_once}, cells_per_job={self.cells_per_job}"
            others = f"gpus={self.gpus}, memory_gb={self.memory_gb}"
            raise ConfigError(f"engine: {counts}, {others}; give 1 or more of the first four, gpus of 0 or more, and memory_gb above 0")
        if self.cell_minutes is not None and not self.cell_minutes > 0:
            raise ConfigError(f"engine.cell_minutes={self.cell_minutes}: give a time above 0, or null for no limit")
        if self.cell_minutes is not None and self.cell_minutes * self.cells_per_job > self.job_minutes:
            cells = f"{self.cells_per_job} cells of at most engine.cell_minutes={self.cell_minutes}"
            raise ConfigError(f"{cells} may take longer than engine.job_minutes={self.job_minutes}; raise it, or lower engine.cells_per_job")

    @property
    def threads(self) -> int | None:
        """The cores of a job."""
        return self.cpus

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Outcome]:
        """Run every cell and return the outcome of each, in the order of `cells`."""
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
    def __init__(self, job: submitit.Job[list[Outcome]]) -> None:
        self.job = job

    def ready(self) -> bool:
        return bool(self.job.done())

    def cells(self) -> list[Outcome]:
        error = self.job.exception()
        if error is not None:
            raise Lost(f"job {self.job.job_id}: {str(error).strip().splitlines()[-1]}")
        cells: list[Outcome] = self.job.result()
        return cells

    def cancel(self) -> None:
        self.job.cancel()
