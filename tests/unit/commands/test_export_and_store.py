import json
import os
import time

import pytest
from safetensors.torch import load_file

from poisonbench.cli import entry
from poisonbench.record import read
from tests.conftest import TINY

WORDS = [*TINY, "attack=backdoor", "threat.budget.rate=0.2", "task.trusted=0"]


@pytest.fixture
def record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(WORDS) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    capsys.readouterr()
    return path


def test_what_was_exported_is_what_was_trained_on(record, tmp_path, capsys):
    assert entry(["export", str(record), "out"]) == 0
    assert "400 rows, 80 of them poisoned" in capsys.readouterr().out
    train, mask = load_file("out/train.safetensors"), load_file("out/mask.safetensors")["mask"]
    assert len(train["inputs"]) == len(mask) == 400
    assert int(mask.sum()) == 80
    assert (train["labels"][mask] == 0).all()
    told = read(record)
    words = [word for word in WORDS if not word.startswith(("task=", "attack=", "threat."))]
    assert entry([*words, "task=poisoned", "task.root=out", "results_dir=again"]) == 0
    (again,) = tmp_path.glob("again/records/*.json")
    assert read(again).metrics["c_acc"] == told.undefended["c_acc"]
    assert set(load_file("out/victim.safetensors"))


def test_a_changed_export_is_refused(record, tmp_path, capsys):
    assert entry(["export", str(record), "out"]) == 0
    with open("out/train.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    capsys.readouterr()
    assert entry([*TINY[1:], "task=poisoned", "task.root=out"]) == 2
    assert "train is not what `export` wrote" in capsys.readouterr().err
    assert entry([*TINY[1:], "task=poisoned", "task.root=."]) == 2
    assert "holds no training set" in capsys.readouterr().err


def test_a_record_without_poison_has_nothing_to_export(record, tmp_path, capsys):
    assert entry([*TINY, "attack=none", "results_dir=clean"]) == 0
    (path,) = tmp_path.glob("clean/records/*.json")
    capsys.readouterr()
    assert entry(["export", str(path)]) == 2
    assert "poisons no rows" in capsys.readouterr().err
    assert entry(["export"]) == 2


def test_the_store_is_listed_and_pruned(record, tmp_path, capsys):
    assert entry(["store", "list"]) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in ("fit", "poison", "scores", "MiB"))
    assert entry(["store", "prune", "days=1"]) == 0
    assert "0 values removed" in capsys.readouterr().out
    store = tmp_path / "results" / "store"
    old = time.time() - 3 * 86_400
    for path in store.glob("fit-*"):
        os.utime(path, (old, old))
    (store / ".left.tmp").touch()
    os.utime(store / ".left.tmp", (old, old))
    (store / "fit-dead.lease").write_text(json.dumps({"pid": 4194305, "host": os.uname().nodename, "started": "1"}))
    assert entry(["store", "prune", "days=2"]) == 0
    assert "2 values removed" in capsys.readouterr().out
    assert not list(store.glob("fit-*"))
    assert not list(store.glob(".*.tmp"))
    assert entry(WORDS) == 0
    assert len(list(store.glob("fit-*.safetensors"))) == 2


@pytest.mark.parametrize("words", [["prune"], ["prune", "days=soon"], ["prune", "days=-1"], ["empty"]])
def test_other_words_are_one_sentence(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert entry(["store", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
