"""Loads that go to other machines: nothing is lost when a machine is."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from poisonbench.core.errors import ConfigError
from poisonbench.storage.record import read
from poisonbench.sweep.cell import DONE, FAILED, Outcome
from poisonbench.sweep.engine import TRIES, Lost, gathered
from poisonbench.sweep.processes import Processes
from poisonbench.sweep.ray import Ray
from poisonbench.sweep.slurm import Slurm
from tests.conftest import TINY

SLURM = {
    "cluster": "local",
    "partition": None,
    "cpus": 1,
    "gpus": 0,
    "memory_gb": 2.0,
    "job_minutes": 60,
    "at_once": 4,
    "cells_per_job": 2,
    "cell_minutes": None,
    "setup": (),
    "logs": "logs",
}
RAY = {"address": None, "cpus": 1, "gpus": 0.0, "cells_per_task": 1, "cell_minutes": None}


class Quiet:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def log(self, cell, level, message):
        pass

    def progress(self, cell, label, done, total):
        pass

    def finished(self, number, cell):
        self.heard.append(number)


class Ticket:
    """A load that ends at the second look, or whose machine is gone."""

    def __init__(self, load, gone: bool) -> None:
        self.load, self.gone, self.looks, self.cancelled = load, gone, 0, False

    def ready(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def cells(self) -> list[Outcome]:
        if self.gone:
            raise Lost("the node went away")
        return [Outcome(words=words, code=DONE, made=1) for words in self.load]

    def cancel(self) -> None:
        self.cancelled = True


class Machines:
    def __init__(self, losses: int, on: str = "b") -> None:
        self.losses, self.on, self.sent = losses, on, []

    def send(self, loads: Sequence[Sequence[tuple[str, ...]]]) -> list[Ticket]:
        tickets = []
        for load in loads:
            gone = self.losses > 0 and any(self.on in words for words in load)
            self.losses -= gone
            tickets.append(Ticket(load, gone))
        self.sent += tickets
        return tickets


def test_a_load_whose_machine_is_lost_goes_out_again_and_cells_keep_their_order():
    machines, audience = Machines(losses=TRIES - 1), Quiet()
    done = gathered([["a"], ["b"], ["c"], ["d"], ["e"]], audience, machines, per_load=2)
    assert [cell.words for cell in done] == [("a",), ("b",), ("c",), ("d",), ("e",)]
    assert all(cell.code == DONE for cell in done)
    assert sorted(audience.heard) == [0, 1, 2, 3, 4]
    assert [len(ticket.load) for ticket in machines.sent] == [2, 2, 1, 2, 2]


def test_cells_under_which_every_machine_is_lost_end_as_failed_records(tmp_path):
    words = [*TINY, f"results_dir={tmp_path}", "seed=100"]
    done = gathered([words], Quiet(), Machines(losses=TRIES, on="seed=100"), per_load=1)
    assert done[0].code == FAILED
    record = read(Path(done[0].path))
    assert record.status == "failed"
    assert "3 machines failed while they ran it: the node went away" in record.reason


def test_an_interrupt_takes_back_what_is_out(monkeypatch):
    class Interrupted(Quiet):
        def finished(self, number, cell):
            raise KeyboardInterrupt

    machines = Machines(losses=0)
    monkeypatch.setattr(Ticket, "ready", lambda ticket: ticket.load == [("a",)])
    with pytest.raises(KeyboardInterrupt):
        gathered([["a"], ["b"]], Interrupted(), machines, per_load=1)
    assert [ticket.cancelled for ticket in machines.sent] == [False, True]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Processes, {"workers": 0, "cell_minutes": None}),
        (Processes, {"workers": 1, "cell_minutes": 0.0}),
        (Slurm, {**SLURM, "cpus": 0}),
        (Slurm, {**SLURM, "cell_minutes": 31.0}),
        (Ray, {**RAY, "cells_per_task": 0}),
        (Ray, {**RAY, "gpus": -1.0}),
    ],
)
def test_numbers_that_mean_nothing_are_refused(kind, fields):
    with pytest.raises(ConfigError):
        kind(**fields)


def test_slurm_jobs_run_cells_here_by_submitits_local_executor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine, audience = Slurm(**{**SLURM, "logs": str(tmp_path / "logs")}), Quiet()
    done = engine.swept([[*TINY, f"seed={seed}", f"results_dir={tmp_path / 'results'}"] for seed in (100, 101, 102)], audience)
    assert [cell.code for cell in done] == [DONE] * 3
    assert [read(cell.path).spec["seed"] for cell in done] == [100, 101, 102]
    assert len(list((tmp_path / "logs").glob("[0-9]*"))) == 2


def test_slurm_without_slurm_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"engine.cluster=local"):
        Slurm(**{**SLURM, "cluster": "slurm", "logs": str(tmp_path)}).swept([list(TINY)], Quiet())
