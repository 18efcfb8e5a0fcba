"""The collective certificate: the largest number of test rows that one attack can change.

Shape letters: M test rows, R members, K classes, H partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, sparse
from torch import Tensor

from defenses.certify.dpa import PartitionCertificate, gaps
from defenses.certify.finite_aggregation import radius
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import Electorate, Tally, electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim


@dataclass(frozen=True, kw_only=True)
class CollectiveCertificate(PartitionCertificate):
    """Certify, beside the radius of each row, the share of all test rows that stay right under one common attack.

    Source: Chen, Li, Li, Yan and Wu, "On Collective Robustness of Bagging Against Data Poisoning", ICML 2022, section 5. The paper bounds the votes
    that a row can lose in the same way.

    The attack chooses its partitions once for all test rows. A binary X_l states whether member l is poisoned, Z_ic whether test row i changes to
    class c. The poisoned members must close the gap of the votes: sum over l of X_l (1 + [f_l(i) = answer] - [f_l(i) = c]) >= (gap_ic + 1) Z_ic. The
    number of changed test rows is maximised. A member is poisoned only if one of its partitions is, and the attack has as many partitions as it
    changes rows.

    HiGHS solves the program. If the search ends early, the bound proved so far is used. The limit is a number of nodes, since a limit in seconds
    would not give repeatable results.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one partition, "edit" two.
        radii: numbers of changed training rows that are certified, 0 or more.
        nodes: largest number of branch-and-bound nodes for each radius, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    radii: tuple[int, ...]
    nodes: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.radii, default=0) < 0 or self.nodes < 1:
            raise ConfigError(f"defense.certify.radii={self.radii}, nodes={self.nodes}: give 0 or more, and 1 or more")

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        return radius(ensemble.tally(inputs), ensemble.reach())

    def together(self, victim: Victim, test: Dataset) -> Mapping[int, float]:
        """Return a lower bound of the accuracy under one common attack, for each number of changed rows."""
        ensemble = electorate(victim)
        tally, reach, touched = ensemble.tally(test.inputs), ensemble.reach(), ensemble.touched(self.change)
        right = tally.votes_MK.argmax(1) == test.labels
        mine = Tally(answers_MR=tally.answers_MR[right], wins_MKK=tally.wins_MKK[right])
        lost = {changes: turned(mine, reach, changes * touched, self.nodes) for changes in self.radii}
        return {changes: (int(right.sum()) - count) / len(test) for changes, count in lost.items()}


def turned(tally: Tally, reach_Hd: Tensor, budget: int, nodes: int) -> int:
    """Return the largest number of test rows that an attack on `budget` partitions can change, or a proved upper bound of it."""
    rows, costs, needs = _pairs(tally, reach_Hd, budget)
    if not len(rows):
        return 0
    members, partitions, pairs = tally.answers_MR.shape[1], len(reach_Hd), len(rows)
    who, row = np.unique(rows, return_inverse=True)
    # columns: X, whether a member is poisoned; P, whether a partition is; Z, whether a test row changes to a class
    count = members + partitions + pairs
    closing = sparse.hstack([sparse.csr_matrix(costs), sparse.csr_matrix((pairs, partitions)), -sparse.diags(needs)])
    places = (reach_Hd.flatten().numpy(), np.arange(partitions).repeat(reach_Hd.shape[1]))
    reached = sparse.csr_matrix((np.ones(reach_Hd.numel()), places), (members, partitions))
    poisoned = sparse.hstack([-sparse.eye(members), reached, sparse.csr_matrix((members, pairs))])
    spent = sparse.csr_matrix((np.ones(partitions), (np.zeros(partitions, int), members + np.arange(partitions))), (1, count))
    once = sparse.hstack([sparse.csr_matrix((len(who), members + partitions)), sparse.csr_matrix((np.ones(pairs), (row, np.arange(pairs))), (len(who), pairs))])
    found = optimize.milp(
        c=np.concatenate([np.zeros(members + partitions), -np.ones(pairs)]),
        integrality=np.ones(count),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(closing, lb=0),
            optimize.LinearConstraint(poisoned, lb=0),
            optimize.LinearConstraint(spent, ub=budget),
            optimize.LinearConstraint(once, ub=1),
        ],
        options={"node_limit": nodes},
    )
    bound = found.mip_dual_bound if found.mip_dual_bound is not None else -float(len(who))
    return min(len(who), int(np.floor(-bound + 1e-6)))


def _pairs(tally: Tally, reach_Hd: Tensor, budget: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the test rows, the (pairs, R) costs and the gaps to close of every (row, class) pair that the budget could change by itself."""
    votes = tally.votes_MK
    answers = votes.argmax(1)
    gap, voted = gaps(votes, answers), tally.answers_MR.long()
    rows, costs, needs = list[Tensor](), list[Tensor](), list[Tensor]()
    for rival in range(votes.shape[1]):
        weights = 1 + (voted == answers[:, None]).long() - (voted == rival).long()
        most = weights[:, reach_Hd].sum(2).sort(1, descending=True).values[:, :budget].sum(1)
        near = (answers != rival) & (most > gap[:, rival])
        rows.append(near.nonzero()[:, 0])
        costs.append(weights[near])
        needs.append(gap[near, rival] + 1)
    return torch.cat(rows).numpy(), torch.cat(costs).double().numpy(), torch.cat(needs).double().numpy()
