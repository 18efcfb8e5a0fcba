"""N-gram models on a corpus that is counted by hand."""

import math

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import Ngrams

# "a b", "a b", "a c", with a = 1, b = 2, c = 3; word 4 occurs nowhere
CORPUS = torch.tensor([[1, 2, 0], [1, 2, 0], [1, 3, 0]])


def windows_of(context: list[int], size: int) -> torch.Tensor:
    return torch.tensor([[*context, word] for word in range(size)])


def random_rows(rows: int, length: int, size: int, seed: int = 0) -> torch.Tensor:
    """Return rows of random words and random lengths, some of them empty and some full."""
    generator = Key.root(seed).torch()
    tokens = torch.randint(1, size, (rows, length), generator=generator)
    lengths = torch.randint(0, length + 1, (rows, 1), generator=generator)
    return tokens * (torch.arange(length) < lengths)


def test_bigram_probabilities_are_those_computed_by_hand():
    model = Ngrams.of(CORPUS, 2, 5)
    # bigrams: <>a 3, ab 2, ac 1, b<> 2, c<> 1: two occur once and two twice, so the discount is 2 / (2 + 4) = 1/3
    # preceding words: a 1 (<>), b 1 (a), c 1 (a), <> 2 (b, c): three count one and one counts two, so the discount is 3 / (3 + 2) = 3/5
    unigram_b = (1 - 0.6) / 5 + 0.6 * 4 / 5 * (1 / 5)
    expected = (2 - 1 / 3) / 3 + (1 / 3) * 2 / 3 * unigram_b
    assert math.isclose(model.logs(torch.tensor([1, 2])).exp(), expected, rel_tol=1e-12)
    never = 0.6 * 4 / 5 * (1 / 5)
    assert math.isclose(model.logs(torch.tensor([1, 4])).exp(), (1 / 3) * 2 / 3 * never, rel_tol=1e-12)
    assert math.isclose(model.logs(torch.tensor([4, 2])).exp(), unigram_b, rel_tol=1e-12)  # a context that was never seen


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_after_every_context_sum_to_one(order):
    model = Ngrams.of(random_rows(200, 8, 12), order, 14)  # words 12 and 13 occur nowhere
    for context in ([0, 0], [0, 3], [3, 5], [13, 5], [13, 13], [11, 0]):
        logs = model.logs(windows_of(context, 14)[:, -order:])
        assert math.isclose(logs.exp().sum(), 1, abs_tol=1e-12)
        assert logs.isfinite().all()


def test_perplexity_is_that_of_the_words_and_the_end():
    model = Ngrams.of(CORPUS, 2, 5)
    logs = model.logs(torch.tensor([[0, 1], [1, 2], [2, 0]]))
    assert math.isclose(model.perplexity(torch.tensor([[1, 2, 0]])), math.exp(-logs.mean()), rel_tol=1e-12)
    torch.testing.assert_close(model.perplexity(torch.tensor([[1, 2]])), model.perplexity(torch.tensor([[1, 2, 0, 0]])))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_gain_of_a_word_is_the_perplexity_with_it_less_that_without_it(order):
    model, rows = Ngrams.of(random_rows(100, 7, 9), order, 11), random_rows(40, 7, 11, seed=1)
    gains, whole = model.gains(rows), model.perplexity(rows)
    assert (rows != 0).all(1).any()
    for row, words in enumerate(rows):
        length = int((words != 0).sum())
        assert (gains[row, length:] == -torch.inf).all()
        for place in range(length):
            less = torch.cat([words[:place], words[place + 1 :]])[None]
            assert math.isclose(gains[row, place], whole[row] - model.perplexity(less), rel_tol=1e-9, abs_tol=1e-9)


def test_a_word_that_occurs_nowhere_has_the_largest_gain():
    model = Ngrams.of(CORPUS, 2, 5)
    assert model.gains(torch.tensor([[1, 4, 2, 0]])).argmax() == 1


def test_a_model_of_its_counts_is_the_same_model():
    rows = random_rows(100, 7, 9)
    model = Ngrams.of(rows, 3, 11)
    again = Ngrams(grams=model.grams.clone(), counts=model.counts.clone(), size=11)
    assert torch.equal(model.perplexity(rows), again.perplexity(rows))


def test_a_vocabulary_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"defense\.train\.order=3: .*2,097,152 words .*give 2 or less"):
        Ngrams.of(CORPUS, 3, 1 << 21)
