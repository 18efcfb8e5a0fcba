"""Buying domains, and editing pages before a snapshot."""

import itertools

import numpy as np
import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column, Form
from poisonbench.core.web import DOMAIN, PAGE, PRICE, Domains, Snapshots, cheapest, knapsack

NOBODY = torch.zeros(0, dtype=torch.int64)
SEALED = Column(form=Form(), role="sealed")


def crawl(domains, prices):
    """Return rows on these domains; `prices` in cents by domain."""
    domains = torch.tensor(domains)
    rows = Dataset.of(torch.zeros(len(domains), 1), torch.zeros_like(domains), num_classes=2)
    return rows.with_column(DOMAIN, domains, SEALED).with_column(PRICE, torch.tensor(prices)[domains], SEALED)


def pages(numbers):
    """Return rows with these numbers of a page."""
    numbers = torch.tensor([[*row, 22.0][:5] for row in numbers], dtype=torch.float32)
    rows = Dataset.of(torch.zeros(len(numbers), 1), torch.zeros(len(numbers), dtype=torch.int64), num_classes=2)
    return rows.with_column(PAGE, numbers, SEALED)


def test_the_exact_choice_is_that_of_brute_force():
    draws, strictly = np.random.default_rng(0), 0
    for _ in range(300):
        values, costs = draws.integers(1, 9, 8), draws.integers(1, 30, 8)
        budget = int(draws.integers(0, 90))
        subsets = (np.array(subset) for subset in itertools.product([False, True], repeat=8))
        best = max(int(values[subset].sum()) for subset in subsets if costs[subset].sum() <= budget)
        exact, greedy = knapsack(values, costs, budget), cheapest(values, costs, budget)
        assert costs[exact].sum() <= budget
        assert int(values[exact].sum()) == best
        assert costs[greedy].sum() <= budget
        assert values[greedy].sum() <= best
        strictly += int(values[greedy].sum() < best)
    assert strictly > 20


def test_money_decides_which_rows_can_be_written():
    rows = crawl([0, 0, 0, 1, 1, 2, 3, 3, 3, 3], [240, 150, 100, 0])  # domain 3 is not for sale
    assert not Domains(money=0.99).writable(rows, NOBODY).any()
    assert Domains(money=1.0).bought(rows).tolist() == [2]
    assert Domains(money=1.5).bought(rows).tolist() == [1]
    assert Domains(money=2.4).bought(rows).tolist() == [0]  # three rows at once; the cheapest row is one of domain 1, at 75 cents
    assert Domains(money=2.4, choice="cheapest").bought(rows).tolist() == [1]
    assert Domains(money=100.0).writable(rows, NOBODY).tolist() == [True] * 6 + [False] * 4
    assert Domains(money=2.4).counts(rows, NOBODY) == {"reachable": 3, "domains": 1, "cents": 240}


def test_an_edit_succeeds_if_it_is_older_than_the_hold_back_and_is_not_reverted():
    # read at, planned at, reverted after, hold-back
    rows = pages([[100, 100, 50, 0], [100, 100, 5, 0], [95, 100, 50, 0], [130, 100, 50, 0], [-1, -1, -1, -1]])
    assert Snapshots(clock_error=0.0, lead=10.0).writable(rows, NOBODY).tolist() == [True, False, True, True, False]
    assert Snapshots(clock_error=0.0, lead=3.0).writable(rows, NOBODY).tolist() == [True, True, False, True, False]  # row 2 was read before the edit
    held = pages([[100, 100, 50, 20], [100, 100, 15, 20], [100, 100, 25, 20]])
    assert Snapshots(clock_error=0.0, lead=10.0).writable(held, NOBODY).tolist() == [False, False, False]
    assert Snapshots(clock_error=0.0, lead=22.0).writable(held, NOBODY).tolist() == [True, False, True]
    edited = pages([[100, 100, 50, 20, 19.0], [100, 100, 15, 20, 21.0], [100, 100, 25, 20, 3.0], [-1, -1, -1, -1, -1]])
    assert Snapshots(clock_error=0.0).counts(edited, NOBODY) == {"reachable": 2, "attempted": 3, "stale": 2}
    assert Snapshots(clock_error=0.0).counts(held, NOBODY) == {"reachable": 2, "attempted": 3, "stale": 0}


def test_without_errors_the_success_is_the_share_of_reverts_that_come_after_the_hold_back():
    reverts = 240 * torch.exp(2 * torch.from_numpy(np.random.default_rng(1).standard_normal(4000)))
    for held in (0.0, 240.0, 25_160.0):  # the last is the 99 % quantile: 240 exp(2 * 2.326)
        rows = pages([[1000.0, 1000.0, float(revert), held] for revert in reverts])
        share = float(Snapshots(clock_error=0.0).writable(rows, NOBODY).double().mean())
        assert share == pytest.approx(float((reverts > held).double().mean()), abs=1e-3)
    assert share <= 0.02


def test_the_best_lead_is_no_worse_than_any_other_and_errors_cost_success():
    draws = np.random.default_rng(2)
    reverts = 240 * np.exp(2 * draws.standard_normal(3000))
    rows = pages([[float(5000 + late), 5000.0, float(revert), 0.0] for late, revert in zip(60 * draws.standard_normal(3000), reverts, strict=True)])
    shares = {}
    for error in (0.0, 60.0, 600.0, 6000.0):
        best = float(Snapshots(clock_error=error).writable(rows, NOBODY).double().mean())
        others = [float(Snapshots(clock_error=error, lead=lead).writable(rows, NOBODY).double().mean()) for lead in (0.0, 30.0, 100.0, 300.0, 1000.0, 5000.0)]
        assert best >= max(others) - 0.02
        shares[error] = best
    assert shares[0.0] > shares[60.0] > shares[600.0] > shares[6000.0]


def test_what_cannot_be_bought_or_edited_is_refused():
    plain = Dataset.of(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), num_classes=2)
    with pytest.raises(Incompatible, match="threat=split_view buys domains by their prices, and the rows of this task have none; choose task=crawl"):
        Domains(money=1.0).writable(plain, NOBODY)
    with pytest.raises(Incompatible, match="threat=frontrunning edits pages before a snapshot"):
        Snapshots(clock_error=1.0).writable(plain, NOBODY)
    for wrong in (
        lambda: Domains(money=-1.0),
        lambda: Domains(money=1.0, choice="best"),
        lambda: Snapshots(clock_error=-1.0),
        lambda: Snapshots(clock_error=0.0, lead=-1.0),
    ):
        with pytest.raises(ConfigError, match=r"threat\.reach: "):
            wrong()


def test_another_web_has_other_errors_of_the_clock():
    one, other = (pages([[1000.0 + shift, 1000.0, 300.0, 0.0]] * 40) for shift in (0.0, 1.0))
    reach = Snapshots(clock_error=100.0, lead=150.0)
    assert not torch.equal(reach.writable(one, NOBODY), reach.writable(other, NOBODY))
    assert torch.equal(reach.writable(one, NOBODY), reach.writable(one, NOBODY))
