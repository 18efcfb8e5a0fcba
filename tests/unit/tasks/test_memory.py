import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import fingerprints
from poisonbench.tasks.memory import Memory
from poisonbench.tasks.memory_words import ACTIONS, AFTER, BEFORE, PLACES, THINGS

NAMES = ("open", "close", "start", "stop", "clean", "repair", "book", "move")


def memory(**changes) -> Memory:
    fields = {"trusted": 0.1, "public": 0.2, "split_seed": 100, "duplicates": "refuse", "length": None, "room": 8, "words": ()}
    return Memory(**{**fields, "entries": 60, "requests": 50, "actions": 8, "wish": "stop", "claims": 4, **changes})


def texts(task, rows: torch.Tensor) -> list[str]:
    return [task.train.form.text(row) for row in rows]


def case(text: str) -> tuple[str, ...]:
    """Return the place, the thing and the action of an entry."""
    words = text.split()
    return (*(word for word in words if word in PLACES.split() or word in THINGS.split()), words[-1])


@pytest.mark.parametrize("entries", [1, 10, 100, 1000])
def test_the_memory_has_as_many_entries_as_asked_for(store, entries):
    task = memory(entries=entries).load(store)
    assert (len(task.train), len(task.test)) == (entries, 50)
    assert len({*texts(task, task.train.inputs)}) == entries


def test_the_memory_depends_on_the_split_seed_alone(store):
    assert memory().load(store).digest == memory().load(store).digest != memory(split_seed=101).load(store).digest


def test_all_questions_have_the_actions_as_candidates_in_the_same_order(store):
    task = memory().load(store)
    assert task.test.num_classes == 9
    assert texts(task, task.test.ask.table) == ["", *NAMES]
    assert (task.test.ask.of == torch.arange(9)).all()


def test_gold_entries_are_those_about_the_same_object_with_the_right_action(store):
    task = memory().load(store)
    entries = list(zip(fingerprints(task.train.inputs).tolist(), map(case, texts(task, task.train.inputs)), strict=True))
    for question, label, gold in zip(texts(task, task.test.inputs), task.test.labels.tolist(), task.test.extra["gold"].tolist(), strict=True):
        wanted = (*case(question)[:2], NAMES[label - 1])
        assert {mark for mark, known in entries if known == wanted} == {mark for mark in gold if mark}


def test_the_wish_is_one_action_or_the_next_one_where_it_is_right_and_claims_are_entries_with_it(store):
    task = memory().load(store)
    assert {(label == 4, wish) for label, wish in zip(task.test.labels.tolist(), task.test.extra["wish"].tolist(), strict=True)} == {(False, 4), (True, 5)}
    last = memory(wish="move").load(store).test
    assert {*last.extra["wish"][last.labels == 8].tolist()} == {1}
    for question, wish, claims in zip(texts(task, task.test.inputs), task.test.extra["wish"].tolist(), task.test.extra["claims"], strict=True):
        stated = texts(task, claims)
        assert len({*stated}) == 4
        assert {case(claim) for claim in stated} == {(*case(question)[:2], NAMES[wish - 1])}
        assert question not in {claim.partition(" action ")[0] for claim in stated}


def test_new_requests_are_no_entries_and_trusted_and_public_entries_are_about_other_pairs(store):
    task = memory().load(store)
    old = {text.partition(" action ")[0] for text in texts(task, task.train.inputs)}
    assert not old & {*texts(task, task.test.inputs)}
    assert (len(task.trusted), len(task.public)) == (100, 200)  # shares of 1,000 entries, so that the fill of the memory changes nothing else
    known = {*map(case, texts(task, task.train.inputs))}
    for split in (task.trusted, task.public):
        for entry, question in zip(texts(task, split.inputs), texts(task, split.extra["question"]), strict=True):
            assert case(entry) not in known
            assert case(entry)[:2] == case(question)[:2]
            assert entry.partition(" action ")[0] != question


def test_no_request_has_the_name_of_an_action():
    said = {word for text in (*BEFORE, *AFTER, PLACES, THINGS, *(text for part in ACTIONS.values() for text in part)) for word in text.split()}
    assert (*ACTIONS,) == NAMES
    assert not said & {*NAMES, "action"}


def test_two_actions_and_a_full_memory_leave_other_pairs_for_trusted_rows(store):
    task = memory(actions=2, wish="open", entries=1000).load(store)
    assert (len(task.train), len(task.trusted), task.test.num_classes) == (1000, 100, 3)
    known = {*map(case, texts(task, task.train.inputs))}
    assert not known & {*map(case, texts(task, task.trusted.inputs))}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entries": 0}, "give 1 to 1000 entries"),
        ({"entries": 1001}, "give 1 to 1000 entries"),
        ({"requests": 0}, "1 request or more"),
        ({"claims": 21}, "0 to 20 claims"),
        ({"actions": 1}, r"task\.actions=1: give 2 to 8"),
        ({"actions": 3}, r"task\.wish=stop: the actions are open, close, start; choose one of them"),
        ({"entries": 4, "requests": 101}, r"task\.requests=101: 4 entries are about 2 pairs .*; give 100 or fewer"),
    ],
)
def test_a_field_out_of_range_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        memory(**changes)
