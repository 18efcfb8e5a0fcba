import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.files import DEPTH, file_digest, seal, sealed
from poisonbench.core.plugins import OWN
from poisonbench.storage import lease
from poisonbench.storage.store import SMALL, Store, write_tensors
from poisonbench.sweep.processes import SERVER


@dataclass(frozen=True, eq=False)
class Value:
    numbers: Tensor
    note: str


def counting(calls: list[int]):
    def make() -> Value:
        calls.append(1)
        return Value(numbers=torch.arange(3), note="made")

    return make


def mine(tmp_path) -> Store:
    return Store(tmp_path, trusted=(*OWN, __name__))


def test_a_value_is_made_once_and_found_by_another_process_later(tmp_path):
    calls: list[int] = []
    first = mine(tmp_path).memo("fit", (1, "a"), counting(calls))
    store = mine(tmp_path)
    second = store.memo("fit", (1, "a"), counting(calls))
    assert calls == [1]
    assert torch.equal(first.numbers, second.numbers)
    assert second.note == "made"
    assert [visit.made for visit in store.visits] == [False]


def test_other_parts_or_another_stage_are_another_value(tmp_path):
    calls: list[int] = []
    for stage, parts in (("fit", (1,)), ("fit", (2,)), ("judge", (1,))):
        mine(tmp_path).memo(stage, parts, counting(calls))
    assert len(calls) == 3


def test_visits_come_in_the_order_asked_whatever_lay_there_before(tmp_path):
    calls: list[int] = []
    make = counting(calls)
    empty, half = mine(tmp_path / "empty"), mine(tmp_path / "half")
    mine(tmp_path / "half").memo("fit", (2,), make)
    for store in (empty, half):
        store.memo_many("fit", [(1,), (2,), (3,)], lambda places: [make() for _ in places])
    assert [visit.key for visit in half.visits] == [visit.key for visit in empty.visits]
    assert [visit.made for visit in half.visits] == [True, False, True]


def test_a_damaged_file_is_reported_and_made_again(tmp_path, caplog):
    calls: list[int] = []
    mine(tmp_path).memo("fit", (1,), counting(calls))
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="poisonbench"):
        value = mine(tmp_path).memo("fit", (1,), counting(calls))
    assert len(calls) == 2
    assert value.numbers.tolist() == [0, 1, 2]
    assert "damaged" in caplog.text
    assert mine(tmp_path).memo("fit", (1,), counting(calls)).note == "made"
    assert len(calls) == 2


@pytest.mark.parametrize("told", [b"", b"\xff\xfe", b"{digest}", b"{digest} nan", b"{digest} -1.0", b"{digest} soon"])
def test_a_value_whose_digest_is_damaged_is_made_again(tmp_path, told):
    calls: list[int] = []
    mine(tmp_path).memo("fit", (1,), counting(calls))
    (path,) = tmp_path.glob("*.sha256")
    path.write_bytes(told.replace(b"{digest}", path.read_bytes().split()[0]))
    store = mine(tmp_path)
    store.memo("fit", (1,), counting(calls))
    assert len(calls) == 2
    assert store.visits[-1].made


def test_a_file_that_holds_no_value_is_made_again_though_its_digest_is_right(tmp_path):
    calls: list[int] = []
    mine(tmp_path).memo("fit", (1,), counting(calls))
    (path,) = tmp_path.glob("*.safetensors")
    for content in (b"", b"\xff" * 100, path.read_bytes()[:-5]):
        path.write_bytes(content)
        seal(path, 1.0)
        mine(tmp_path).memo("fit", (1,), counting(calls))
    assert len(calls) == 4


def test_a_value_without_its_digest_is_not_trusted(tmp_path):
    calls: list[int] = []
    mine(tmp_path).memo("fit", (1,), counting(calls))
    for path in tmp_path.glob("*.sha256"):
        path.unlink()
    mine(tmp_path).memo("fit", (1,), counting(calls))
    assert len(calls) == 2


def test_a_failure_keeps_nothing(tmp_path):
    store = mine(tmp_path)
    calls: list[int] = []

    def broken() -> Value:
        raise ZeroDivisionError

    try:
        store.memo("fit", (1,), broken)
    except ZeroDivisionError:
        store.memo("fit", (1,), counting(calls))
    assert calls == [1]


def test_nothing_and_no_tensors_can_be_kept(tmp_path):
    assert mine(tmp_path).memo("judge", (1,), lambda: None) is None
    assert mine(tmp_path).memo("judge", (1,), lambda: 5) is None


def test_a_store_holds_what_lies_there_and_nothing_is_not_enough(tmp_path):
    store = mine(tmp_path)
    store.memo("fit", (1,), counting([]))
    name = store.visits[0].key
    assert name.startswith("fit-")
    assert len(name) == len("fit-") + 24
    assert store.holds([name])
    assert not store.holds([name, "fit-0"])
    assert not store.holds([])


def test_a_value_is_called_by_its_stage_and_its_label(tmp_path, caplog):
    store = mine(tmp_path)
    with caplog.at_level(logging.INFO, logger="poisonbench"):
        store.memo("fit", (1,), counting([]), label="baseline")
        store.memo("fit", (1,), counting([]), label="again")
        store.memo("judge", (1,), counting([]))
    assert [visit.stage for visit in store.visits] == ["fit baseline", "fit again", "judge"]
    assert "fit baseline: made in" in caplog.text
    assert "fit again: from the store" in caplog.text


def test_a_process_alone_takes_no_lease(tmp_path):
    store = Store(tmp_path, trusted=(*OWN, __name__), alone=True)

    def make() -> Value:
        assert not list(tmp_path.glob("*.lease"))
        return counting([])()

    assert store.memo("fit", (1,), make).note == "made"


def test_a_value_that_another_process_is_making_is_waited_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(lease, "ASK", 0.01)
    first, others = mine(tmp_path), []

    def make() -> Value:
        def wait() -> None:
            with caplog.at_level(logging.INFO, logger="poisonbench"):
                others.append(mine(tmp_path).memo("fit", (1,), lambda: pytest.fail("made twice"), label="mine"))

        monkeypatch.setattr(lease, "take", lambda path: None)  # a lease of this very process would be granted
        thread = threading.Thread(target=wait)
        thread.start()
        deadline = time.monotonic() + 5
        while "is computing it" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        threads.append(thread)
        return counting([])()

    threads: list[threading.Thread] = []
    first.memo("fit", (1,), make)
    threads[0].join(5)
    assert [value.note for value in others] == ["made"]
    assert re.search(r"fit mine: .* is computing it \(fit-[0-9a-f]{24}\)", caplog.text)


def test_a_value_that_is_told_too_deep_is_made_again_though_its_digest_is_right(tmp_path):
    calls: list[int] = []
    mine(tmp_path).memo("fit", (1,), counting(calls))
    (path,) = tmp_path.glob("*.safetensors")
    for depth, made in ((DEPTH, 1), (DEPTH + 1, 2)):
        write_tensors(path, {}, {"tree": '{"items": [' * (depth // 2) + "[" * (depth % 2) + "]" * (depth % 2) + "]}" * (depth // 2)})
        seal(path, 1.0)
        mine(tmp_path).memo("fit", (1,), counting(calls))
        assert len(calls) == made


KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)


@pytest.mark.parametrize("small", [0, SMALL])  # in pieces, in one piece
def test_the_first_run_sees_what_every_later_one_reads_to_the_bit(tmp_path, monkeypatch, small):
    monkeypatch.setattr("poisonbench.storage.store.SMALL", small)
    made = {
        **{str(kind): (torch.arange(24) % 7).to(kind).reshape(2, 3, 4).transpose(0, 2) for kind in KINDS},
        "none": torch.zeros(0, 3),
        "one": torch.tensor(-0.0),
        "odd": torch.tensor([float("nan"), float("inf")]),
        "rest": ("\u00e9\"'\\", 1, 0.1, None, True, {}),
    }
    first = mine(tmp_path).memo("fit", (1,), lambda: made)
    later = mine(tmp_path).memo("fit", (1,), lambda: pytest.fail("made twice"))
    assert first.keys() == later.keys() == made.keys()
    assert first["rest"] == later["rest"] == made["rest"]
    for name in made.keys() - {"rest"}:
        for tensor in (first[name], later[name]):
            assert tensor.dtype == made[name].dtype
            assert tensor.stride() == later[name].stride()
            assert torch.equal(tensor.nan_to_num(0.5), made[name].nan_to_num(0.5))
            assert tensor.signbit().tolist() == made[name].signbit().tolist()


def test_a_value_is_not_the_tensors_it_was_made_of(tmp_path):
    tensor = torch.zeros(3)
    given = mine(tmp_path).memo("fit", (1,), lambda: {"tensor": tensor})["tensor"]
    tensor += 1
    assert given.tolist() == [0, 0, 0]
    given += 2
    assert mine(tmp_path).memo("fit", (1,), lambda: pytest.fail("made twice"))["tensor"].tolist() == [0, 0, 0]


def test_a_value_in_one_piece_and_one_in_pieces_are_the_same_files(tmp_path, monkeypatch):
    files = []
    for small in (0, SMALL):  # with 0 each is written as it was before there were small ones
        monkeypatch.setattr("poisonbench.storage.store.SMALL", small)
        mine(tmp_path / str(small)).memo("fit", (1,), counting([]))
        (path,) = (tmp_path / str(small)).glob("*.safetensors")
        assert sealed(path)[0] == file_digest(path)
        files.append((path.name, path.read_bytes()))
    assert files[0] == files[1]
    for small, folder in ((0, str(SMALL)), (SMALL, "0")):  # each reads what the other has written
        monkeypatch.setattr("poisonbench.storage.store.SMALL", small)
        assert mine(tmp_path / folder).memo("fit", (1,), lambda: pytest.fail("made twice")).note == "made"


def die(folder: str, call: str, count: int) -> None:
    """Keep a value, and be gone just before the call of that number."""
    real, calls = getattr(os, call), []

    def counted(*words: object) -> object:
        calls.append(1)
        return os._exit(9) if len(calls) == count else real(*words)

    setattr(os, call, counted)
    Store(Path(folder)).memo("fit", (1,), lambda: {"tensor": torch.ones(3)})


@pytest.mark.parametrize(("call", "count"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2), ("fsync", 3), ("unlink", 1)])
def test_a_writer_that_dies_at_any_step_leaves_no_value_or_a_whole_one(tmp_path, caplog, call, count):
    process = SERVER.Process(target=die, args=(str(tmp_path), call, count))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    asked = Store(tmp_path)
    start = time.monotonic()
    assert asked.memo("fit", (1,), lambda: {"tensor": torch.ones(3)})["tensor"].tolist() == [1, 1, 1]
    assert asked.visits[0].made == ((call, count) not in (("fsync", 3), ("unlink", 1)))  # both files lie there before the folder is flushed
    assert time.monotonic() - start < 5
    assert "damaged" not in caplog.text


def test_a_value_that_cannot_be_read_again_is_not_written(tmp_path):
    with pytest.raises(ConfigError):
        Store(tmp_path).memo("fit", (1,), counting([]))  # a class that nobody trusts
    assert not list(tmp_path.iterdir())


def test_a_value_of_another_version_is_computed_again(tmp_path, caplog):
    store = mine(tmp_path)
    store.memo("fit", ("key",), counting([]))
    (path,) = tmp_path.glob("fit-*.safetensors")
    write_tensors(path, {}, {"tree": '{"class": "poisonbench.nowhere.Thing", "fields": {}}'})
    seal(path, 0.0)
    calls: list[int] = []
    assert mine(tmp_path).memo("fit", ("key",), counting(calls)).note == "made"
    assert calls == [1]
    assert "written by another version" in caplog.text
