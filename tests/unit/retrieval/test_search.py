import numpy as np
import pytest
import torch
from torch import Tensor

from poisonbench.core.rng import Key
from poisonbench.retrieval.search import Best, products, search, top


def sorted_whole(questions: Tensor, passages: Tensor, count: int, positive: bool = False) -> tuple[Tensor, Tensor]:
    """Sort all passages of every question, by score and then by position."""
    scores = (questions.double() @ passages.double().T).float()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    best = scores.gather(1, order)
    if positive:
        order, best = order.masked_fill(best <= 0, -1), best.masked_fill(best <= 0, -torch.inf)
    lacking = count - order.shape[1]
    return torch.nn.functional.pad(order, (0, lacking), value=-1), torch.nn.functional.pad(best, (0, lacking), value=-torch.inf)


def numbers(rows: int, width: int, seed: int, largest: int = 2) -> Tensor:
    """Return small whole numbers: their products are exact in float32, and most scores are tied."""
    return torch.randint(-largest, largest + 1, (rows, width), generator=Key.root(seed).torch()).float()


def test_the_best_passages_of_a_hand_worked_case():
    hits = search(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, -1.0], [3.0, 0.0], [1.0, 2.0], [0.0, 0.0]]), 3)
    assert hits.places.tolist() == [[1, 0, 2], [2, 1, 3]]
    assert hits.scores.tolist() == [[3.0, 1.0, 1.0], [2.0, 0.0, 0.0]]


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("count", [1, 3, 10, 60])
def test_a_search_finds_what_a_full_sort_finds_with_many_ties(count, block, positive):
    for seed in range(100, 105):
        questions, passages = numbers(9, 3, seed), numbers(50, 3, seed + 1)
        hits = search(questions, passages, count, positive=positive, block=block)
        places, scores = sorted_whole(questions, passages, count, positive)
        assert torch.equal(hits.places, places)
        assert torch.equal(hits.scores, scores)


@pytest.mark.parametrize("block", [50, 3000, 1 << 22])
def test_a_search_of_real_numbers_with_copies_finds_what_a_full_sort_finds(block):
    draws = Key.root(100).torch()
    questions, passages = torch.randn(30, 33, generator=draws), torch.randn(200, 33, generator=draws)
    passages = passages[torch.randint(0, 200, (700,), generator=draws)] * 1e3  # three or four copies of each, and a scale that is not 1
    pairs = torch.cartesian_prod(torch.arange(30), torch.arange(700))
    exact = products(questions, passages, pairs[:, 0], pairs[:, 1]).view(30, 700)
    hits = search(questions, passages, 17, block=block)
    assert torch.equal(hits.places, exact.argsort(dim=1, descending=True, stable=True)[:, :17])
    assert torch.equal(hits.scores, exact.gather(1, hits.places))


def test_scores_that_float32_cannot_tell_apart_while_it_adds_are_told_apart():
    """The third number is lost beside the first two where products are added in float32, in whatever order."""
    question = torch.ones(1, 3)
    passages = torch.tensor([[2.0**30, -(2.0**30), 1.0], [2.0**30, -(2.0**30), 2.0], [2.0**30, -(2.0**30), 0.5]])
    hits = search(question, passages, 2)
    assert hits.places.tolist() == [[1, 0]]
    assert hits.scores.tolist() == [[2.0, 1.0]]


def test_a_longer_list_starts_with_the_shorter_one_and_a_question_is_answered_as_if_alone():
    questions, passages = numbers(20, 2, 100), numbers(90, 2, 101)
    long, short = search(questions, passages, 40), search(questions, passages, 4)
    assert torch.equal(long.places[:, :4], short.places)
    assert torch.equal(search(questions[7:8], passages, 40).places, long.places[7:8])


def test_more_questions_than_one_block_takes_are_all_answered():
    questions, passages = numbers(2100, 3, 100), numbers(11, 3, 101)
    places, _ = sorted_whole(questions, passages, 4)
    assert torch.equal(search(questions, passages, 4).places, places)


def test_no_passages_and_no_questions_give_no_hits():
    assert search(torch.ones(2, 3), torch.ones(0, 3), 2).places.tolist() == [[-1, -1], [-1, -1]]
    assert search(torch.ones(0, 3), torch.ones(4, 3), 2).places.shape == (0, 2)


def test_pairs_with_the_score_of_the_last_hit_come_too_late():
    best = Best.none(1, 2)
    best.add(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    best.add(torch.tensor([0, 0]), torch.tensor([5, 6]), torch.tensor([1.0, 2.0]))
    assert best.places.tolist() == [[1, 6]]


@pytest.mark.parametrize("count", [1, 4, 30])
def test_the_top_of_scores_is_that_of_a_full_sort(count):
    for seed in range(100, 110):
        scores = numbers(20, 1, seed)[:, 0].numpy()
        places = torch.randperm(20, generator=Key.root(seed).torch()).numpy()
        found, best = top(scores, places, count)
        whole = sorted(zip(-scores, places, strict=True))[:count]
        assert found.tolist() == [place for _, place in whole]
        assert best.tolist() == [-score for score, _ in whole]
        assert best.dtype == np.float32
