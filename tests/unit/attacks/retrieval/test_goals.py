import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from attacks.retrieval.goals import Answered, Denied, each_of, with_passages
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.errors import ConfigError
from tests.unit.attacks.retrieval.worlds import RNG, A, B, C, D, E, F, G, X, Y, Z, known, passages, questions, row, victim

INDEX = passages((A, B, X), (A, F, X), (C, X), (D, Z), (D, E, Y), (G,))
TEST = questions(
    ((A, B), 1, 2, [(A, B, X), (A, F, X)], []),
    ((C,), 1, 2, [(C, X)], []),
    ((D, E), 2, 3, [(D, E, Y)], []),
    ((F, G), 1, 3, [], []),
)
AIMS = TEST.take(torch.tensor([0, 1]))
TEXTS = torch.tensor([[row(A, B, Y), row(A, Y)], [row(F, G, Y), row()]])  # the second target's passage is not found
GOAL = Answered(ids=AIMS.ids, wish=torch.tensor([2, 2]), texts=TEXTS)


def poisoned(texts=TEXTS, index=INDEX):
    flat = texts.flatten(0, -2)
    return with_passages(known(index, AIMS, 9), flat[flat.any(1)], GOAL)


def figures(goal=GOAL, data=None, test=TEST, **changes):
    return dict(goal.measure(victim(poisoned().data if data is None else data, **changes), test, RNG))


def test_the_targets_are_probed_as_they_are():
    probe = GOAL.probe(TEST)
    audit_probe(probe, TEST, torch.tensor([0, 1]))
    assert probe.rows.tolist() == probe.targets.tolist() == [0, 1]
    assert probe.inputs.equal(TEST.inputs[:2])
    assert probe.hit.nonzero().tolist() == [[0, 2], [1, 2]]


def test_passages_are_appended_in_the_name_of_writable_rows():
    knows = dataclasses.replace(known(dataclasses.replace(INDEX, owners=torch.tensor([0, 1, 1, 2, 2, 2])), AIMS, 3))
    knows = dataclasses.replace(knows, writable=knows.rows.owners == 1)
    new = with_passages(knows, TEXTS.flatten(0, 1)[:3], GOAL)
    audit(knows.rows, new, knows.budget, knows.writable, knows.targets)
    added = new.data.take(new.mask)
    assert added.inputs.equal(TEXTS.flatten(0, 1)[:3])
    assert added.ids.tolist() == [-1, -2, -3]
    assert added.owners.tolist() == [1, 1, 1]
    assert added.labels.tolist() == [0, 0, 0]


def test_no_passages_leave_the_index_as_it_is_and_an_attacker_without_rows_is_refused():
    knows = known(INDEX, AIMS, 0)
    assert with_passages(knows, TEXTS[0, :0], GOAL).data.digest == INDEX.digest
    with pytest.raises(ConfigError, match="only 0 can be poisoned"):
        with_passages(dataclasses.replace(knows, writable=torch.zeros(6, dtype=torch.bool)), TEXTS[0], GOAL)


def test_the_budget_is_shared_out_evenly_and_one_that_is_too_small_is_refused():
    assert [each_of(known(INDEX, AIMS, count)) for count in (0, 2, 3, 5)] == [0, 1, 1, 2]
    with pytest.raises(ConfigError, match=r"allows 1 passages for 2 targets; give threat\.budget\.count=2 or more"):
        each_of(known(INDEX, AIMS, 1))


def test_the_figures_of_six_passages_and_three_poisoned_ones():
    # Two passages are read. Question 0 finds (a b x) and the poison (a b y); 1 finds (c x) alone; 2 finds (d e y) and (d z);
    # 3 finds the poison (f g y), and one of (a f x) and (g), which tie.
    found = figures()
    assert found == {
        "gold_recall": pytest.approx((1 / 2 + 1 + 1) / 3),
        "gold_recall_targets": pytest.approx((1 / 2 + 1) / 2),
        "retrieved": 0.5,
        "hit_if_retrieved": 0.0,  # x and y have one passage each, and x stands first
        "hit_if_not": 0.0,
        "precision": pytest.approx((1 / 2 + 0) / 2),
        "recall": pytest.approx((1 / 2 + 0) / 2),
        "f1": pytest.approx(1 / 4),
        "ceiling": 0.5,  # question 0 reads two for y; question 1 reads one for y and one for x, and x stands first
        "unrelated_retrieved": 0.5,
    }


def test_asr_is_the_sum_of_the_hits_with_and_without_a_poisoned_passage():
    texts = torch.tensor([[row(A, B, Y), row(A, B, C, Y)], [row(F, G, Y), row()]])
    goal = dataclasses.replace(GOAL, texts=texts)
    data = poisoned(texts, passages((A, X), (C, X))).data
    found = figures(goal, data)
    scores = TEST.ask.take(torch.tensor([0, 1]))(victim(data), AIMS.inputs, RNG)
    asr = float((scores.argmax(1) == 2).double().mean())
    assert found["retrieved"] * found["hit_if_retrieved"] + (1 - found["retrieved"]) * found["hit_if_not"] == asr
    assert (found["retrieved"], found["hit_if_retrieved"], found["hit_if_not"], asr) == (0.5, 1.0, 0.0, 0.5)


def test_a_victim_without_poison_has_the_same_probe():
    found = figures(data=INDEX)
    assert found["retrieved"] == found["precision"] == found["unrelated_retrieved"] == 0
    assert found["hit_if_not"] == 0
    assert "hit_if_retrieved" not in found
    assert found["ceiling"] == 0.5


def test_figures_of_poison_are_absent_where_there_is_none():
    goal = dataclasses.replace(GOAL, texts=TEXTS[:, :0])
    assert figures(goal, INDEX).keys() == {"gold_recall", "gold_recall_targets", "retrieved", "hit_if_not", "unrelated_retrieved"}


def test_a_victim_that_searches_nothing_has_no_figures():
    assert GOAL.measure(object(), TEST, RNG) == {}
    assert Denied(texts=TEXTS[0]).measure(object(), TEST, RNG) == {}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The trigger that puts e in front of a question."""

    VERSION: ClassVar[int] = 1

    def __call__(self, inputs):
        return torch.cat([torch.full((len(inputs), 1), E), inputs[:, :-1]], 1)


def test_denied_questions_have_the_trigger_and_count_how_deep_the_poison_is():
    texts = torch.tensor([row(E, G)])
    goal = Denied(texts=texts, trigger=Mark())
    probe = goal.probe(TEST)
    audit_probe(probe, TEST, torch.arange(0))
    assert probe.inputs[0].tolist() == row(E, A, B)
    assert probe.hit.nonzero().tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    data = with_passages(known(INDEX, AIMS, 1), texts, goal).data
    # Behind the trigger, question 0 shares two words with (a b x), and one with (a f x), (d e y) and the poison; question 1 one with (c x), (d e y) and the
    # poison; question 2 two with (d e y), and one with (d z) and the poison; question 3 two with the poison alone.
    found = dict(goal.measure(victim(data), TEST, RNG))
    assert found["retrieved"] == 1.0
    assert found["false_retrieved"] == 0.5  # the poison shares e with question 2 and g with question 3, and ties for the second place
    above = [1, 0, 1, 0]
    assert [found[f"retrieved_at_{depth}"] for depth in (1, 5, 10, 20, 50)] == [sum(each < 1 for each in above) / 4, 1, 1, 1, 1]
    assert found["retrieved"] * found["hit_if_retrieved"] == 0
    assert "hit_if_not" not in found


def test_denied_without_a_trigger_probes_the_questions_themselves():
    found = dict(Denied(texts=torch.tensor([row(Z, F)])).measure(victim(INDEX), TEST, RNG))
    assert found["retrieved"] == found["retrieved_at_50"] == 0
    assert found["hit_if_not"] == 0.0
    assert "false_retrieved" not in found
