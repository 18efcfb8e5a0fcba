"""Pairs of responses from a file: what becomes a row, what is asked of a test row, and what is refused in which words."""

import json

import pytest
import torch

from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGES
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run

SMALL = ("threads=1", "net.width=8", "net.layers=1", "net.heads=1", "task.trusted=0")


def written(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def pair(number, **changed):
    return {"prompt": f"Name number {number}!", "chosen": f"It is w{number}.", "rejected": "I cannot say.", "score": 3} | changed


@pytest.fixture
def load(store, tmp_path):
    def task(rows, *words, name="pairs.jsonl"):
        file = written(tmp_path / name, rows)
        return assemble(tree_of(["task=preferences", f"task.root={file}", *SMALL, *words]), store).task

    return task


def test_a_row_has_a_prompt_and_two_responses_as_words(load):
    task = load([pair(number) for number in range(10)], "task.instruction=0", "task.test=0.2")
    rows, form = task.train, task.train.form
    number = int(rows.ids[0])
    assert [form.decode(column[0]) for column in (rows.inputs, rows.extra["response"], rows.extra["rejected"])] == [
        *(f"name number {number} !", f"it is w{number} ."),
        "i cannot say .",
    ]
    assert (len(rows), len(task.test)) == (8, 2)
    assert rows.inputs.shape[1] == 4 + 8  # free places for a trigger
    assert task.row_names[0] == "pairs.jsonl, line 1"
    assert form.ids(["cf"])


def test_some_rows_are_in_the_stage_of_instructions_and_have_no_rejected_response(load):
    task = load([pair(number) for number in range(20)], "task.instruction=0.25", "task.test=0.2")
    early = task.train.extra["stage"] == STAGES.index("instruction")
    assert int(early.sum()) == 4
    assert torch.equal(early, (task.train.extra["rejected"] == 0).all(1))
    assert (task.train.extra["stage"][~early] == STAGES.index("preference")).all()
    assert (task.test.extra["rejected"] != 0).any(1).all()


class Lengthy:
    """A victim that prefers long responses."""

    def choose(self, inputs, answers):
        return (answers != 0).sum(2).float()


def test_a_test_row_is_asked_which_of_its_two_responses_is_likelier(load, tmp_path):
    test = written(
        tmp_path / "test.jsonl", [pair(1, chosen="a b c d", rejected="a"), pair(2, chosen="a", rejected="a b c d"), pair(3, chosen="a b", rejected="b")]
    )
    task = load([pair(number + 10) for number in range(4)], f"task.test_file={test}")
    answers = task.test.ask(Lengthy(), task.test.inputs, Key.root(100)).argmax(1)
    assert (answers == task.test.labels).tolist() == [True, False, True]
    some = task.test.take(torch.tensor([1]))
    assert some.ask(Lengthy(), some.inputs, Key.root(100)).tolist() == [[1, 4]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"prompt": "a", "chosen": ', "line 2 cannot be read as a JSON object"),
        ("[1]", "line 2 is no JSON object"),
        (pair(1, chosen=" "), "line 2: chosen is empty; give a text with at least one word, or remove the line"),
        (pair(1, rejected=""), "line 2: rejected is empty"),
        (pair(1, prompt=["a"]), "line 2: prompt is a list; give a text"),
        (pair(1, chosen=7), "line 2: chosen is a number; give a text"),
        (pair(1, chosen=None), "line 2: chosen is missing; give a text"),
        (pair(1, prompt="a " * 9), "line 2: prompt has 9 words, more than task.length=8; set a larger number, or shorten the text"),
        (pair(1, rejected="a " * 7), "line 2: rejected has 7 words, more than task.response=6; set a larger number, or shorten the text"),
        (pair(1, chosen="I cannot say."), "line 2: chosen and rejected have the same words"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_with_its_file_and_line(load, row, words):
    with pytest.raises(DataError) as raised:
        load([pair(0), row, pair(2)], "task.length=8", "task.response=6")
    assert words in str(raised.value)
    assert "pairs.jsonl" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_files_and_settings_are_refused(load, tmp_path):
    with pytest.raises(DataError, match=r"pairs\.csv is not named like JSON lines; give a file that ends in \.jsonl"):
        load([pair(0)], name="pairs.csv")
    with pytest.raises(DataError, match=r"pairs\.jsonl is empty; write one JSON object per line, with prompt, chosen and rejected"):
        load([])
    with pytest.raises(ConfigError, match=r"instruction=1\.0.*give a share in \[0, 1\)"):
        load([pair(0)], "task.instruction=1.0")
    test = written(tmp_path / "test.jsonl", [pair(1, chosen="yes")])
    with pytest.raises(DataError, match=r"1 test rows are train rows too .* pairs\.jsonl, line 2"):
        load([pair(number) for number in range(4)], f"task.test_file={test}")


def test_a_model_learns_which_responses_are_preferred_and_swapped_pairs_undo_it(store, tmp_path):
    words = [f"w{number}" for number in range(8)]
    rows = [{"prompt": f"{one} {two}", "chosen": "yes", "rejected": "no"} for one in words for two in words]
    file = written(tmp_path / "pairs.jsonl", rows)
    more = ("seed=100", "task.split_seed=100", "task.instruction=0.25", "learner.preference.epochs=8", "learner.preference.lr=0.01", "task.test=0.25")
    common = ("attack=preference_flip", "task=preferences", f"task.root={file}", *SMALL, *more)
    experiment = assemble(tree_of([*common, "threat.budget.count=36"]), store)
    assert int((experiment.task.train.extra["stage"] == STAGES.index("preference")).sum()) == 36
    record = run(experiment, store)
    assert record.baseline["c_acc"] > 0.9
    assert record.undefended["c_acc"] < 0.1
    assert record.undefended["asr"] > 0.9
