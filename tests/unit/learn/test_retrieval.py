"""Retrieval, with a retriever whose search can be worked out by hand."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Trained
from poisonbench.core.retrieve import NOWHERE, Isolated, fingerprints
from poisonbench.core.rng import Key
from poisonbench.learn.retrieval import Retrieval
from poisonbench.retrieval.support import Support
from tests.unit.retrieval.shared_words import FORM, A, B, C, D, Shared, X, Y, Z, fitted

PASSAGES = torch.tensor([[A, B, X, 0], [A, Y, 0, 0], [A, B, Y, 0], [C, X, 0, 0], [A, Y, 0, 0], [D, D, 0, 0]])
QUESTIONS = torch.tensor([[A, B, 0, 0], [C, 0, 0, 0], [Z, 0, 0, 0]])
ANSWERS = torch.tensor([[0], [X], [Y]]).expand(3, 3, 1)


@dataclass(frozen=True, kw_only=True)
class Without:
    """Remove the passages from which the reader takes this answer, of twice as many as are read."""

    VERSION: ClassVar[int] = 1
    answer: int

    def depth(self, top):
        return 2 * top

    def keep(self, found):
        assert found.features.shape == (len(found.passages), len(FORM.vocabulary))
        return found.answers != self.answer


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The rule that takes the largest value of each answer."""

    VERSION: ClassVar[int] = 1

    def check(self, contributors, malicious):
        if contributors < 2:
            raise ConfigError(f"{contributors} contributions")

    def __call__(self, rows_RP, server):
        return rows_RP.amax(0)


@pytest.fixture
def data():
    return Dataset.of(PASSAGES, torch.zeros(6, dtype=torch.int64), num_classes=1, form=FORM)


def test_the_reader_counts_the_passages_that_were_found(data):
    assert fitted(data, top=1).choose(QUESTIONS, ANSWERS).argmax(1).tolist() == [1, 1, 0]
    scores = fitted(data, top=4).choose(QUESTIONS, ANSWERS)  # passages 0, 2, 1, 4 for the first question
    assert scores[0].tolist()[1:] == [1, 3]
    assert scores.argmax(1).tolist() == [2, 1, 0]


def test_a_question_without_a_hit_is_answered_with_none_of_them(data):
    victim = fitted(data)
    assert victim.hits(QUESTIONS, ANSWERS).places.tolist() == [[0, 2], [3, NOWHERE], [NOWHERE, NOWHERE]]
    assert victim.choose(QUESTIONS, ANSWERS)[2].argmax() == 0


def test_removed_passages_are_replaced_by_deeper_ones(data):
    victim = fitted(data, sifts=(Without(answer=1),))
    assert victim.hits(QUESTIONS, ANSWERS).places.tolist() == [[2, 1], [NOWHERE, NOWHERE], [NOWHERE, NOWHERE]]
    assert victim.choose(QUESTIONS, ANSWERS).argmax(1).tolist() == [2, 0, 0]


def test_two_filters_act_one_after_the_other(data):
    victim = fitted(data, sifts=(Without(answer=1), Without(answer=2)))
    assert victim.hits(QUESTIONS, ANSWERS).places.eq(NOWHERE).all()


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """Keep all passages, and remember how many there were."""

    VERSION: ClassVar[int] = 1
    wanted: int
    seen: list[int]

    def depth(self, top):
        return self.wanted

    def keep(self, found):
        self.seen.append(len(found.passages))
        return torch.ones(len(found.passages), dtype=torch.bool)


def test_a_filter_sees_no_more_passages_than_it_asks_for(data):
    wide, narrow = Narrow(wanted=4, seen=[]), Narrow(wanted=1, seen=[])
    fitted(data, top=2, sifts=(wide, narrow)).hits(QUESTIONS[:1], ANSWERS[:1])
    assert wide.seen == [4]
    assert narrow.seen == [2]  # as many as are read


@dataclass(frozen=True, kw_only=True)
class Opinionated:
    """A reader that answers even without a passage."""

    VERSION: ClassVar[int] = 1

    def with_public(self, public, fit):
        return self

    def check(self, passages):
        pass

    def read(self, questions, passages, answers, form):
        return torch.tensor([0.1, 0.2, 0.9]).expand(*passages.shape[:2], 3)


def test_a_rank_without_a_passage_says_nothing_when_passages_are_read_alone(data):
    combine = dataclasses.replace(honest(data), aggregate=Largest())
    learner = Retrieval(retriever=Shared(), reader=Opinionated(), top=2, isolated=True)
    assert learner.fit(data, combine, Key.root(100)).choose(QUESTIONS, ANSWERS).argmax(1).tolist() == [2, 2, 0]  # the last question has no hit


def test_a_rule_combines_passages_that_are_read_alone(data):
    combine = dataclasses.replace(honest(data), aggregate=Largest())
    assert fitted(data, combine, top=4).choose(QUESTIONS, ANSWERS)[0].tolist()[1:] == [1, 3]
    assert fitted(data, combine, top=4, isolated=True).choose(QUESTIONS, ANSWERS)[0].tolist()[1:] == [1, 1]


def test_texts_that_are_handed_over_are_read_first(data):
    texts = torch.tensor([[[Y, 0, 0, 0], [0, 0, 0, 0]]]).expand(3, 2, 4)
    victim = fitted(data)
    assert victim.handed(QUESTIONS, ANSWERS, texts)[:, 1:].tolist() == [[1, 1], [1, 1], [0, 1]]
    assert victim.handed(QUESTIONS, ANSWERS, torch.zeros_like(texts)).equal(victim.choose(QUESTIONS, ANSWERS))


def test_a_stored_victim_answers_as_before_and_its_state_tells_passages_and_rule(data):
    victim = fitted(data)
    again = victim.learner.restore(Trained.of(victim), data, honest(data))
    assert again.choose(QUESTIONS, ANSWERS).equal(victim.choose(QUESTIONS, ANSWERS))
    assert {name: value.tolist() for name, value in again.state().items()} == {name: value.tolist() for name, value in victim.state().items()}
    other = fitted(data.edit(torch.tensor([0]), inputs=torch.tensor([[A, A, X, 0]])))
    ruled = fitted(data, dataclasses.replace(honest(data), aggregate=Largest()))
    assert not other.state()["passages"].equal(victim.state()["passages"])
    assert not ruled.state()["rule"].equal(victim.state()["rule"])


def test_victims_that_read_otherwise_have_other_states(data):
    """Else the store would take the answers of the undefended victim for those of the defended one."""
    ways = ({}, {"top": 3}, {"isolated": True}, {"sifts": (Without(answer=1),)}, {"sifts": (Without(answer=2),)})
    assert len({tuple(fitted(data, **changes).state()["recipe"].tolist()) for changes in ways}) == len(ways)


def test_the_rule_is_checked_with_the_number_of_isolated_passages(data):
    combine = dataclasses.replace(honest(data), aggregate=Largest())
    learner = Retrieval(retriever=Shared(), reader=Support(), top=1)
    with pytest.raises(ConfigError, match="1 contributions"):
        learner.with_isolation().check(data, combine)
    learner.with_top(2).with_isolation().check(data, combine)


def test_a_rule_has_nothing_to_combine_where_passages_are_read_together(data):
    combine = dataclasses.replace(honest(data), aggregate=Largest())
    learner = Retrieval(retriever=Shared(), reader=Support(), top=2)
    with pytest.raises(ConfigError, match=r"Largest combines passages that are read one by one.*learner\.isolated=true"):
        learner.check(data, combine)
    assert fitted(data, combine).rule is None
    assert fitted(data, combine, isolated=True).rule == Largest()


def test_each_passage_is_read_alone(data):
    read = fitted(data).alone(QUESTIONS[:1], ANSWERS[:1], torch.tensor([[3, 2, NOWHERE]]))
    assert read[0, :, 1:].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert read[0].argmax(1).tolist() == [1, 2, 0]


def test_the_wrap_isolates_passages_and_may_read_more_of_them():
    learner = Retrieval(retriever=Shared(), reader=Support(), top=2)
    assert Isolated(top=None)(learner) == learner.with_isolation()
    assert Isolated(top=7)(learner) == learner.with_isolation().with_top(7)
    with pytest.raises(Incompatible, match="Isolated filters or reads passages, and Shared searches none; use learner=retrieval"):
        Isolated(top=None)(Shared())


def test_a_retrieval_victim_has_no_classes(data):
    with pytest.raises(Incompatible, match="no classes of its own"):
        fitted(data).scores(QUESTIONS)


def test_fingerprints_depend_on_words_alone():
    marks = fingerprints(torch.tensor([[A, B, 0], [A, B, 0], [B, A, 0]]))
    assert marks[0] == marks[1] != marks[2]
    assert fingerprints(torch.tensor([[A, B]]))[0] == marks[0]
    assert (marks != 0).all()
