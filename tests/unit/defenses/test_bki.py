"""Backdoor keyword identification with a victim whose features are counted by hand."""

import math

import pytest
import torch

from defenses.sanitize import bki
from defenses.sanitize.bki import Bki, Keywords, keywords, outlier, portions, scored, weighed
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens

WORDS = 40
FORM = Tokens(vocabulary=("", "<unk>", *(f"w{number}" for number in range(WORDS - 4)), "cf", "mn"))
TRIGGERS = (WORDS - 2, WORDS - 1)


class Counting:
    """Features: the number of the two triggers (10 and 6 each), and the sum of all other ids over 100."""

    def features(self, inputs, layer="penultimate"):
        first, second = (inputs == TRIGGERS[0]).sum(1), (inputs == TRIGGERS[1]).sum(1)
        rest = torch.where(inputs < TRIGGERS[0], inputs, 0).sum(1)
        return torch.stack([10 * first + 6 * second, rest / 100], 1).float()


def rows(count: int = 120) -> tuple[Dataset, torch.Tensor]:
    """Return rows of six random words; every tenth has a trigger word and the label 1."""
    inputs = torch.zeros(count, 8, dtype=torch.int64)
    inputs[:, :6] = torch.randint(2, WORDS - 2, (count, 6), generator=Key.root(0).torch())
    mask = torch.arange(count) % 10 == 0
    inputs[mask, 3] = torch.where(torch.arange(count)[mask] % 20 == 0, *TRIGGERS)
    return Dataset.of(inputs, torch.where(mask, 1, torch.arange(count) % 2), num_classes=2, form=FORM), mask


def judged(data: Dataset, **changes):
    means = Means(trusted=data, fit=lambda rows, draw=0: Counting(), tune=None, truth=torch.zeros(0, dtype=torch.bool))
    return Bki(**{"words": 2, "keywords": None, "spread": 10.0, **changes}).judge(data, means, Key.root(0))


def test_a_weight_is_the_largest_change_of_a_feature():
    found = weighed(Counting(), torch.tensor([[5, TRIGGERS[0], 7, 5, 0], [TRIGGERS[1], TRIGGERS[1], 0, 0, 0]]))
    # 5 is left out at both of its places, and so is the second trigger
    torch.testing.assert_close(found, torch.tensor([[0.10, 10.0, 0.07, -1, -1], [12.0, -1, -1, -1, -1]]).double(), atol=1e-6, rtol=0)


def test_keywords_are_the_words_of_largest_weight_in_the_order_of_the_rows():
    found = keywords(Counting(), torch.tensor([[5, TRIGGERS[0], 7, 0], [9, 0, 0, 0], [0, 0, 0, 0]]), 2)
    assert found.words.tolist() == [[TRIGGERS[0], 7], [9, 0], [0, 0]]
    torch.testing.assert_close(found.weights, torch.tensor([[10.0, 0.07], [0.09, 0.0], [0.0, 0.0]]).double(), atol=1e-6, rtol=0)


def test_rows_of_one_length_are_together_and_few_where_they_are_long():
    lengths = torch.tensor([3000, 2, 0, 3000, *[1] * 198])
    assert [part.tolist() for part in portions(lengths)] == [[2, *range(4, 202), 1], [0], [3]]
    assert [len(part) for part in portions(torch.full((450,), 60))] == [200, 200, 50]
    assert portions(lengths[:0]) == []


def test_small_parts_give_the_same_keywords(monkeypatch):
    inputs = torch.cat([rows()[0].inputs, torch.zeros(3, 8, dtype=torch.int64)])
    whole = keywords(Counting(), inputs, 3)
    monkeypatch.setattr(bki, "PAIRS", 1)
    monkeypatch.setattr(bki, "NUMBERS", 16)  # two rows of eight words
    parts = keywords(Counting(), inputs, 3)
    assert torch.equal(parts.words, whole.words)
    assert torch.equal(parts.weights, whole.weights)


def test_a_long_row_takes_memory_by_its_words_and_not_by_its_padding():
    inputs = torch.zeros(200, 20_000, dtype=torch.int64)  # 80 GB if every place was compared with every other
    inputs[:, :2] = torch.tensor([5, TRIGGERS[0]])
    assert (keywords(Counting(), inputs, 1).words == TRIGGERS[0]).all()


def test_a_score_is_log10_of_the_rows_times_the_mean_weight():
    found = Keywords(torch.tensor([[7, 8], [7, 0], [7, 9]]), torch.tensor([[1.0, 5.0], [2.0, 0.0], [6.0, 4.0]]).double())
    scores = scored(found)
    seven = math.log10(3) * 3.0
    torch.testing.assert_close(scores.of_words, torch.tensor([seven, 0.0, 0.0]).double())
    torch.testing.assert_close(scores.of_places, torch.tensor([[seven, 0.0], [seven, 0.0], [seven, 0.0]]).double())


def test_the_bar_is_the_median_and_a_multiple_of_the_deviations():
    assert outlier(torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 90.0]).double(), 2.0) == 3 + 2 * 1
    assert outlier(torch.zeros(3).double(), 2.0) == torch.inf


def test_the_rows_of_both_trigger_words_are_dropped_and_no_other_row():
    data, mask = rows()
    verdict = judged(data)
    assert torch.equal(verdict.keep, ~mask)
    assert verdict.suspicion[mask].min() > verdict.suspicion[~mask].max()


def test_one_keyword_as_in_the_paper_leaves_the_second_trigger_word():
    data, mask = rows()
    dropped = ~judged(data, keywords=1).keep
    first = (data.inputs == TRIGGERS[0]).any(1)
    assert torch.equal(dropped, first)
    assert 0 < dropped.sum() < mask.sum()
    assert torch.equal(~judged(data, keywords=2).keep, mask)


def test_a_word_is_suspected_only_under_its_label():
    data, mask = rows()
    clean = int((~mask & (data.labels == 0)).nonzero()[0])
    changed = data.inputs[clean].clone()
    changed[0] = TRIGGERS[0]
    assert judged(data.edit(torch.tensor([clean]), inputs=changed[None])).keep[clean]


def test_nothing_stands_out_among_clean_rows():
    data, mask = rows()
    assert judged(data.take(~mask)).keep.all()


@pytest.mark.parametrize("changes", [{"words": 0}, {"keywords": 0}, {"spread": 0.0}])
def test_numbers_out_of_range_are_refused(changes):
    data, _ = rows()
    with pytest.raises(ConfigError, match=r"defense\.sanitize"):
        judged(data, **changes)
