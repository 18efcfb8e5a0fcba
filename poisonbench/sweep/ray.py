"""Run cells as tasks of a Ray cluster."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from poisonbench.core.errors import ConfigError
from poisonbench.sweep.audience import Audience
from poisonbench.sweep.cell import Outcome
from poisonbench.sweep.engine import Lost, Ticket, gathered, work


@dataclass(frozen=True, kw_only=True)
class Ray:
    """One Ray task per load; every node must be able to read `results_dir` and the data.

    Args:
        address: of a running cluster, such as "auto" or "10.0.0.1:6379"; None starts one on this machine.
        cpus: cores of a task, and also threads of a cell.
        gpus: GPUs of a task; with 0.5 two tasks share one.
        cells_per_task: cells that one task runs one after the other.
        cell_minutes: longest time of one cell; None is without limit.
    """

    address: str | None
    cpus: int
    gpus: float
    cells_per_task: int
    cell_minutes: float | None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.cpus, self.cells_per_task) < 1 or self.gpus < 0 or (self.cell_minutes is not None and not self.cell_minutes > 0):
            given = f"cpus={self.cpus}, cells_per_task={self.cells_per_task}, gpus={self.gpus}, cell_minutes={self.cell_minutes}"
            raise ConfigError(f"engine: {given}; give cpus and cells_per_task of 1 or more, gpus of 0 or more, cell_minutes above 0 or null")

    @property
    def threads(self) -> int | None:
        """The cores of a task."""
        return self.cpus

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Outcome]:
        """Run every cell and return the outcome of each, in the order of `cells`."""
        with _Cluster(self) as cluster:
            return gathered(cells, audience, cluster, per_load=self.cells_per_task)


class _Cluster:
    def __init__(self, asked: Ray) -> None:
        self.asked = asked
        if "RAY_AUTH_TOKEN" in os.environ or Path("~/.ray/auth_token").expanduser().is_file():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # since Ray 2.59 a cluster requires its token from every client
        try:
            self.ray: ModuleType = importlib.import_module("ray")
        except ImportError as error:
            raise ConfigError('engine=ray needs Ray: pip install "poisonbench[ray]"') from error

    def __enter__(self) -> _Cluster:
        try:
            self.ray.init(address=self.asked.address, include_dashboard=False if self.asked.address is None else None, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError, self.ray.exceptions.RayError) as error:
            raise ConfigError(f"engine.address={self.asked.address}: no Ray cluster answers there ({str(error).strip().splitlines()[0]})") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def send(self, loads: Sequence[Sequence[tuple[str, ...]]]) -> list[Ticket]:
        task = self.ray.remote(num_cpus=self.asked.cpus, num_gpus=self.asked.gpus, max_retries=0)(work)
        return [_Task(self.ray, task.remote(load, self.asked.cell_minutes, str(Path.cwd()))) for load in loads]


class _Task:
    def __init__(self, ray: ModuleType, promise: object) -> None:
        self.ray, self.promise = ray, promise

    def ready(self) -> bool:
        return bool(self.ray.wait([self.promise], timeout=0)[0])

    def cells(self) -> list[Outcome]:
        try:
            cells: list[Outcome] = self.ray.get(self.promise)
        except self.ray.exceptions.RayError as error:
            raise Lost(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
        return cells

    def cancel(self) -> None:
        self.ray.cancel(self.promise, force=True)
