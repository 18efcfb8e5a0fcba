"""The joint ranking of several filters, on cases that are worked by hand."""

import pytest
import torch

from poisonbench.report.joint import joined, ranked, strengths, tails

CLEAN = {"one": torch.tensor([0.0, 1.0, 2.0, 3.0]).double(), "other": torch.tensor([0.0, 0.0]).double()}


def test_a_share_counts_the_clean_rows_of_each_task_that_reach_the_strength():
    found = tails(torch.tensor([0.0, 2.0, 2.5]).double(), CLEAN)
    assert found.tolist() == pytest.approx([1.0, (2 / 4 + 0) / 2, 1 / 7])  # (1/4 + 0) / 2 = 1/8 is below 1 / (6 + 1)


def test_a_strength_beyond_all_clean_rows_has_a_share_of_its_own():
    assert tails(torch.tensor([9.0]).double(), CLEAN).tolist() == pytest.approx([1 / 7])


def test_joined_shares_are_the_smallest_times_the_number_of_filters():
    assert joined(torch.tensor([[0.01, 0.9], [0.5, 0.8]]).double()).tolist() == pytest.approx([0.02, 1.0])


def test_one_precise_filter_outranks_two_weak_ones_and_a_second_filter_counts():
    shares = torch.tensor([[0.10, 0.01, 0.01, 0.5, 0.04], [0.10, 0.90, 0.20, 0.5, 0.05], [0.9, 0.8, 0.7, 0.6, 0.0625]]).double()
    assert ranked(shares).tolist() == [2, 4, 1, 0, 3]  # 0.002, 0.002 (its smallest share is larger), 0.008, 0.01, 0.25


def test_suspicions_in_other_units_have_the_same_strength():
    values, labels = torch.arange(40.0), torch.zeros(40, dtype=torch.int64)
    torch.testing.assert_close(strengths(values, labels, "data"), strengths(7 * values + 3, labels, "data"))
    assert torch.equal(strengths(values, labels, "given"), values.double())


def test_each_class_has_a_scale_of_its_own():
    values = torch.arange(20.0)
    both, labels = torch.cat([values, 100 * values]), torch.arange(40) // 20
    found = strengths(both, labels, "class")
    torch.testing.assert_close(found[:20], found[20:])


def test_poison_in_a_third_of_a_class_does_not_widen_the_scale():
    clean = torch.linspace(0, 1, 100)
    found = strengths(torch.cat([clean, torch.full((50,), 5.0)]), torch.zeros(150, dtype=torch.int64), "class")
    assert float(found[100:].min()) > 2 * float(found[:100].max())


def test_equal_suspicions_are_no_evidence():
    assert not strengths(torch.ones(30), torch.zeros(30, dtype=torch.int64), "data").any()
