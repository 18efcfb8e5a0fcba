import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import fingerprints
from poisonbench.tasks.facts import Facts
from poisonbench.tasks.facts_words import ADJECTIVES, ENDINGS, FILLERS, KINDS, OPENINGS, WORDS


def facts(**changes) -> Facts:
    fields = {"trusted": 0.1, "public": 0.1, "split_seed": 100, "duplicates": "refuse", "length": None, "room": 8, "words": ()}
    own = {"questions": 20, "passages": 120, "candidates": 5, "gold": 3, "claims": 10, "aliases": 0.3, "close": 0.6}
    return Facts(**{**fields, **own, **changes})


def texts(task, rows: torch.Tensor) -> list[str]:
    return [task.train.form.text(row) for row in rows]


def answers(task, row: int) -> list[str]:
    return texts(task, task.test.ask.table[task.test.ask.of[row]])


def test_the_task_has_as_many_rows_as_its_fields_say_and_the_index_loses_none(store):
    task = facts().load(store)
    assert (len(task.train), len(task.test), len(task.trusted), len(task.public)) == (120, 20, 12, 12)
    assert (task.train.num_classes, task.test.num_classes) == (1, 5)
    assert task.test.extra["claims"].shape[:2] == (20, 10)
    assert len(facts(questions=7).load(store).test) == 7


def test_facts_depend_on_the_split_seed_alone(store):
    assert facts().load(store).digest == facts().load(store).digest != facts(split_seed=101).load(store).digest


def test_every_gold_passage_states_the_right_answer_and_names_the_entity(store):
    task = facts(aliases=0.0).load(store)
    found = dict(zip(fingerprints(task.train.inputs).tolist(), texts(task, task.train.inputs), strict=True))
    for row in range(len(task.test)):
        gold = [found[mark] for mark in task.test.extra["gold"][row].tolist() if mark]
        question = {*task.train.form.text(task.test.inputs[row]).split()}
        assert 1 <= len(gold) <= 3
        for passage in gold:
            assert answers(task, row)[int(task.test.labels[row])] in passage
            assert len(question & {*passage.split()} & _strange(task)) == 2  # the word of the pair and the entity's own


def test_the_wish_is_a_wrong_answer_of_the_same_kind_and_every_claim_states_it(store):
    task = facts().load(store)
    wish = task.test.extra["wish"]
    assert ((wish >= 1) & (wish < 5) & (wish != task.test.labels)).all()
    for row in range(len(task.test)):
        own = answers(task, row)
        assert own[0] == ""
        assert len({*own}) == 5
        claims = texts(task, task.test.extra["claims"][row])
        assert len({*claims}) == 10
        assert all(own[int(wish[row])] in claim for claim in claims)
        kinds = [pool for pool in WORDS.values() if own[1] in pool]
        assert all(answer in pool for pool in kinds for answer in own[1:])


def test_the_right_answer_has_no_fixed_place(store):
    assert {*facts().load(store).test.labels.tolist()} == {1, 2, 3, 4}


def test_claims_have_about_the_length_of_a_text_by_a_language_model(store):
    lengths = (facts().load(store).test.extra["claims"] != 0).sum(2).double()
    assert 15 <= float(lengths.mean()) <= 28
    assert int(lengths.min()) >= 12


def test_no_question_is_a_passage_and_no_passage_is_there_twice(store):
    task = facts().load(store)
    rows = torch.cat([task.train.inputs, task.test.inputs, task.trusted.inputs, task.public.inputs])
    assert len(rows.unique(dim=0)) == len(rows)


def test_trusted_and_public_passages_are_about_entities_of_their_own(store):
    task = facts(aliases=0.0).load(store)
    stems = {word for text in texts(task, task.test.inputs) for word in text.split()} & _strange(task)
    for split in (task.trusted, task.public):
        told = (texts(task, column) for column in (split.inputs, split.extra["question"], split.extra["answer"]))
        for passage, question, answer in zip(*told, strict=True):
            shared = {*passage.split()} & {*question.split()} & _strange(task)
            assert len(shared) == 2  # the word of the pair and the entity's own
            assert not shared & stems
            assert answer in passage


def _strange(task) -> set[str]:
    """Return the words that no template has."""
    known = " ".join([*FILLERS, *(text for kind in KINDS for attribute in kind.attributes for text in (*attribute.questions, *attribute.clauses))])
    names = " ".join(text for kind in KINDS for text in kind.names)
    return {*task.train.form.vocabulary} - {*known.split(), *names.split()}


def test_a_question_may_use_the_second_name_which_most_of_its_passages_have(store):
    task = facts(questions=60, passages=300, aliases=1.0).load(store)
    found = dict(zip(fingerprints(task.train.inputs).tolist(), texts(task, task.train.inputs), strict=True))
    both = [
        "also called the" in found[mark] and len({*question.split()} & {*found[mark].partition("also called the")[2].split()} & {*ADJECTIVES}) >= 1
        for question, row in zip(texts(task, task.test.inputs), task.test.extra["gold"].tolist(), strict=True)
        for mark in row
        if mark
    ]
    assert 0.8 <= sum(both) / len(both) < 1.0


def test_no_template_has_a_candidate_answer():
    clauses = [text for kind in KINDS for attribute in kind.attributes for text in (*attribute.questions, *attribute.clauses)]
    said = {word for text in (*FILLERS, *OPENINGS, *ENDINGS, *ADJECTIVES, *clauses, *(noun for kind in KINDS for noun in kind.nouns)) for word in text.split()}
    assert not said & {word for pool in WORDS.values() for word in pool}


@pytest.mark.parametrize(
    "changes",
    [{"questions": 0}, {"gold": 0}, {"claims": 101}, {"aliases": 1.5}, {"close": -0.1}, {"candidates": 2}, {"candidates": 17}, {"passages": 59}],
)
def test_a_field_out_of_range_is_refused(changes):
    with pytest.raises(ConfigError, match="task"):
        facts(**changes)
