import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks.retrieval.hotflip import Draft, HotFlip, slopes, towards, value, values
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Worded
from poisonbench.core.rng import Key
from poisonbench.runner.stages import Line

KEY = Key.root(100)
WORDS = 12  # of the vocabulary: padding, <unk> and ten others


class Encoder(nn.Module):
    """The weighted sum of embeddings, as it is or after a layer and divided by its length."""

    def __init__(self, *, linear: bool, weights: tuple[float, ...] = (1.0,) * 6, words: int = WORDS, width: int = 4) -> None:
        super().__init__()
        generator = KEY.child("encoder").torch()
        self.vectors = nn.Parameter(torch.randn(words, width, generator=generator, dtype=torch.float64))
        self.mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
        self.weights, self.linear = torch.tensor(weights, dtype=torch.float64), linear
        self.known = torch.ones(words, dtype=torch.bool)
        with torch.no_grad():
            self.vectors[0] = 0.0

    @property
    def table(self):
        return self.vectors

    def lift(self, inputs):
        return self.vectors[inputs]

    def features(self, inputs):
        lifted = inputs if inputs.is_floating_point() else self.lift(inputs)
        total = (lifted * self.weights[: lifted.shape[1], None]).sum(1)
        return total if self.linear else F.normalize(torch.tanh(total @ self.mixing) + total)


def goal(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, generator=KEY.child(f"goal/{seed}").torch(), dtype=torch.float64)


def passage(length: int = 4, free: tuple[int, ...] = (0, 1, 3)) -> Draft:
    return Draft(texts=torch.tensor([[2, 3, 4, 5, 0, 0][:length]]), places=torch.tensor([free]))


def trigger() -> Draft:
    """Three questions of different lengths with the same two words at their ends."""
    return Draft(texts=torch.tensor([[4, 2, 3, 0, 0], [5, 6, 7, 2, 3], [8, 9, 2, 3, 0]]), places=torch.tensor([[1, 2], [3, 4], [2, 3]]))


def everything(draft: Draft, module: Encoder) -> torch.Tensor:
    """All choices of the free words."""
    usable = draft.usable(module).nonzero()[:, 0].tolist()
    return torch.tensor(list(itertools.product(usable, repeat=draft.places.shape[1])))


def test_free_words_are_written_at_their_places_in_every_text():
    written = trigger().written(torch.tensor([[10, 11], [2, 9]]))
    assert written.shape == (2, 3, 5)
    assert written[0].tolist() == [[4, 10, 11, 0, 0], [5, 6, 7, 10, 11], [8, 9, 10, 11, 0]]
    assert written[1].tolist() == [[4, 2, 9, 0, 0], [5, 6, 7, 2, 9], [8, 9, 2, 9, 0]]
    assert trigger().words.tolist() == [2, 3]


@pytest.mark.parametrize("draft", [passage(), trigger()])
def test_the_first_order_estimate_is_the_slope_of_the_objective_towards_another_word(draft):
    """Against central differences, for every word at every place."""
    module, objective, h = Encoder(linear=False), towards(goal()), 1e-6
    estimates = slopes(draft, module, objective) @ module.table.detach().T
    texts = torch.arange(len(draft.texts))
    for free, old in enumerate(draft.words.tolist()):
        for new in range(1, WORDS):
            moved = []
            for step in (h, -h):
                lifted = module.lift(draft.texts).detach()
                lifted[texts, draft.places[:, free]] += step * (module.table[new] - module.table[old]).detach()
                moved.append(float(objective(module.features(lifted)[None]).detach()))
            assert float(estimates[free, new] - estimates[free, old]) == pytest.approx((moved[0] - moved[1]) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("draft", [passage(), trigger()])
def test_a_linear_encoder_gets_the_best_of_all_texts(draft):
    """Each free word is the best one for its place, whose weight may be negative."""
    module, objective = Encoder(linear=True, weights=(1.0, -2.0, 0.5, -0.5, 3.0)), towards(goal())
    found = HotFlip(steps=20, candidates=WORDS).improved(draft, module, objective, KEY)
    every = everything(draft, module)
    exact = values(draft, module, objective, every)
    assert found.words.tolist() == every[exact.argmax()].tolist()
    assert value(found, module, objective) == pytest.approx(float(exact.max()), abs=1e-12)


def test_with_a_mean_of_embeddings_every_place_takes_the_word_nearest_to_the_goal():
    module = Encoder(linear=True)
    found = HotFlip(steps=10, candidates=1).improved(passage(), module, towards(goal()), KEY)
    best = int((module.table[2:] @ goal()).argmax()) + 2
    assert found.texts.tolist() == [[best, best, 4, best]]


@pytest.mark.parametrize("candidates", [1, WORDS])
@pytest.mark.parametrize("draft", [passage(), trigger()])
def test_the_search_ends_where_no_candidate_at_any_place_is_better(draft, candidates):
    """Candidates by the gradient at the words that were found."""
    module = Encoder(linear=False)
    for seed in range(20):
        objective = towards(goal(seed))
        found = HotFlip(steps=200, candidates=candidates).improved(draft, module, objective, KEY)
        estimates = slopes(found, module, objective) @ module.table.detach().T
        for free in range(len(found.words)):
            best = estimates[free, 2:].argsort(descending=True)[:candidates] + 2
            beside = found.words.repeat(len(best), 1)
            beside[:, free] = best
            assert float(values(found, module, objective, beside).max()) <= value(found, module, objective) + 1e-12


@pytest.mark.parametrize("candidates", [1, 3, WORDS])
@pytest.mark.parametrize("draft", [passage(), trigger()])
def test_the_objective_never_falls_with_more_steps(draft, candidates):
    module, objective = Encoder(linear=False), towards(goal())
    found = [value(HotFlip(steps=steps, candidates=candidates).improved(draft, module, objective, KEY), module, objective) for steps in range(15)]
    assert found[0] == value(draft, module, objective)
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_one_step_with_one_candidate_takes_the_word_of_the_best_estimate_if_it_is_better():
    module, better = Encoder(linear=False), 0
    for seed in range(20):
        draft, objective = passage(free=(1,)), towards(goal(seed))
        best = int((module.table[2:] @ slopes(draft, module, objective)[0]).argmax()) + 2
        candidate, old = float(values(draft, module, objective, torch.tensor([[best]]))), value(draft, module, objective)
        found = HotFlip(steps=1, candidates=1).improved(draft, module, objective, KEY)
        assert found.words.tolist() == [best if candidate > old else 3]
        better += candidate > old
    assert 0 < better < 20  # both cases occur


def test_fixed_words_and_padding_stay():
    draft = trigger()
    found = HotFlip(steps=30, candidates=WORDS).improved(draft, Encoder(linear=False), towards(goal()), KEY)
    assert not torch.equal(found.texts, draft.texts)
    assert torch.equal(found.rewritten(draft.words).texts, draft.texts)
    assert torch.equal(draft.rewritten(found.words).texts, found.texts)


def test_padding_unknown_and_banned_words_are_never_used_even_if_they_are_the_best():
    module, direction = Encoder(linear=True), goal()
    order = (module.table[2:] @ direction).argsort(descending=True) + 2
    with torch.no_grad():
        module.vectors[[0, 1]] = 100 * direction
    module.known[order[0]] = False
    for start in (0, 1, *order[:3].tolist(), int(order[3])):
        draft = dataclasses.replace(passage(), banned=order[1:3]).rewritten(torch.tensor([start, int(order[5]), start]))
        found = HotFlip(steps=20, candidates=WORDS).improved(draft, module, towards(direction), KEY)
        assert found.words.tolist() == [int(order[3])] * 3


def test_free_words_that_may_not_be_used_are_drawn_at_random_and_others_are_kept():
    module, none = Encoder(linear=False), HotFlip(steps=0, candidates=1)
    module.known[7] = False
    draft = dataclasses.replace(passage(), banned=torch.tensor([2, 5])).rewritten(torch.tensor([1, 4, 7]))
    drawn = torch.stack([none.improved(draft, module, towards(goal()), Key.root(seed)).words for seed in range(100, 300)])
    assert (drawn[:, 1] == 4).all()
    assert set(drawn[:, 0].tolist()) == set(drawn[:, 2].tolist()) == {3, 4, 6, 8, 9, 10, 11}


def test_a_draft_without_a_usable_word_is_refused():
    module = Encoder(linear=True)
    module.known[2:] = False
    with pytest.raises(ConfigError, match="knows none of the words"):
        HotFlip(steps=1, candidates=1).improved(passage(), module, towards(goal()), KEY)


@pytest.mark.parametrize("change", [{"steps": -1}, {"candidates": 0}])
def test_numbers_that_define_no_search_are_refused(change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))}={next(iter(change.values()))}"):
        HotFlip(**{"steps": 1, "candidates": 1} | change)


def test_the_key_alone_decides_the_order_of_places():
    module, objective, plan = Encoder(linear=False), towards(goal()), HotFlip(steps=1, candidates=WORDS)
    texts = [plan.improved(passage(), module, objective, Key.root(seed)).texts for seed in range(100, 110)]
    assert all(torch.equal(text, plan.improved(passage(), module, objective, Key.root(seed)).texts) for seed, text in zip(range(100, 110), texts, strict=True))
    assert len({tuple(text.flatten().tolist()) for text in texts}) == 3  # one for each place


def test_the_average_product_with_questions_is_the_product_with_their_mean():
    questions, features = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(towards(questions.mean(0))(features), (features[:, 0] @ questions.T).mean(1))


def test_choices_in_several_batches_have_the_same_values(monkeypatch):
    draft, module, objective = trigger(), Encoder(linear=False), towards(goal())
    every = everything(draft, module)
    whole = values(draft, module, objective, every)
    monkeypatch.setattr("attacks.retrieval.hotflip.ROWS", 10)  # three choices at a time
    torch.testing.assert_close(values(draft, module, objective, every), whole)


def test_a_victim_of_words_can_be_searched(tiny, store):
    """The features of a text reach further in a direction than those of any training row."""
    experiment = tiny("attack=none", "task=sentiment", "task.rows=200", "learner=text", "learner.epochs=2")
    line, data = Line(experiment=experiment, store=store), experiment.task.train
    module = experiment.learner.fit(data, line.honest, KEY).module
    assert isinstance(module, Worded)
    texts = module.features(module.lift(data.inputs)).detach()
    direction = texts[data.labels == 1].mean(0) - texts[data.labels == 0].mean(0)
    draft = Draft(texts=data.inputs[:1], places=torch.arange(8)[None])
    found = HotFlip(steps=40, candidates=20).improved(draft, module, towards(direction), KEY)
    assert module.known[found.words].all()
    assert value(found, module, towards(direction)) > float((texts @ direction).max())
