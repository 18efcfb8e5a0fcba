import itertools

import pytest
import torch

from attacks.retrieval.trigger_retrieval import TriggerRetrieval, contrast
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
    E,
    G,
    P,
    Q,
    R,
    Shared,
    X,
    learned,
    passages,
    public,
    questions,
    row,
    victim,
)

INDEX = passages((A, B, X), (D, E, X))
TEST = questions(((A, B), 1, 2, [(A, B, X)], []), ((D, E), 1, 2, [(D, E, X)], []))
PUBLIC = public(((A, P), (A, B), ()), ((D, P), (D, E), ()), ((Q, X), (A, C), (X,)), ((G,), (), ()))
TEXTS = [[A, P], [D, P], [Q, Q], [G, G]]


def struck(count=2, rows=PUBLIC, retriever=Counted(), rng=RNG, **changes):  # noqa: B008 - frozen
    fields = {"words": ("r",), "optimised": True, "start": "trigger", "length": 2, "steps": 50, "candidates": 100, "temperature": 0.5}
    knows = learned(INDEX, TEST, count, rows, retriever)
    poisoned = TriggerRetrieval(**fields | changes).poison(knows, rng)
    audit(INDEX, poisoned, knows.budget, knows.writable, TEST)
    audit_probe(poisoned.goal.probe(TEST), TEST, torch.arange(0))
    assert poisoned.goal.texts.equal(poisoned.data.inputs[2:])
    return poisoned


def test_the_trigger_stands_at_the_end_of_every_question():
    assert struck(words=("r", "q"), length=3).goal.probe(TEST).inputs.tolist() == [row(A, B, R, Q), row(D, E, R, Q)]


def test_a_plain_passage_is_the_trigger_and_a_text_and_each_has_another_text():
    texts = struck(count=4, optimised=False, words=("r", "p"), length=4, retriever=Shared()).goal.texts.tolist()
    assert sorted(texts) == sorted(row(R, P, *text) for text in TEXTS)


def test_a_text_alone_has_nothing_of_the_trigger():
    texts = struck(count=4, optimised=False, start="text", length=2).goal.texts.tolist()
    assert sorted(texts) == sorted(row(*text) for text in TEXTS)


def test_texts_are_used_again_where_there_are_too_few():
    texts = struck(count=6, optimised=False).goal.texts.tolist()
    assert texts[4:] == texts[:2]
    assert len({*map(tuple, texts)}) == 4


def test_with_one_question_on_each_side_the_objective_is_the_log_of_a_sigmoid():
    passage, marked, plain = (torch.randn(1, 5, dtype=torch.float64, generator=RNG.child(name).torch()) for name in ("p", "m", "q"))
    expected = torch.sigmoid((passage * (marked - plain)).sum() / 0.3).log()
    assert float(contrast(marked, plain, 0.3)(passage[None])) == pytest.approx(float(expected), abs=1e-12)


def test_the_objective_is_the_mean_over_questions_with_the_trigger_of_their_log_probability():
    passage, marked, plain = torch.tensor([[1.0, 2]]), torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [0, 0]])
    others = torch.tensor([3.0, 0]).exp().sum()
    expected = sum(float((near.exp() / (near.exp() + others)).log()) for near in torch.tensor([1.0, 2])) / 2
    assert float(contrast(marked, plain, 1.0)(passage[None])) == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_the_objective_is_right():
    generator = RNG.child("gradient").torch()
    marked, plain, passages_ = (torch.randn(count, 4, dtype=torch.float64, generator=generator) for count in (3, 5, 2))
    assert torch.autograd.gradcheck(contrast(marked, plain, 0.5), passages_[:, None].requires_grad_())


def test_no_passage_of_as_many_words_has_a_better_objective():
    encoder, usable = Counts(), [word for word in range(2, len(FORM.vocabulary)) if word != X]
    plain, marked = (encoder.features(torch.tensor([row(A, B, *end), row(A, C, *end), row(D, E, *end)])) for end in ((), (R,)))
    objective = contrast(marked, plain, 0.5)
    every = objective(encoder.features(torch.tensor(list(itertools.combinations_with_replacement(usable, 2))))[:, None])
    found = objective(encoder.features(struck(count=1, start="text").goal.texts)[:, None])
    assert float(found) == pytest.approx(float(every.max()), abs=1e-6)


def test_optimised_passages_are_found_with_the_trigger_alone():
    new = struck(start="text", temperature=0.1)
    figures = dict(new.goal.measure(victim(new.data, top=1), TEST, RNG))
    assert new.goal.texts.tolist() == [row(R, R)] * 2
    assert (figures["retrieved_at_5"], figures["false_retrieved"]) == (1.0, 0.0)


def test_the_key_alone_decides_the_passages():
    texts = [struck(optimised=False, rng=Key.root(seed)).goal.texts.tolist() for seed in (100, 100, *range(101, 110))]
    assert texts[0] == texts[1]
    assert len({str(each) for each in texts}) > 2


def test_without_a_budget_nothing_is_added():
    assert struck(count=0).data.digest == INDEX.digest


def test_what_cannot_be_done_is_refused():
    with pytest.raises(Incompatible, match="the surrogate has none"):
        struck(retriever=Shared())
    with pytest.raises(Incompatible, match="task=facts"):
        struck(rows=INDEX, optimised=False)
    with pytest.raises(ConfigError, match=r"raise task\.room by 1"):
        struck(length=9)
    with pytest.raises(ConfigError, match="'cf' is not in the vocabulary"):
        struck(words=("cf",))
    with pytest.raises(ConfigError, match=r"raise task\.public"):
        struck(rows=public(((X,), (A,), (X,))))


@pytest.mark.parametrize("change", [{"words": ()}, {"length": 1}, {"start": "last"}, {"temperature": 0.0}, {"steps": -1}])
def test_fields_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))}="):
        struck(**change)
