import pytest
import torch

from attacks.retrieval.poisonedrag import PoisonedRag
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.runner.metrics import success
from tests.unit.attacks.retrieval.worlds import FORM, RNG, A, B, C, D, Dense, E, Encoded, F, P, Q, R, Shared, X, Y, Z, known, passages, questions, row, victim

INDEX = passages((A, B, X), (A, P, X), (C, X), (C, P, X), (D, Z), (E,))
TEST = questions(
    ((A, B), 1, 2, [(A, B, X), (A, P, X)], [(P, Y), (Q, Y, Y), (Y, R)]),
    ((C,), 1, 3, [(C, X)], [(P, Z), (Q, Z)]),
    ((E, F), 2, 1, [], []),
)
AIMS = TEST.take(torch.tensor([0, 1]))


def attack(**changes):
    return PoisonedRag(**{"parts": "both", "white_box": False, "steps": 30, "candidates": 100, **changes})


def struck(count=4, aims=AIMS, index=INDEX, retriever=Dense(), **changes):  # noqa: B008 - frozen
    knows = known(index, aims, count, fit=lambda rows: victim(rows, retriever=retriever))
    poisoned = attack(**changes).poison(knows, RNG)
    audit(index, poisoned, knows.budget, knows.writable, aims)
    return poisoned


@pytest.mark.parametrize(
    ("parts", "texts"),
    [
        ("both", [(A, B, P, Y), (A, B, Q, Y, Y), (C, P, Z), (C, Q, Z)]),
        ("retrieval", [(A, B), (A, B), (C,), (C,)]),
        ("generation", [(P, Y), (Q, Y, Y), (P, Z), (Q, Z)]),
    ],
)
def test_a_passage_is_the_question_and_then_a_claim_or_one_of_both(parts, texts):
    poisoned = struck(parts=parts)
    assert poisoned.data.inputs[6:].tolist() == [row(*words) for words in texts]
    assert poisoned.goal.texts.flatten(0, 1).equal(poisoned.data.inputs[6:])
    assert poisoned.goal.wish.tolist() == [2, 3]
    audit_probe(poisoned.goal.probe(TEST), TEST, torch.tensor([0, 1]))


def test_what_the_budget_leaves_over_is_not_used():
    assert int(struck(count=3).mask.sum()) == 2
    assert not struck(count=0).mask.any()


def test_a_smaller_budget_has_the_first_passages_of_a_larger_one():
    assert struck(count=2).goal.texts.equal(struck(count=4).goal.texts[:, :1])


@pytest.mark.parametrize(("parts", "asr"), [("both", 1.0), ("retrieval", 0.0), ("generation", 0.0)])
def test_passages_win_that_are_found_and_state_the_answer(parts, asr):
    poisoned = struck(index=passages((A, X), (D, Z)), parts=parts)  # two passages are read, and no claim shares a word with a question
    probe = poisoned.goal.probe(TEST)
    assert success(probe.asked(TEST)(victim(poisoned.data), probe.inputs, RNG), probe)["asr"] == asr


def test_fewer_claims_than_passages_are_refused():
    with pytest.raises(
        ConfigError, match=r"3 passages .* for each of 2 targets, and a question has 2 texts.*lower threat\.budget\.count, or raise task\.claims"
    ):
        struck(count=6)
    with pytest.raises(ConfigError, match=r"a question has 0 texts.* such as task=facts"):
        struck(count=3, aims=TEST)
    assert int(struck(count=6, parts="retrieval").mask.sum()) == 6


def test_a_budget_of_fewer_passages_than_targets_is_refused():
    with pytest.raises(ConfigError, match="allows 1 passages for 2 targets"):
        struck(count=1)


def test_a_passage_longer_than_a_row_is_refused():
    aims = questions(((A, B), 1, 2, [], [(P, Y, R)]), length=4)
    with pytest.raises(ConfigError, match=r"has 5 words and a row of the task 4 places; raise task\.room by 1"):
        struck(count=1, aims=aims, index=passages((A, B, X), length=4))


def test_rows_that_are_no_questions_are_refused():
    with pytest.raises(Incompatible, match="task=facts"):
        struck(aims=passages((A, B)))


def similarities(texts, aims=AIMS):
    module = Encoded.module
    return (module.features(texts.flatten(0, 1)).view(*texts.shape[:2], -1) * module.features(aims.inputs)[:, None]).sum(2)


def test_with_the_gradient_passages_are_nearer_to_their_question_and_state_the_same():
    black, white = (struck(white_box=box).goal.texts for box in (False, True))
    assert (similarities(white) > similarities(black) + 1e-4).all()
    for place, words in enumerate((2, 1)):  # of the questions
        assert white[place, :, words:].equal(black[place, :, words:])
        assert (white[place, :, :words] > 1).all()
    assert struck(white_box=True).goal.texts.equal(white)


def test_one_word_before_a_claim_is_the_best_of_all_words():
    white = struck(white_box=True, steps=1).goal.texts[1, 0]
    every = white.expand(len(FORM.vocabulary) - 2, -1).clone()
    every[:, 0] = torch.arange(2, len(FORM.vocabulary))
    best = similarities(every[None], AIMS.take(torch.tensor([1])))[0].argmax()
    assert white.tolist() == every[best].tolist()


def test_no_steps_leave_the_question_as_it_is():
    assert struck(white_box=True, steps=0).goal.texts.equal(struck().goal.texts)
    assert not struck(count=0, white_box=True).mask.any()


def test_a_white_box_without_gradients_or_without_a_part_to_optimise_is_refused():
    with pytest.raises(Incompatible, match="the surrogate has none; use retriever=tfidf or wordllama"):
        struck(white_box=True, retriever=Shared())
    with pytest.raises(ConfigError, match="optimises S"):
        attack(parts="generation", white_box=True)
    with pytest.raises(ConfigError, match="steps=-1"):
        attack(steps=-1)
