"""Data from the web: who can change what lies between an index and its pictures.

Shape letters: N rows, D domains, P pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.keys import tensor_digest
from poisonbench.core.rng import Key

DOMAIN, PRICE, PAGE = "domain", "price", "page"  # columns of a crawl; see `poisonbench.tasks.crawl`
SNAPSHOT, PLANNED, REVERT, HOLD_BACK, UNCHANGED = range(5)  # numbers of a page, in seconds
LEADS = 200  # leads that a frontrunning attacker compares


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The rows on expired domains that the attacker buys after the index was made (split-view poisoning).

    Source: Carlini, Jagielski, Choquette-Choo, Paleka, Pearce, Anderson, Terzis, Thomas, Tramer, "Poisoning Web-Scale Training Datasets is Practical",
    IEEE S&P 2024, section 4. The owner of a domain decides what every later download of its urls returns. The captions are those of the index, so
    `configs/threat/split_view.yaml` forbids new ones.

    Differences from the web: a domain that is for sale delivers its pictures until it is bought, and a picture that has disappeared does not come back
    when its domain is bought. All rows count the same for the choice of domains, whatever an attack can use them for.

    Args:
        money: the budget, in dollars, 0 or more.
        choice: "exact" buys the set of domains with the most rows that the money pays for (a knapsack, solved exactly in cents); "cheapest" buys by the
            price of a row, the cheapest first, and skips what it cannot pay, as the paper does.
    """

    VERSION: ClassVar[int] = 1
    money: float
    choice: Literal["exact", "cheapest"] = "exact"

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 <= self.money <= 1e6 or self.choice not in ("exact", "cheapest"):
            raise ConfigError(f"threat.reach: money={self.money}, choice={self.choice}; give 0 to 1,000,000 dollars, and exact or cheapest")

    def writable(self, data: Dataset, malicious: Tensor) -> Tensor:
        """Return (N,) bool, the rows on the domains that are bought."""
        bought = self.bought(data)
        return torch.isin(data.extra[DOMAIN], bought)

    def counts(self, data: Dataset, malicious: Tensor) -> Mapping[str, int]:
        """Return the rows within reach, the domains bought and the cents paid."""
        bought, (offers, prices) = self.bought(data), _offers(data)
        paid = int(prices[torch.isin(offers[:, 0], bought)].sum())
        return {"reachable": int(self.writable(data, malicious).sum()), "domains": len(bought), "cents": paid}

    def bought(self, data: Dataset) -> Tensor:
        """Return the (D,) int64 domains that are bought, ascending.

        Raises:
            Incompatible: rows that are not from a crawl.
        """
        offers, prices = _offers(data)
        cents = math.floor(self.money * 100 + 1e-6)
        best = knapsack if self.choice == "exact" else cheapest
        return offers[torch.from_numpy(best(offers[:, 1].numpy(), prices.numpy(), cents)), 0]


def _offers(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return the domains for sale with their number of rows, (D, 2) int64, and their prices in cents, (D,) int64.

    Raises:
        Incompatible: rows that are not from a crawl.
    """
    for name in (DOMAIN, PRICE):
        if name not in data.extra:
            raise Incompatible("threat=split_view buys domains by their prices, and the rows of this task have none; choose task=crawl")
    sold = data.extra[PRICE] > 0
    domains, rows = data.extra[DOMAIN][sold].unique(return_counts=True)
    prices = torch.zeros(int(domains.max()) + 1 if len(domains) else 0, dtype=torch.int64)
    prices[data.extra[DOMAIN][sold]] = data.extra[PRICE][sold]
    return torch.stack([domains, rows], 1), prices[domains]


def knapsack(values_D: NDArray[np.int64], costs_D: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    """Return (D,) bool, a set of items with the largest value whose costs are within the budget; exact.

    Dynamic programming over values: the smallest cost of each total value. Its time is the number of items times the sum of the values, whatever the
    budget.

    Args:
        values_D: whole numbers of 1 or more.
        costs_D: whole numbers of 1 or more.
        budget: 0 or more.
    """
    total = int(values_D.sum())
    cost, taken = np.full(total + 1, np.iinfo(np.int64).max // 2), np.zeros((len(values_D), total + 1), dtype=bool)
    cost[0] = 0
    for item, (value, price) in enumerate(zip(values_D.tolist(), costs_D.tolist(), strict=True)):
        fresh = np.concatenate([np.full(value, np.iinfo(np.int64).max // 2), cost[: total + 1 - value] + price])
        taken[item] = fresh < cost
        cost = np.where(taken[item], fresh, cost)
    left = int((cost <= budget).nonzero()[0].max())
    chosen = np.zeros(len(values_D), dtype=bool)
    for item in reversed(range(len(values_D))):
        if taken[item, left]:
            chosen[item] = True
            left -= int(values_D[item])
    return chosen


def cheapest(values_D: NDArray[np.int64], costs_D: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    """Return (D,) bool, the items taken in the order of cost / value as long as the budget pays for them; see `knapsack`."""
    chosen = np.zeros(len(values_D), dtype=bool)
    for item in np.argsort(costs_D / values_D, kind="stable").tolist():
        if costs_D[item] <= budget:
            chosen[item] = True
            budget -= int(costs_D[item])
    return chosen


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The pages of an encyclopedia that the attacker edits shortly before they are read for a snapshot (frontrunning poisoning).

    Source: Carlini et al., IEEE S&P 2024, section 5. Anybody may edit a page, and somebody reverts the edit after a while. A snapshot reads one page
    after the other, by a schedule that the attacker can predict up to an error. The attacker edits each page once, `lead` seconds before the predicted
    time. The edit is in the snapshot if it is older than the hold-back of the snapshot, and not reverted when the page is read.

    The attacker knows how its errors and the times to a revert are distributed over all pages of this snapshot, but not those of a single page. In
    reality it would know them from earlier snapshots; this favours the attacker a little.

    Args:
        clock_error: standard deviation of the attacker's own error, in seconds, normal and independent for each page; 0 or more.
        lead: seconds before the predicted time; None: the lead with the largest expected success.
    """

    VERSION: ClassVar[int] = 1
    clock_error: float
    lead: float | None = None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 <= self.clock_error < math.inf or (self.lead is not None and not 0 <= self.lead < math.inf):
            raise ConfigError(f"threat.reach: clock_error={self.clock_error}, lead={self.lead}; give finite numbers of seconds, 0 or more")

    def writable(self, data: Dataset, malicious: Tensor) -> Tensor:
        """Return (N,) bool, the rows whose page is edited in time and is not reverted too early."""
        numbers, pages = pages_of(data)
        found = torch.zeros(len(data), dtype=torch.bool)
        if pages.any():
            error = self._errors(data.ids[pages], numbers)
            late = numbers[:, SNAPSHOT] - numbers[:, PLANNED] + error  # how much later than the attacker predicts a page is read
            age = late + self.best(late, numbers) if self.lead is None else late + self.lead
            found[pages] = (age >= numbers[:, HOLD_BACK]) & (age >= 0) & (age < numbers[:, REVERT])
        return found

    def counts(self, data: Dataset, malicious: Tensor) -> Mapping[str, int]:
        """Return the rows within reach, the pages that are edited, and those whose last harmless edit is younger than the hold-back, so that it is left out."""
        numbers, pages = pages_of(data)
        stale = numbers[:, UNCHANGED] < numbers[:, HOLD_BACK]
        return {"reachable": int(self.writable(data, malicious).sum()), "attempted": int(pages.sum()), "stale": int(stale.sum())}

    def best(self, late_P: Tensor, numbers_P5: Tensor) -> float:
        """Return the lead with the largest expected success, if errors and times to a revert are independent of each other.

        Args:
            late_P: how much later than predicted pages are read, in seconds.
            numbers_P5: the numbers of pages.
        """
        reverts, held = numbers_P5[:, REVERT].double().sort().values, float(numbers_P5[:, HOLD_BACK].max())
        low, high = held - float(late_P.max()), held - float(late_P.min())
        leads = torch.linspace(max(0.0, low), max(0.0, high), LEADS, dtype=torch.float64)
        ages = leads[:, None] + late_P.double()[None]
        lasting = 1 - torch.searchsorted(reverts, ages, right=True).double() / len(reverts)  # the share of reverts that come later than that age
        return float(leads[(lasting * (ages >= held) * (ages >= 0)).mean(1).argmax()])

    def _errors(self, ids: Tensor, numbers_P5: Tensor) -> Tensor:
        """Return (P,) float64 normal errors, in seconds; each page keeps its own, and another web has others."""
        web = tensor_digest(numbers_P5[:, [SNAPSHOT, REVERT]])
        draws = Key.root(0).child(f"clock/{web}").per_row(ids).clamp(1e-9, 1 - 1e-9)[:, 0]
        return self.clock_error * math.sqrt(2) * torch.erfinv(2 * draws - 1)


def pages_of(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return the (P, 5) numbers of the pages that anybody may edit, and (N,) bool, which rows these are.

    Raises:
        Incompatible: rows that are not from a crawl.
    """
    if PAGE not in data.extra:
        raise Incompatible("threat=frontrunning edits pages before a snapshot, and the rows of this task have none; choose task=crawl")
    pages = data.extra[PAGE][:, SNAPSHOT] >= 0
    return data.extra[PAGE][pages].double(), pages
