import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from attacks.retrieval.reads import marks_of, reads
from poisonbench.core.rng import Key
from tests.unit.attacks.retrieval.worlds import A, B, C, P, Q, X, Y, Z, passages, questions, row, victim

ANSWERS = questions(((A,), 1, 2, [], [])).ask
ANSWERS = ANSWERS.table[ANSWERS.of]


def test_of_equal_scores_poison_is_read_first_and_gold_last():
    index = passages((A, P), (A, X), (A, Q), (A, Y), (B, Z))  # all four share one word with the question; two are read
    gold, poison = (marks_of(torch.tensor([[row(*words)]])) for words in ((A, X), (A, Y)))
    read = reads(victim(index), torch.tensor([row(A)]), ANSWERS)
    assert read.sure.tolist() == [[0, 0]]
    assert (int(read.least(gold)), int(read.most(poison)), int(read.places)) == (0, 1, 2)
    whole = reads(victim(index, top=4), torch.tensor([row(A)]), ANSWERS)  # the tie is read whole
    assert (int(whole.least(gold)), int(whole.most(poison)), int(whole.places)) == (1, 1, 0)


def test_more_copies_than_places_count_as_many_as_there_are_places():
    index = passages((A, B, X), (A, P), (A, Y), (A, Y), (A, Y))
    read = reads(victim(index, top=3), torch.tensor([row(A, B)]), ANSWERS)
    assert int(read.most(marks_of(torch.tensor([[row(A, Y)]])))) == 2
    assert read.sure[0].tolist() == [int(marks_of(torch.tensor([row(A, B, X)]))), 0, 0]


@dataclass(frozen=True, kw_only=True)
class First:
    """Keep the first passage of each question alone."""

    VERSION: ClassVar[int] = 1

    def depth(self, top):
        return top

    def keep(self, found):
        return torch.arange(len(found.scores)) == 0


def test_behind_a_filter_what_it_left_is_taken_as_it_is():
    index = passages((A, P), (A, X), (A, Y))
    read = reads(victim(index, sifts=(First(),)), torch.tensor([row(A)]), ANSWERS)
    assert read.sure[0].tolist() == [int(marks_of(torch.tensor([row(A, P)]))), 0]
    assert not read.places.any()


@pytest.mark.parametrize("seed", range(100, 120))
def test_the_least_and_the_most_are_those_over_all_orders_of_equal_scores(seed):
    draws = Key.root(seed).numpy()
    scores, top = draws.integers(1, 4, 6), int(draws.integers(1, 6))
    shared = [(A, B, C)[:score] for score in scores]
    index = passages(*((*words, P, *[Q] * place) for place, words in enumerate(shared)), length=12)  # six different texts
    marks = marks_of(index.inputs)
    gold, poison = marks[None, draws.permutation(6)[:3]], marks[None, draws.permutation(6)[:2]]
    read = reads(victim(index, top=top), torch.tensor([row(A, B, C, length=12)]), ANSWERS)
    orders = [order[:top] for order in itertools.permutations(range(6)) if all(scores[one] >= scores[two] for one, two in itertools.pairwise(order))]
    assert int(read.least(gold)) == min(int(torch.isin(marks[list(order)], gold).sum()) for order in orders)
    assert int(read.most(poison)) == max(int(torch.isin(marks[list(order)], poison).sum()) for order in orders)
