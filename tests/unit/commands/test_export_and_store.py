import dataclasses
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import file_digest
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.record import read
from poisonbench.storage.store import Store, write_tensors
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


def test_an_export_says_how_far_it_is(record, monkeypatch, capsys):
    monkeypatch.setattr("poisonbench.terminal.PLAIN_SECONDS", 0.0)
    assert entry(["export", str(record), "out", "results_dir=empty"]) == 0
    assert re.search(r"undefended.*: 4/4", capsys.readouterr().out)


def exported(words, tmp_path, capsys):
    assert entry([*words, "results_dir=whole"]) == 0
    (path,) = tmp_path.glob("whole/records/*.json")
    assert entry(["export", str(path), "out", "results_dir=whole"]) == 0
    capsys.readouterr()
    experiment = assemble(tree_of(words), Store(tmp_path / "whole" / "store"))
    return experiment, Line(experiment=experiment, store=Store(tmp_path / "whole" / "store")).strike()


def again(*words):
    return assemble(tree_of([*TINY[1:], "task=poisoned", "task.root=out", *words]), Store(Path("again"))).task


def test_an_export_is_trained_with_the_threads_of_its_record(record, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr("poisonbench.runner.experiment.set_threads", asked.append)
    assert entry(["export", str(record), "out"]) == 0
    assert asked == [read(record).provenance["threads"]] == [1]


def test_another_model_than_that_of_the_record_is_not_handed_on(record, capsys):
    told = read(record)
    other = dataclasses.replace(told, undefended={**told.undefended, "c_acc": 0.5}).write(record.parent)
    assert entry(["export", str(other), "out"]) == 2
    assert "the C-Acc of the undefended model is 0.5 in the record and" in capsys.readouterr().err
    assert not Path("out").exists()


def test_trusted_and_public_rows_are_those_of_the_run_and_never_poisoned_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "attack=backdoor", "threat.budget.rate=0.2", "task.trusted=0.05", "task.public=0.1"]
    experiment, poisoned = exported(words, tmp_path, capsys)
    task = again()
    for name in ("trusted", "public", "test"):
        assert torch.equal(getattr(task, name).inputs, getattr(experiment.task, name).inputs)
        assert torch.equal(getattr(task, name).labels, getattr(experiment.task, name).labels)
    assert (len(task.trusted), len(task.public)) == (20, 40)
    assert torch.equal(task.train.inputs, poisoned.data.inputs)
    stamped = (task.trusted.inputs[:, :, -3:, -3:] == 255).flatten(1).all(1)
    assert not stamped.any()
    with pytest.raises(
        ConfigError,
        match=r"task\.trusted=0\.05, task\.public=0\.0: rows of out may be poisoned.*give task\.trusted=0 task\.public=0: the trusted and public rows",
    ):
        again("task.trusted=0.05")
    with pytest.raises(ConfigError, match="may be poisoned"):
        again("task.public=0.05")


def test_a_folder_of_format_1_is_read_without_trusted_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exported([*TINY, "attack=backdoor", "threat.budget.rate=0.2"], tmp_path, capsys)
    told = json.loads(Path("out/task.json").read_text())
    assert told["format"] == 5
    del told["sha256"]["trusted"]
    Path("out/trusted.safetensors").unlink()
    Path("out/task.json").write_text(json.dumps(told | {"format": 1}))
    assert (len(again().train), len(again().trusted), len(again().public)) == (380, 0, 0)
    with pytest.raises(ConfigError, match="written before exports contained trusted rows: export the record again"):
        again("task.trusted=0.05")
    Path("out/task.json").write_text(json.dumps(told | {"format": 6}))
    with pytest.raises(DataError, match=r"exported by another version \(format 6; this version reads formats 1 to 5\)"):
        again()


@pytest.mark.parametrize("words", [["attack=word_trigger", "learner=naive_bayes"], ["task=breast_cancer", "attack=label_flip"]], ids=["texts", "table"])
def test_texts_and_tables_are_exported_with_their_form(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    experiment, struck = exported(words, tmp_path, capsys)
    task = again()
    assert task.train.form == experiment.task.train.form
    assert torch.equal(task.train.inputs, struck.data.inputs)
    assert torch.equal(task.trusted.inputs, experiment.task.trusted.inputs)
    told = json.loads(Path("out/task.json").read_text())
    told["columns"]["train"]["inputs"]["fields"]["form"]["class"] = "poisonbench.storage.store.Store"
    Path("out/task.json").write_text(json.dumps(told))
    with pytest.raises((ConfigError, DataError), match=r"poisonbench\.storage\.store\.Store"):
        again()


FACTS = ["attack=rag", "task.questions=20", "task.passages=200", "task.split_seed=100", "threat.budget.count=null", "threat.targets=2", "threads=1"]
READ = ["learner=retrieval", "task=poisoned", "task.root=out", "task.public=0", "threads=1"]


def test_poisoned_passages_are_read_back_with_their_questions_and_answer_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment, struck = exported(FACTS, tmp_path, capsys)
    task, before = assemble(tree_of(READ), Store(Path("again"))).task, experiment.task
    assert torch.equal(task.train.inputs, struck.data.inputs)
    assert task.train.num_classes == 1
    for split in ("test", "trusted", "public"):
        now, then = getattr(task, split), getattr(before, split)
        assert now.schema == then.schema
        assert all(torch.equal(column, then.columns[name]) for name, column in now.columns.items() if name not in ("ids", "owners"))
    assert torch.equal(task.test.ask.table, before.test.ask.table)
    assert torch.equal(task.test.ask.of, before.test.ask.of)
    (told,) = tmp_path.glob("whole/records/*.json")
    assert entry([*READ, "attack=none", "results_dir=again"]) == 0
    (again,) = tmp_path.glob("again/records/*.json")
    assert int(load_file("out/mask.safetensors")["mask"].sum()) == 10
    assert read(again).metrics["c_acc"] < read(told).undefended["c_acc"]  # the two poisoned questions count here


def test_answers_that_do_not_belong_to_the_exported_questions_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exported(FACTS, tmp_path, capsys)
    answers = load_file("out/answers.safetensors")
    write_tensors(Path("out/answers.safetensors"), {**answers, "of": answers["of"][1:].contiguous()})
    with pytest.raises(DataError, match="answers differs from what `export` wrote"):
        assemble(tree_of(READ), Store(Path("again")))
    told = json.loads(Path("out/task.json").read_text())
    told["sha256"]["answers"] = file_digest(Path("out/answers.safetensors"))
    Path("out/task.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match="does not contain their candidate answers; export the record again"):
        assemble(tree_of(READ), Store(Path("again")))


def test_a_folder_of_format_4_has_the_same_columns_for_all_splits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment, _ = exported(["attack=word_trigger", "learner=naive_bayes"], tmp_path, capsys)
    told = json.loads(Path("out/task.json").read_text())
    Path("out/task.json").write_text(json.dumps(told | {"format": 4, "columns": told["columns"]["train"]}))
    assert torch.equal(again().test.inputs, experiment.task.test.inputs)
    assert again().test.form == experiment.task.test.form


def test_changed_trusted_rows_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exported([*TINY, "attack=backdoor", "threat.budget.rate=0.2"], tmp_path, capsys)
    with open("out/trusted.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    with pytest.raises(DataError, match="trusted differs from what `export` wrote"):
        again()
    Path("out/trusted.safetensors").unlink()
    with pytest.raises(DataError, match="contains no training set"):
        again()


def test_neither_numbers_nor_places_say_which_exported_rows_were_injected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exported([*TINY, "attack=canaries", "threat.budget.rate=0.4"], tmp_path, capsys)
    train, mask = load_file("out/train.safetensors"), load_file("out/mask.safetensors")["mask"]
    injected = int(mask.sum())
    assert injected > 40
    assert train["ids"].tolist() == list(range(380 + injected))
    places = mask.nonzero()[:, 0].double()
    rows = len(mask)
    assert abs(float(places.mean()) - (rows - 1) / 2) < 4 * rows / (12 * injected) ** 0.5  # uniform; 4 deviations; at the end it would be 7 off


def test_a_changed_export_is_refused(record, tmp_path, capsys):
    assert entry(["export", str(record), "out"]) == 0
    with open("out/train.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    capsys.readouterr()
    assert entry([*TINY[1:], "task=poisoned", "task.root=out"]) == 2
    assert "train differs from what `export` wrote" in capsys.readouterr().err
    assert entry([*TINY[1:], "task=poisoned", "task.root=."]) == 2
    assert "contains no training set" in capsys.readouterr().err


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
