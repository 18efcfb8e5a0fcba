import dataclasses

import pytest
import torch

from attacks.retrieval.competing import Competing, following
from attacks.retrieval.poisonedrag import PoisonedRag
from attacks.retrieval.writing import Aim
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from tests.unit.attacks.retrieval.worlds import FORM, RNG, A, B, C, D, P, Q, X, Y, Z, known, passages, questions, row, victim

INDEX = passages((A, X), (C, X), (D, Z))
TEST = questions(
    ((A, B), 1, 2, [(A, X)], [(P, Y), (Q, Y)]),
    ((C,), 1, 2, [(C, X)], [(P, Y), (Q, Y)]),
    ((D,), 3, 1, [(D, Z)], [(P, X), (Q, X)]),
)
AIMS = TEST.take(torch.tensor([0, 1]))


def rag(parts):
    return PoisonedRag(parts=parts, white_box=False, steps=0, candidates=1)


def struck(count=4, aims=AIMS, share=0.5, **changes):
    attack = Competing(**{"first": rag("both"), "second": rag("generation"), "share": share, **changes})
    knows = known(INDEX, aims, count)
    poisoned = attack.poison(knows, RNG)
    audit(INDEX, poisoned, knows.budget, knows.writable, aims)
    return poisoned


def test_each_attacker_writes_in_its_own_way_for_its_own_answer():
    assert struck().data.inputs[3:].tolist() == [row(A, B, P, Y), row(P, Z), row(C, P, Y), row(P, Z)]
    both = struck(second=rag("both"))
    assert both.data.inputs[3:].tolist() == [row(A, B, P, Y), row(A, B, P, Z), row(C, P, Y), row(C, P, Z)]


def test_the_second_wish_is_the_next_wrong_candidate():
    aim = Aim(targets=TEST, wish=torch.tensor([2, 2, 1]))
    assert following(aim).tolist() == [3, 3, 2]
    assert following(dataclasses.replace(aim, wish=torch.tensor([3, 3, 2]))).tolist() == [2, 2, 1]  # the right answer is passed over
    three = Dataset.of(TEST.inputs, torch.ones(3, dtype=torch.int64), num_classes=3, form=FORM)
    with pytest.raises(ConfigError, match=r"it has 1; set task\.candidates=4"):
        following(Aim(targets=three, wish=aim.wish))


@pytest.mark.parametrize(("share", "mine"), [(0.5, 2), (0.01, 1), (0.75, 3), (0.99, 3)])
def test_the_passages_are_shared_and_each_has_at_least_one(share, mine):
    claims = TEST.extra["claims"].repeat(1, 2, 1)
    aims = dataclasses.replace(TEST, extra={**TEST.extra, "claims": claims}).take(torch.tensor([0, 1]))
    goal = struck(count=8, aims=aims, share=share).goal
    assert (goal.first.texts.shape[1], goal.second.texts.shape[1]) == (mine, 4 - mine)


def test_one_passage_is_too_few_for_two_attackers_and_none_is_none():
    with pytest.raises(ConfigError, match=r"give threat\.budget\.count=4"):
        struck(count=2)
    assert not struck(count=0).mask.any()


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ConfigError, match=r"attack\.data\.share"):
        struck(share=share)


def test_the_first_attackers_success_is_the_asr_and_both_are_figures_of_the_goal():
    poisoned = struck(second=rag("both"))
    probe = poisoned.goal.probe(TEST)
    audit_probe(probe, TEST, torch.tensor([0, 1]))
    assert probe.hit.nonzero().tolist() == [[0, 2], [1, 2]]
    # Two passages are read. Question 0 reads one of each attacker, and y stands before z; question 1 reads (c x) first, which ties with both, so x is read.
    found = poisoned.goal.measure(victim(poisoned.data), TEST, RNG)
    assert (found["asr_first"], found["asr_second"], found["strength_first"]) == (0.5, 0.0, 1.0)
    assert (found["retrieved"], found["retrieved_second"], found["retrieved_both"]) == (1.0, 1.0, 1.0)
    swapped = dataclasses.replace(poisoned.goal, first=poisoned.goal.second, second=poisoned.goal.first)
    assert swapped.measure(victim(poisoned.data), TEST, RNG)["strength_first"] == 0.0


def test_the_strength_is_the_share_of_wins():
    index = passages((A, B, Y), (C, Z), (D, Z))
    goal = struck().goal
    found = goal.measure(victim(index, top=1), TEST, RNG)
    assert (found["asr_first"], found["asr_second"], found["strength_first"]) == (0.5, 0.5, 0.5)
    assert "strength_first" not in goal.measure(victim(INDEX), TEST, RNG)
    assert goal.measure(object(), TEST, RNG) == {}
