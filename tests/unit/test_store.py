import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.core.plugins import OWN
from poisonbench.store import Store


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
