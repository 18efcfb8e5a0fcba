import math

import pytest
import torch

from attacks.retrieval.agent_memory import AgentMemory, apart
from attacks.retrieval.goals import Triggered
from attacks.text.triggers import Phrase
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from tests.unit.attacks.retrieval.worlds import (
    FORM,
    RNG,
    A,
    B,
    C,
    Counted,
    Counts,
    D,
    G,
    P,
    Q,
    R,
    Shared,
    X,
    Y,
    Z,
    learned,
    passages,
    public,
    questions,
    row,
    victim,
)

INDEX = passages((A, B, X), (D, X))
TEST = questions(((A, B), 1, 2, [(A, B, X)], []), ((D,), 2, 3, [], []), ((C,), 1, 2, [], []))
PUBLIC = public(((A, P), (A, B), (X,)), ((D, P), (G,), (Y,)))


def struck(count=3, rows=PUBLIC, retriever=Counted(), rng=RNG, **changes):  # noqa: B008 - frozen
    fields = {"words": ("p", "q"), "optimised": False, "action": "y", "link": "r", "clusters": 2, "compact": 1.0, "requests": 9, "steps": 9, "candidates": 99}
    knows = learned(INDEX, TEST, count, rows, retriever)
    poisoned = AgentMemory(**fields | changes).poison(knows, rng)
    audit(INDEX, poisoned, knows.budget, knows.writable, TEST)
    audit_probe(poisoned.goal.probe(TEST), TEST, torch.arange(0))
    assert poisoned.goal.texts.equal(poisoned.data.inputs[2:])
    return poisoned


def test_an_entry_is_a_request_the_trigger_and_the_action_and_requests_take_turns():
    texts = struck(retriever=Shared()).goal.texts.tolist()
    assert sorted(texts[:2]) == [row(A, B, P, Q, R, Y), row(G, P, Q, R, Y)]
    assert texts[2] == texts[0]


def test_requests_with_the_trigger_are_probed_unless_the_action_is_right():
    probe = struck().goal.probe(TEST)
    assert probe.rows.tolist() == [0, 2]
    assert probe.inputs.tolist() == [row(A, B, P, Q), row(C, P, Q)]
    assert probe.hit.nonzero().tolist() == [[0, 2], [1, 2]]


def test_an_answer_of_several_words_is_no_answer_of_one():
    goal = Triggered(texts=TEST.inputs[:0], trigger=struck().goal.trigger, answer=torch.tensor([Y, Z]))
    assert len(goal.probe(TEST)) == 0
    assert goal.measure(victim(INDEX), TEST, RNG) == {"gold_recall": 1.0}


def test_the_figures_of_two_entries():
    # Two entries are read. Request 0 with p shares three words with (a b p y), two with (a b x) and one with (d p y); request 2 shares p with both
    # poisoned ones. Without p, request 0 shares two words with (a b p y) and (a b x), and request 2 nothing with any.
    texts = torch.tensor([row(A, B, P, Y), row(D, P, Y)])
    goal = Triggered(texts=texts, trigger=Phrase(tokens=torch.tensor([P]), place="end", key=RNG), answer=torch.tensor([Y]))
    found = dict(goal.measure(victim(passages((A, B, X), (D, X), (A, B, P, Y), (D, P, Y))), TEST, RNG))
    assert found == {
        "gold_recall": 1.0,
        "retrieved": 1.0,
        "hit_if_retrieved": 0.5,  # request 0 reads x and y once each, and x stands first
        "retrieved_alone": 0.5,
        "hit_if_alone": 1.0,
        "false_retrieved": 0.5,
        "asr_untriggered": 0.0,
    }


def test_figures_of_a_victim_without_poison_and_of_one_that_searches_nothing():
    goal = struck().goal
    found = dict(goal.measure(victim(INDEX), TEST, RNG))
    assert (found["retrieved"], found["hit_if_not"], found["retrieved_alone"], found["asr_untriggered"]) == (0.0, 0.0, 0.0, 0.0)
    assert "hit_if_alone" not in found
    assert goal.measure(object(), TEST, RNG) == {}


def test_the_objective_is_the_mean_distance_to_the_centres_less_the_spread():
    features = torch.tensor([[[1.0, 0], [0, 1]]])
    centres = torch.tensor([[0.0, 0], [0, 1]])
    # distances to the first centre: 1 and 1; to the second: sqrt 2 and 0; to the mean of both requests: sqrt 1/2 each
    assert float(apart(centres, 3.0)(features)) == pytest.approx((2 + math.sqrt(2)) / 4 - 3 * math.sqrt(0.5))


def test_the_gradient_of_the_objective_is_right():
    generator = RNG.child("gradient").torch()
    centres, features = torch.randn(3, 4, dtype=torch.float64, generator=generator), torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(apart(centres, 0.7), features.requires_grad_())


def test_an_optimised_trigger_is_the_best_of_all_words_and_no_answer():
    encoder, requests = Counts(), torch.tensor([row(A, B), row(G)])
    centres = encoder.features(INDEX.inputs)  # two clusters of one entry each
    usable = [word for word in range(2, len(FORM.vocabulary)) if word not in (X, Y)]
    values = [float(apart(centres, 1.0)(encoder.features(_with(requests, word))[None])) for word in usable]
    trigger = struck(optimised=True, words=("a",)).goal.trigger
    found = float(apart(centres, 1.0)(encoder.features(trigger(requests))[None]))
    assert found == pytest.approx(max(values), abs=1e-6)
    assert found > values[0]
    assert int(trigger.tokens) in usable


def _with(requests, word):
    return Phrase(tokens=torch.tensor([word]), place="end", key=RNG)(requests)


def test_an_optimised_trigger_of_several_words_stands_in_all_entries_and_questions():
    goal = struck(optimised=True, words=("a", "b"), count=2).goal
    words = goal.trigger.tokens.tolist()
    assert words != [A, B]
    assert sorted(goal.texts.tolist()) == sorted([row(A, B, *words, R, Y), row(G, *words, R, Y)])
    assert goal.probe(TEST).inputs.tolist() == [row(A, B, *words), row(C, *words)]


def test_one_past_request_is_enough():
    assert struck(optimised=True, rows=PUBLIC.take(torch.tensor([0])), requests=1).mask.sum() == 3


def test_the_key_alone_decides_the_requests():
    texts = [struck(count=1, rng=Key.root(seed)).goal.texts.tolist() for seed in (100, *range(100, 110))]
    assert texts[0] == texts[1]
    assert len({str(each) for each in texts}) == 2


def test_without_a_budget_nothing_is_added():
    assert struck(count=0).data.digest == INDEX.digest


def test_what_cannot_be_done_is_refused():
    with pytest.raises(Incompatible, match="the surrogate has none"):
        struck(optimised=True, retriever=Shared())
    with pytest.raises(Incompatible, match="task=facts"):
        struck(rows=INDEX)
    with pytest.raises(ConfigError, match="action=r is no candidate answer of the task; choose another one, such as x, y, z"):
        struck(action="r")
    with pytest.raises(ConfigError, match=r"has 9 words and a row of the task 8 places; raise task\.room by 1"):
        struck(words=("p", "q", "p", "q", "p"))
    with pytest.raises(ConfigError, match="'cf' is not in the vocabulary"):
        struck(words=("cf",))


def test_without_a_link_the_action_follows_the_trigger():
    assert row(G, P, Q, Y) in struck(link="").goal.texts.tolist()


@pytest.mark.parametrize("change", [{"words": ()}, {"action": ""}, {"clusters": 0}, {"requests": 0}, {"compact": -1.0}, {"steps": -1}])
def test_fields_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))}="):
        struck(**change)
