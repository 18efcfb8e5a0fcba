"""Estimates of influence against retrainings: the correlation, its interval, and the change without a row, each on a case with a known answer."""

import pytest
import torch

from benchmarks._options import Options
from benchmarks.influence_loo import agreement, changes, estimated, measure
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Verdict
from poisonbench.core.rng import Key


def test_a_monotone_estimate_agrees_fully_and_a_reversed_one_not_at_all():
    change = torch.tensor([0.1, -2.0, 3.0, 0.5, 7.0, -1.0])
    assert agreement(change, change.exp(), Key.root(100)) == pytest.approx((1.0, 1.0, 1.0))
    assert agreement(change, -change, Key.root(100)) == pytest.approx((-1.0, -1.0, -1.0))


def test_the_interval_of_an_unrelated_estimate_holds_zero_and_is_narrower_with_more_rows():
    draws = torch.randn(2, 400, generator=Key.root(100).torch())
    few, many = (agreement(draws[0, :rows], draws[1, :rows], Key.root(100)) for rows in (20, 400))
    assert few.low < 0 < few.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


class Mean:
    """A model that predicts the mean of its rows, moved by the number of its start; the loss of a row is its squared distance."""

    def __init__(self, data, start):
        self.value = data.inputs.mean() + start

    def losses(self, data):
        return (data.inputs[:, 0] - self.value).square()


def rows(*values):
    return Dataset.of(torch.tensor(values)[:, None], torch.zeros(len(values), dtype=torch.int64), num_classes=1)


def test_a_change_is_the_loss_without_the_row_minus_the_loss_with_it():
    found = changes(Mean, rows(0.0, 3.0, 6.0), rows(0.0), torch.tensor([0, 2]), (0, 1))
    expected = torch.tensor([[4.5**2 - 3**2, 1.5**2 - 3**2], [5.5**2 - 4**2, 2.5**2 - 4**2]]).double()
    torch.testing.assert_close(found, expected)


class Suspects:
    """A filter that suspects rows by their value."""

    def judge(self, data, means, rng):
        return Verdict(keep=torch.ones(len(data), dtype=torch.bool), suspicion=data.inputs[:, 0])


def test_estimates_are_sums_over_the_starts_and_a_suspicious_row_is_harmful():
    influence, own = estimated(Mean, Suspects(), rows(0.0, 3.0, 6.0), rows(0.0), (0, 1))
    assert influence.tolist() == [0.0, -6.0, -12.0]
    assert own.tolist() == [9.0 + 16.0, 0.0 + 1.0, 9.0 + 4.0]


def test_both_optimisers_are_measured_with_all_figures():
    found = list(measure(Options(), rows=40, left_out=4, starts=2, epochs=12))
    assert len(found) == 2
    for each in found:
        assert {"tracin", "loss_low", "random_high", "halves"} <= each.facts.keys()
        assert -1 <= each.facts["tracin_low"] <= each.facts["tracin_high"] <= 1
        assert "rank correlation" in each.note
        assert each.ratio > 1
