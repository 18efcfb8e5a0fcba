"""A sweep loses nothing: every cell ends as a record, whatever happens to its process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from poisonbench.core.plugins import HOME
from poisonbench.storage import lease
from poisonbench.storage.record import Record, read
from tests.conftest import TINY
from tests.reliability import warm
from tests.reliability.test_command_line import python

CASUALTY = """
import os, resource, signal, time
from dataclasses import dataclass
from typing import ClassVar
import torch
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import NoGoal

@dataclass(frozen=True, kw_only=True)
class Casualty:
    VERSION: ClassVar[int] = 1
    how: str

    def poison(self, known, rng):
        if self.how == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            torch.zeros(1 << 34)
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "exit":
            os._exit(7)
        if self.how == "hang":
            time.sleep(600)
        if self.how == "diverged":
            raise FloatingPointError("the loss is not finite")
        return Poisoned(data=known.rows, mask=torch.zeros(len(known.rows), dtype=torch.bool), goal=NoGoal())
"""
REASONS = {
    "memory": "RuntimeError",
    "killed": "killed by SIGKILL, as happens when memory runs out",
    "segfault": "killed by SIGSEGV",
    "exit": "exited without an answer, with code 7",
    "hang": "took longer than cell_minutes=0.2",
    "diverged": "the loss is not finite",
}


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "my_lab" / "configs" / "attack").mkdir(parents=True)
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "configs" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "casualty.py").write_text(CASUALTY)
    tree = "_target_: poisonbench.core.attack.Attack\ndata:\n  _target_: my_lab.casualty.Casualty\n  how: none\n"
    (tmp_path / "my_lab" / "configs" / "attack" / "casualty.yaml").write_text(tree)
    return tmp_path


def records(folder: Path) -> list[Record]:
    return [read(path) for path in sorted(folder.glob("results/records/*.json"))]


def check_casualties(lab: Path, hows: list[str]) -> None:
    words = ["-m", "hydra.searchpath=[pkg://my_lab.configs]", "trust=my_lab.", *TINY, "attack=casualty", f"attack.data.how={','.join(hows)}"]
    done = python("-m", "poisonbench", *words, "cell_minutes=0.2", "workers=2", cwd=lab, PYTHONFAULTHANDLER="")
    assert done.returncode == 1, done.stderr
    told = {record.spec["attack"]["data"]["how"]: record for record in records(lab)}
    assert told.keys() == set(hows)
    assert {how for how, record in told.items() if record.status == "done"} == {"none", "fine"}
    for how, reason in REASONS.items():
        assert told[how].status == "failed"
        assert reason in told[how].reason
        assert f"attack.data.how={how}" in told[how].command
        assert "cell_minutes" not in told[how].command
    assert "8 of 8 cells done, 0 of them from the store, 6 failed or refused" in done.stdout
    assert not any(lease.holder(path) for path in lab.rglob("*.lease"))


HOWS = ["none", *REASONS, "fine"]


def test_six_casualties_end_none_of_the_others(lab):
    check_casualties(lab, HOWS)


@pytest.mark.slow
@pytest.mark.parametrize("order", range(20))
def test_casualties_in_any_order_end_none_of_the_others(lab, order):
    check_casualties(lab, random.Random(order).sample(HOWS, len(HOWS)))


WORDS = ["-m", *TINY, "attack=none,backdoor", "defense=none,spectral,random_drop", "seed=100,101", "threat.budget.rate=0.2"]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: json.loads(path.read_text())["result_digest"] for path in folder.glob("results/records/*.json")}


def values(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("results/store/*.safetensors")}


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """Return the folder of an undisturbed sweep."""
    folder: Path = tmp_path_factory.mktemp("calm")
    assert wait(warm.sweep(WORDS, folder)) == 0
    return folder


Start = Callable[[Sequence[str], Path], subprocess.Popen[bytes] | BaseProcess]


def wait(child: subprocess.Popen[bytes] | BaseProcess) -> int | None:
    if isinstance(child, subprocess.Popen):
        return child.wait()
    child.join()
    return child.exitcode


def fresh(words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    told = {**os.environ, "PYTHONPATH": str(HOME)}
    said = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "poisonbench", *words], cwd=folder, env=told, start_new_session=True, **said)


def check_kills(calm: Path, stormy: Path, after: Iterable[tuple[Start, float]]) -> int:
    """Return how many sweeps died of it; others had ended before."""
    died = 0
    for start, seconds in after:
        child = start(WORDS, stormy)
        time.sleep(seconds)
        os.killpg(child.pid, signal.SIGKILL)
        died += wait(child) == -signal.SIGKILL
        for path in stormy.glob("results/records/*.json"):
            read(path)  # whole, and as its digest says
    assert wait(start([*WORDS, "workers=2", "threads=1"], stormy)) == 0  # as the last one that was killed
    assert digests(stormy) == digests(calm)
    assert len(digests(calm)) == 12
    assert values(stormy) == values(calm)
    return died


def test_a_sweep_killed_six_times_goes_on_as_if_nothing_had_happened(calm, tmp_path):
    assert check_kills(calm, tmp_path, [(fresh, 3.0), *((warm.sweep, seconds) for seconds in (0.3, 0.6, 0.9, 1.2)), (fresh, 4.5)]) > 3


@pytest.mark.slow
@pytest.mark.parametrize("storm", range(100))
def test_a_sweep_killed_a_thousand_times_goes_on_as_if_nothing_had_happened(calm, tmp_path, storm):
    dice = random.Random(storm)
    assert check_kills(calm, tmp_path, [(warm.sweep, dice.uniform(0.0, 1.5)) for _ in range(10)]) == 10


def test_workers_die_with_the_one_who_asks(tmp_path):
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background starts deaf to interrupts
    told = {**os.environ, "PYTHONPATH": str(HOME)}
    words = [sys.executable, "-m", "poisonbench", "-m", "attack=backdoor", "defense=spectral", "learner.epochs=400", "seed=100,101", "threads=1"]
    child = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told, preexec_fn=heard)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("results/store/*.lease")) and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("word", ["workers=0", "workers=many", "cell_minutes=0", "cell_minutes=soon"])
def test_numbers_that_mean_nothing_are_refused(tmp_path, word):
    done = python("-m", "poisonbench", "-m", *TINY, "seed=100,101", word, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
