import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poisonbench.core.files import DEPTH
from poisonbench.core.plugins import OWN
from poisonbench.storage import lease
from poisonbench.storage.store import Store
from poisonbench.sweep.processes import SERVER

TOO_DEEP = f'{{"pid": {2**22 + 1}, "host": "{socket.gethostname()}", "started": "1", "more": {"[" * DEPTH}{"]" * DEPTH}}}'.encode()  # of a dead process


@dataclass(frozen=True, eq=False)
class Value:
    numbers: Tensor


def write(path: Path, **told: object) -> None:
    own = {"pid": os.getpid(), "host": socket.gethostname(), "started": lease._started(os.getpid())}
    path.write_text(json.dumps(own | told))


def test_a_lease_is_held_until_it_is_given_up(tmp_path):
    path = tmp_path / "a.lease"
    mine = lease.take(path)
    assert mine
    assert not lease.take(path)
    assert lease.holder(path) == f"process {os.getpid()} on {socket.gethostname()}"
    with lease.held([mine]):
        pass
    assert lease.holder(path) is None
    assert lease.take(path)


@pytest.mark.parametrize("told", [{"pid": 2**22 + 1}, {"started": "1"}])
def test_a_lease_of_a_dead_process_or_of_another_with_its_number_is_void(tmp_path, told):
    path = tmp_path / "a.lease"
    write(path, **told)
    assert lease.holder(path) is None
    assert lease.take(path)


def test_a_lease_of_another_machine_lives_as_long_as_its_heart_beats(tmp_path):
    path = tmp_path / "a.lease"
    write(path, host="elsewhere", pid=1)
    assert lease.holder(path) == "process 1 on elsewhere"
    assert not lease.take(path)
    before = time.time() - lease.STALE - 1
    os.utime(path, (before, before))
    assert lease.holder(path) is None
    assert lease.take(path)


def test_a_lease_that_has_just_been_made_counts(tmp_path):
    (tmp_path / "a.lease").touch()
    assert lease.holder(tmp_path / "a.lease") == "a process that has just begun"


@pytest.mark.parametrize("text", [b"\xff", b"[]", b"{}", b'{"pid": "x", "host": "", "started": ""}', TOO_DEEP])
def test_a_lease_of_another_form_counts_too(tmp_path, text):
    (tmp_path / "a.lease").write_bytes(text)
    assert lease.holder(tmp_path / "a.lease") == "a process that has just begun"


def test_the_heart_beats_while_a_lease_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    path = tmp_path / "a.lease"
    mine = lease.take(path)
    assert mine
    os.utime(path, (0, 0))
    with lease.held([mine]):
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < 10


def test_a_failed_value_gives_its_lease_up(tmp_path):
    def fail() -> Value:
        raise RuntimeError("no")

    store = Store(tmp_path, trusted=(*OWN, __name__))
    with pytest.raises(RuntimeError):
        store.memo("fit", (1,), fail)
    assert not list(tmp_path.glob("*.lease"))


def test_folders_made_for_a_lease_go_with_it_unless_something_else_lies_there(tmp_path):
    mine = lease.take(tmp_path / "results" / "store" / "a.lease")
    assert mine
    mine.give_up()
    assert not list(tmp_path.iterdir())
    mine = lease.take(tmp_path / "results" / "store" / "a.lease")
    assert mine
    (tmp_path / "results" / "other").touch()
    mine.give_up()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["other"]


def work(folder: str, number: int, values: int = 20) -> None:
    """Ask for the same values as all others do, in an order of one's own; leave a mark for each that was made here."""
    store = Store(Path(folder), trusted=(*OWN, __name__))
    for step in range(values):
        part = (step * 3 + number) % values

        def make(part: int = part) -> Value:
            (Path(folder) / f"made-{part}-{number}").touch()
            time.sleep(0.02)
            return Value(numbers=torch.full((50,), part))

        assert store.memo("fit", (part,), make).numbers[0] == part


def test_four_processes_make_every_value_once(tmp_path):
    processes = [SERVER.Process(target=work, args=(str(tmp_path), number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(path.name.split("-")[1] for path in tmp_path.glob("made-*")) == sorted(str(part) for part in range(20))
    assert not list(tmp_path.glob("*.lease"))


@pytest.mark.slow
def test_sixteen_processes_four_of_which_are_killed_lose_no_value(tmp_path):
    processes = [SERVER.Process(target=work, args=(str(tmp_path), number, 500)) for number in range(16)]
    for process in processes:
        process.start()
    time.sleep(15)
    for process in processes[:4]:
        process.kill()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes[4:]] == [0] * 12
    store = Store(tmp_path, trusted=(*OWN, __name__))
    for part in range(500):
        assert store.memo("fit", (part,), lambda: pytest.fail("a value is missing")).numbers[0] == part


def stuck(folder: str) -> None:
    def make() -> Value:
        (Path(folder) / "begun").touch()
        time.sleep(60)
        return Value(numbers=torch.zeros(1))

    Store(Path(folder), trusted=(*OWN, __name__)).memo("fit", (1,), make)


def test_a_killed_process_keeps_nobody_waiting(tmp_path):
    process = SERVER.Process(target=stuck, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    assert process.pid is not None
    assert list(tmp_path.glob("*.lease"))
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    start = time.monotonic()
    value = Store(tmp_path, trusted=(*OWN, __name__)).memo("fit", (1,), lambda: Value(numbers=torch.ones(1)))
    assert value.numbers.item() == 1
    assert time.monotonic() - start < 5


def test_equal_values_of_one_call_are_made_once(tmp_path):
    made: list[int] = []

    def make(places: list[int]) -> list[Value]:
        made.extend(places)
        return [Value(numbers=torch.ones(1)) for _ in places]

    found = Store(tmp_path, trusted=(*OWN, __name__)).memo_many("fit", [(1,), (1,), (2,)], make)
    assert made == [0, 2]
    assert len(found) == 3


def test_one_thread_keeps_all_leases_of_a_process_alive_past_their_expiry(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "STALE", 0.5)
    leases = [taken for name in "abc" if (taken := lease.take(tmp_path / f"{name}.lease"))]
    with lease.held(leases[:1]), lease.held(leases[1:]):
        assert [thread.name for thread in threading.enumerate()].count("leases") == 1
        time.sleep(1)
        assert all(lease.holder(taken.path) for taken in leases)
    assert not list(tmp_path.iterdir())
    alone = lease.take(tmp_path / "a.lease")
    assert alone
    time.sleep(1)
    assert lease.holder(alone.path) is None  # nothing beats for it


def test_the_heart_stops_when_no_lease_is_left_and_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    for _ in range(2):
        mine = lease.take(tmp_path / "a.lease")
        assert mine
        with lease.held([mine]):
            assert [thread.name for thread in threading.enumerate()].count("leases") == 1
        deadline = time.monotonic() + 5
        while (left := [thread.name for thread in threading.enumerate()].count("leases")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert left == 0


def test_a_lease_that_cannot_be_touched_stops_no_other_ones_heart(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    first, second = lease.take(tmp_path / "a.lease"), lease.take(tmp_path / "b.lease")
    assert first
    assert second
    touch = os.utime

    def refuse(path: Path) -> None:
        if path == first.path:
            raise PermissionError
        touch(path)

    with lease.held([first, second]):
        monkeypatch.setattr(os, "utime", refuse)
        for _ in range(2):
            touch(second.path, (0, 0))
            time.sleep(0.3)
            assert time.time() - second.path.stat().st_mtime < 10


def beating(path: str) -> None:
    """Hold a lease in a forked process, whose parent has held one too."""
    lease.BEAT = 0.05
    mine = lease.take(Path(path))
    assert mine
    with lease.held([mine]):
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert time.time() - Path(path).stat().st_mtime < 10


def parent(folder: str) -> None:
    lease.BEAT = 0.05
    mine = lease.take(Path(folder) / "parent.lease")
    assert mine
    with lease.held([mine]):
        child = multiprocessing.get_context("fork").Process(target=beating, args=(f"{folder}/child.lease",))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert lease.holder(mine.path)


def test_a_forked_process_has_a_heart_of_its_own(tmp_path):
    process = SERVER.Process(target=parent, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_who_waits_has_the_value_soon_after_it_appears(tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    looks = iter(["somebody"] * 30)
    monkeypatch.setattr(lease, "holder", lambda path: next(looks, None))
    Store(tmp_path)._wait("fit-0", "fit")
    assert pauses[0] <= 0.001
    for number in range(1, len(pauses)):  # at most half as long again as it has waited, and no pause beyond ASK
        assert pauses[number] <= max(0.5 * sum(pauses[:number]), pauses[0]) + 0.001001
        assert pauses[number] >= pauses[number - 1]
    assert pauses[-1] == lease.ASK
