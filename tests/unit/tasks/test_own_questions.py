import logging

import pytest
import torch

import poisonbench
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.retrieve import fingerprints
from poisonbench.tasks.own_questions import READER, RESERVED

TOWNS = ("Arvik", "Belmar", "Corent", "Dunfell")
GIVEN = {
    "passages": [f"the capital of land {n} is {town} ." for n, town in enumerate(TOWNS)] + [f"land {n} has {n + 3} rivers ." for n in range(4)],
    "questions": [f"what is the capital of land {n}" for n in range(4)],
    "answers": TOWNS,
    "wrong_answers": [[TOWNS[(n + 1) % 4], TOWNS[(n + 2) % 4]] for n in range(4)],
    "gold": [[n] for n in range(4)],
    "claims": [[f"the atlas says that the seat of land {n} is {TOWNS[(n + 1) % 4]}"] for n in range(4)],
    "trusted": 0.0,
    "public": 0.25,
}


def own(**changes):
    return poisonbench.own_questions(**{**GIVEN, **changes})


def changed(field, place, value):
    return {field: [value if number == place else item for number, item in enumerate(GIVEN[field])]}


def test_each_list_ends_up_in_its_column():
    task = own()
    text = task.train.form.text
    assert [text(row) for row in task.test.inputs] == GIVEN["questions"]
    assert {text(row) for row in task.train.inputs} > {passage.lower() for passage in GIVEN["passages"][:4]}
    assert (len(task.train), len(task.public), len(task.trusted)) == (6, 2, 0)
    asked = task.test.ask.table[task.test.ask.of]
    for place in range(4):
        options = [text(row) for row in asked[place]]
        wrong = [answer.lower() for answer in GIVEN["wrong_answers"][place]]
        assert options[0] == ""
        assert sorted(options[1:]) == sorted([TOWNS[place].lower(), *wrong])
        assert options[task.test.labels[place]] == TOWNS[place].lower()
        assert options[task.test.extra["wish"][place]] == wrong[0]
        assert text(task.test.extra["claims"][place, 0]) == GIVEN["claims"][place][0].lower()
    marks = fingerprints(task.train.inputs)
    gold = [int((marks == mark).nonzero()) for mark in task.test.extra["gold"][:, 0]]
    assert [text(task.train.inputs[place]) for place in gold] == [passage.lower() for passage in GIVEN["passages"][:4]]


def test_an_attack_on_own_questions_runs_and_has_its_record(tmp_path):
    words = ("attack=rag", "threat.targets=2", "threat.budget.count=2", "seed=100", "threads=1")
    record = poisonbench.run(*words, task=own(name="lands"), results_dir=str(tmp_path))
    assert record.spec["task"]["name"] == "lands"
    assert record.baseline["c_acc"] == 1
    assert record.counts["poisoned"] == 2


def test_questions_with_more_wrong_answers_lose_the_last_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        task = own(**changed("wrong_answers", 1, ["Corent"]))
    assert task.test.num_classes == 3
    assert "own: 3 of 4 questions have more than 1 wrong answers, and only the first 1 are used" in caplog.text


def test_own_words_are_added_to_those_of_the_attacks():
    vocabulary = own(words=["zyzzyva"]).train.form.vocabulary
    assert {"zyzzyva", *RESERVED} <= {*vocabulary}


def test_the_reserved_words_and_the_room_are_those_of_the_tasks_of_files():
    task = tree_of(["task=beir"])["task"]
    assert (tuple(task["words"]), task["room"], task["duplicates"]) == (READER.words, READER.room, READER.duplicates)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answers": TOWNS[:3]}, "4 questions, but answers has 3 items; give one for each question"),
        ({"claims": []}, "4 questions, but claims has 0 items"),
        ({"passages": []}, "passages: .* is empty; give a list of texts"),
        ({"questions": "who"}, "'who' is one text; give a list of texts"),
        (changed("passages", 2, " "), "passages: item 2 is ' '; give a text with at least one word"),
        (changed("questions", 2, None), "questions: item 2 is None; give a text"),
        (changed("wrong_answers", 1, "Corent"), "question 1, wrong_answers: 'Corent' is one text; give a list of texts"),
        (changed("wrong_answers", 1, []), r"question 1, wrong_answers: \[\] is empty"),
        (changed("wrong_answers", 1, ["belmar"]), "question 1: the answer 'belmar' is given twice"),
        (changed("claims", 3, ["x", "X"]), "question 3: the claim 'X' is given twice"),
        (changed("gold", 0, []), r"question 0: gold is \[\]; give one or more positions of passages that answer it, from 0 to 7"),
        (changed("gold", 0, [8]), r"question 0: gold is \[8\]"),
        (changed("questions", 1, GIVEN["questions"][0]), "question 1: the question has the words of question 0"),
        (changed("questions", 1, GIVEN["passages"][7]), "task.duplicates=allow"),
    ],
)
def test_a_mistake_names_the_list_and_the_place(changes, says):
    with pytest.raises(DataError, match=says):
        own(**{"public": 0.0, **changes})


def test_shares_that_leave_too_few_passages_are_refused():
    with pytest.raises(ConfigError, match="lower the shares"):
        own(public=0.75)


def test_gold_of_numbers_of_any_kind_is_read():
    task = own(gold=[torch.tensor([n]).numpy() for n in range(4)])
    assert task.test.extra["gold"].tolist() == own().test.extra["gold"].tolist()
