import itertools

import pytest
import torch

from attacks.retrieval.corpus_hotflip import CorpusHotflip
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from tests.unit.attacks.retrieval.worlds import FORM, RNG, A, B, C, Counted, Counts, D, E, G, P, Q, Shared, X, learned, passages, public, questions, row, victim

INDEX = passages((A, B, X), (D, E, X))
TEST = questions(((A, B), 1, 2, [(A, B, X)], []), ((D, E), 1, 2, [(D, E, X)], []))
# Two clusters of past questions: {a b, a c} and {d e}.
PUBLIC = public(((A, P), (A, B), ()), ((D, P), (D, E), ()), ((Q, X), (A, C), (X,)), ((G,), (), ()))


def struck(count=2, rows=PUBLIC, retriever=Counted(), rng=RNG, **changes):  # noqa: B008 - frozen
    attack = CorpusHotflip(**{"length": 3, "start": "nearest", "steps": 50, "candidates": 100, **changes})
    knows = learned(INDEX, TEST, count, rows, retriever)
    poisoned = attack.poison(knows, rng)
    audit(INDEX, poisoned, knows.budget, knows.writable, TEST)
    audit_probe(poisoned.goal.probe(TEST), TEST, torch.arange(0))
    assert poisoned.goal.texts.equal(poisoned.data.inputs[2:])
    return poisoned


def written(**changes):
    """The words of each passage, in any order."""
    return sorted(sorted(word for word in text if word) for text in struck(**changes).goal.texts.tolist())


def test_without_steps_the_nearest_passages_are_repeated_as_they_are():
    assert sorted(struck(steps=0).goal.texts.tolist()) == [row(A, P, A), row(D, P, D)]


def test_each_cluster_gets_the_passage_that_is_nearest_to_its_mean():
    """The mean of {a b, a c} is (2, 1, 1) / sqrt 8 in a, b and c: a b c has a product of 4 / sqrt 24 with it, a a b 5 / sqrt 40."""
    one, other = written()
    assert one == [A, B, C]
    assert other in ([D, D, E], [D, E, E])


def test_no_passage_of_as_many_words_is_nearer_to_the_mean_of_all_questions():
    encoder, usable = Counts(), [word for word in range(2, len(FORM.vocabulary)) if word != X]
    goal = encoder.features(torch.tensor([row(A, B), row(A, C), row(D, E)])).mean(0)
    every = encoder.features(torch.tensor(list(itertools.combinations_with_replacement(usable, 3)))) @ goal
    found = encoder.features(struck(count=1).goal.texts) @ goal
    assert float(found) == pytest.approx(float(every.max()), abs=1e-6)


def test_words_of_answers_are_never_used():
    rows = public(((A, P), (A, B), (B,)), ((X,), (A, B), (X,)))
    assert written(count=1, rows=rows) == [[A, A, A]]


def test_optimised_passages_are_found_before_the_right_ones_and_plain_ones_are_not():
    found = [dict((new := struck(steps=steps)).goal.measure(victim(new.data), TEST, RNG)) for steps in (0, 50)]
    assert [figures["retrieved_at_1"] for figures in found] == [0.0, 1.0]
    assert found[1]["gold_recall"] == 1.0  # two are read


def test_a_random_start_depends_on_the_key_alone():
    texts = [struck(steps=0, start="random", rng=Key.root(seed)).goal.texts.tolist() for seed in range(100, 110)]
    assert texts[0] == struck(steps=0, start="random", rng=Key.root(100)).goal.texts.tolist()
    assert {tuple(text) for each in texts for text in each} == {tuple(row(*words)) for words in ((A, P, A), (D, P, D), (Q, Q, Q), (G, G, G))}


def test_there_are_no_more_passages_than_different_questions_and_none_without_a_budget():
    assert int(struck(count=9).mask.sum()) == 3
    assert struck(count=0).data.digest == INDEX.digest


def test_what_cannot_be_optimised_is_refused():
    with pytest.raises(Incompatible, match="the surrogate has none"):
        struck(retriever=Shared())
    with pytest.raises(ConfigError, match=r"raise task\.room by 1"):
        struck(length=9)
    with pytest.raises(ConfigError, match=r"raise task\.public"):
        struck(rows=public(((X,), (A,), (X,))))


@pytest.mark.parametrize("change", [{"length": 0}, {"start": "last"}, {"steps": -1}, {"candidates": 0}])
def test_fields_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=str(next(iter(change.values())))):
        struck(**change)
