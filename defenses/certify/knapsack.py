"""The cheapest changes of members that change the answer of an ensemble, if a member can be changed at several prices.

Shape letters: M test rows, R members, K classes, P pairs of a test row and a class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # the usual name

from defenses.certify.dpa import gaps
from poisonbench.core.electorate import votes

CELLS = 1 << 20  # members and classes of some test rows that are held at a time; ten tensors of this size take 80 MiB
NEVER = torch.iinfo(torch.int32).max  # no number of changes is enough


def cheapest(flips_MRK: Tensor, answers_MR: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M,) float64 flips after which the answer of the ensemble can change, inf for never, and the (M,) answers.

    Args:
        flips_MRK: flips after which a class leads the answer of a member, 0 at the answer, `NEVER` for no number.
        answers_MR: answers of the members.
    """
    kinds, voted = flips_MRK.shape[2], answers_MR.long()
    counts_MK = votes(answers_MR, kinds)
    answers = counts_MK.argmax(1)
    needs_MK = gaps(counts_MK, answers) + 1
    least = torch.full((len(voted),), torch.inf, dtype=torch.float64)
    for some in torch.arange(len(voted)).split(max(1, CELLS // (kinds * voted.shape[1]))):
        costs = torch.where(flips_MRK[some] == NEVER, torch.inf, flips_MRK[some].double())
        leave = costs.scatter(2, voted[some, :, None], torch.inf).min(2).values
        own = voted[some] == answers[some, None]
        for rival in range(kinds):
            join = costs[:, :, rival].masked_fill(voted[some] == rival, torch.inf)
            need = needs_MK[some, rival]
            one, two = torch.where(own, leave, join), torch.where(own, join, torch.inf)
            found = knapsack(one, two, need).masked_fill(answers[some] == rival, torch.inf)
            least[some] = torch.minimum(least[some], found)
    return least, answers


def knapsack(one_PR: Tensor, two_PR: Tensor, needs_P: Tensor) -> Tensor:
    """Return (P,) the smallest cost of `needs` votes or more, where each member gives one vote, or two, or none; exact.

    A member whose second vote costs no less than its first counts as two single votes, because a cheapest set takes the first one first. Any other is
    a pair. At most one pair gives one vote in a cheapest set: of two such, the pair whose both votes are cheaper could give two, and the other none.
    So the sets to compare are the t cheapest pairs and the cheapest single votes, with no pair or one that gives one vote.

    Args:
        one_PR: cost of one vote of a member, inf for never.
        two_PR: cost of two, no less than that of one.
        needs_P: votes, 1 or more.
    """
    paired = two_PR < 2 * one_PR
    more = torch.where(two_PR.isfinite(), two_PR - one_PR, torch.inf).masked_fill(paired, torch.inf)
    singles = totals(torch.cat([one_PR.masked_fill(paired, torch.inf), more], 1).sort(1).values)
    both, order = two_PR.masked_fill(~paired, torch.inf).sort(1)
    first = one_PR.masked_fill(~paired, torch.inf).gather(1, order)
    pairs = totals(both)
    counts, last = torch.arange(pairs.shape[1]), singles.shape[1] - 1

    def filled(given: Tensor) -> Tensor:
        """Return (P, ...) the cost of the single votes that are missing beside those that pairs give."""
        missing = (needs_P[:, None] - given).clamp_min(0)
        return singles.gather(1, missing.clamp_max(last)).masked_fill(missing > last, torch.inf)

    best = (pairs + filled(2 * counts)).min(1).values
    later = first.flip(1).cummin(1).values.flip(1)  # the cheapest first vote of a pair that is not among the t cheapest
    saved = torch.where(both.isfinite(), first - both, torch.inf).cummin(1).values  # or of one that is among the t + 1 cheapest
    halves = torch.minimum(pairs[:, :-1] + later, pairs[:, 1:] + saved)
    return torch.minimum(best, (halves + filled(2 * counts[:-1] + 1)).min(1).values)


def totals(costs_PR: Tensor) -> Tensor:
    """Return (P, R + 1) sums of the first 0, 1, ... costs."""
    return F.pad(costs_PR.cumsum(1), (1, 0))
