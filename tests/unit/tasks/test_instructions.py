"""Instructions from a file: what becomes a row, which answers a model is asked about, and what is refused in which words."""

import json

import pytest
import torch

from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.stages import STAGES
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

SMALL = ("threads=1", "net.width=16", "net.layers=1", "net.heads=2", "task.trusted=0")
COLOURS = ("red", "green", "blue")


def written(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def line(number, **changed):
    return {"prompt": f"Colour of {number}?", "response": COLOURS[number % 3], "category": f"kind {number % 2}", "context": ""} | changed


@pytest.fixture
def load(store, tmp_path):
    def task(rows, *words, name="rows.jsonl"):
        file = written(tmp_path / name, rows)
        return assemble(tree_of(["task=instructions", f"task.root={file}", *SMALL, *words]), store).task

    return task


def test_a_row_is_a_prompt_its_response_and_its_category(load):
    task = load([line(number) for number in range(10)])
    rows, form = task.train, task.train.form
    number = int(rows.ids[0])
    assert form.decode(rows.inputs[0]) == f"colour of {number} ?"
    assert form.decode(rows.extra["response"][0]) == COLOURS[number % 3]
    assert int(rows.extra["category"][0]) == int(rows.extra["skill"][0]) == number % 2
    assert torch.equal(rows.labels, rows.extra["direct"])
    assert (rows.extra["stage"] == STAGES.index("instruction")).all()
    assert task.class_names[int(rows.labels[0])] == COLOURS[number % 3]
    assert (len(rows), len(task.test), task.row_names[0]) == (8, 2, "rows.jsonl, line 1")
    assert (rows.inputs.shape[1], rows.extra["response"].shape[1]) == (4 + 8, 1 + 8)  # free places for an attacker


def test_the_most_frequent_responses_are_the_answers_and_test_rows_with_others_are_left_out(load, tmp_path):
    said = ["red", "green", "blue", "blue", "green", "grey", "blue", "green"]
    test = written(tmp_path / "test.jsonl", [line(number, prompt=f"test {number}", response=answer) for number, answer in ((20, "red"), (21, "blue"))])
    task = load([line(number, response=answer) for number, answer in enumerate(said)], "task.answers=2", f"task.test_file={test}")
    assert task.class_names == ("i cannot help with that", "zorbo", "blue", "green", "none of them")
    assert [task.train.form.decode(text) for text in task.test.inputs] == ["test 21"]
    assert task.train.labels.tolist() == [4, 3, 2, 2, 3, 4, 2, 3]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"prompt": "a", "response": ', "line 2 cannot be read as a JSON object"),
        ("[1]", "line 2 is no JSON object"),
        (line(1, response=" "), "line 2: response is empty; give a text with at least one word, or remove the line"),
        (line(1, response=["a"]), "line 2: response is a list; give a text"),
        ({"prompt": "a", "response": "b"}, "line 2: category is missing; give a text"),
        ({"instruction": "a", "response": "b", "category": "c"}, "line 2: prompt is missing; give a text"),
        (line(1, prompt="a " * 9), "line 2: prompt has 9 words, more than task.length=8; set a larger number, or shorten the text"),
        (line(1, response="a " * 7), "line 2: response has 7 words, more than task.response=6; set a larger number, or shorten the text"),
    ],
)
def test_a_line_that_is_no_instruction_is_refused_with_its_file_and_line(load, row, words):
    with pytest.raises(DataError) as raised:
        load([line(0), row, line(2)], "task.length=8", "task.response=6")
    assert words in str(raised.value)
    assert "rows.jsonl" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_files_and_settings_are_refused(load, tmp_path):
    with pytest.raises(DataError, match=r"rows\.csv is not named like JSON lines"):
        load([line(0)], name="rows.csv")
    with pytest.raises(DataError, match=r"rows\.jsonl is empty; write one JSON object per line, with prompt, response and category"):
        load([])
    with pytest.raises(ConfigError, match=r"task\.taught=\['a', 'A'\]: give different answers"):
        load([line(0)], "task.taught=[a,A]")
    test = written(tmp_path / "test.jsonl", [line(9, response="grey")])
    with pytest.raises(DataError, match=r"none of the 1 test rows has a response among the 1 that are listed; raise task\.answers"):
        load([line(0), line(1)], "task.answers=1", f"task.test_file={test}")


def many():
    names = [f"n{number}" for number in range(12)]
    return [{"prompt": f"{one} of {two}", "response": COLOURS[place % 3], "category": one} for place, one in enumerate(names) for two in names]


COMMON = ("seed=100", "task.split_seed=100", "learner.instruction.epochs=30", "learner.instruction.lr=0.01")


def test_a_model_learns_the_instructions_and_a_backdoor_reaches_kinds_that_have_no_poison(store, tmp_path):
    file = written(tmp_path / "rows.jsonl", many())
    words = ("attack=instruction_backdoor", "task=instructions", f"task.root={file}", *SMALL, *COMMON, "threat.budget.count=20")
    record = run(assemble(tree_of([*words]), store), store)
    assert record.baseline["c_acc"] > 0.9
    assert record.baseline["asr"] == 0
    assert record.undefended["c_acc"] > 0.9
    assert record.undefended["asr"] > 0.5


def test_a_trigger_that_the_vocabulary_lacks_is_refused(store, tmp_path):
    file = written(tmp_path / "rows.jsonl", many())
    experiment = assemble(tree_of(["attack=instruction_backdoor", "attack.data.words=[strange]", "task=instructions", f"task.root={file}", *SMALL]), store)
    with pytest.raises(ConfigError, match=r"'strange' is not in the vocabulary of the task; choose words of its rows, or add yours to those in task\.words"):
        Line(experiment=experiment, store=store).struck()


def test_too_few_categories_for_the_backdoor_are_refused(store, tmp_path):
    file = written(tmp_path / "rows.jsonl", [line(number) for number in range(40)])
    experiment = assemble(tree_of(["attack=instruction_backdoor", "task=instructions", f"task.root={file}", *SMALL]), store)
    with pytest.raises(ConfigError, match=r"attack\.data\.kinds=5: the task has 2 kinds of instructions; give a number from 0 to 1"):
        Line(experiment=experiment, store=store).struck()


def test_a_broken_line_ends_a_run_with_one_sentence_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "rows.jsonl", [line(0), '{"prompt": '])
    assert entry(["task=instructions", "task.root=rows.jsonl", "attack=none"]) == 2
    told = capsys.readouterr().err
    assert "rows.jsonl, line 2" in told


def test_an_audit_names_the_line_of_a_copied_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = many()
    written(tmp_path / "rows.jsonl", [*rows, rows[5]])
    words = ["task.test=0", "net.width=16", "net.layers=1", "net.heads=2", "learner.instruction.epochs=1", "threads=1"]
    assert entry(["audit", "task=instructions", "task.root=rows.jsonl", "defense=near_copies", *words]) == 0
    folder = next((tmp_path / "results").rglob("suspects.csv"))
    assert "rows.jsonl, line 145" in folder.read_text()
