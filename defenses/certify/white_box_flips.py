"""The white-box certificate against flipped labels: what every label weighs in every member is known, so flips are counted row by row.

Shape letters: M test rows, B of them at a time, N rows of a member, J of them, R members, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # the usual name

from defenses.certify.dpa import alone
from defenses.certify.knapsack import NEVER, cheapest
from defenses.train.committee import Votes
from defenses.train.white_box_flips import LabelledVictim
from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import UNITS, electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.progress import track
from poisonbench.core.proof import ALONE, Tolerance

CELLS = 1 << 23  # influences that are held at a time; six tensors of this size take 400 MiB
FIRST = 4096  # the largest influences, which are tried first; four times as many where these do not suffice
SLACK = 1e-9  # of sums of influences, on the attacker's side; scores are of size 1, and rounding moves them by less than a quarter of this


@dataclass(frozen=True, kw_only=True)
class WhiteBoxCertificate(NoCertificate):
    """Certify how many training labels may be flipped before an answer changes, by adding up what each flip can do.

    Source: Mohgaonkar, Gosch, Sabanayagam, Ghoshdastidar and Guennemann, "Exact Certification of Neural Networks and Partition Aggregation Ensembles
    Against Label Poisoning", ICLR 2026 (arXiv 2604.11416), of which only the abstract was read. What follows was derived for ridge regression and
    compared with every relabelling of small training sets.

    Inside one member, the score of class c is the sum of w over the rows with label c, where w does not depend on labels. Let the member answer y,
    with the lead m = f_y - f_c over a rival c. A new label for one row lowers the lead by at most |w| - w ([label = c] - [label = y]): it becomes c
    if w > 0, and y if w < 0. These gains add up, so the smallest number of flips after which c leads is that of the largest gains whose sum reaches
    m. It is exact for each pair of classes, and its minimum over all rivals is exact for the answer of the member.

    The answer y of the ensemble changes when some class c has enough votes more. A member that votes for y gives one vote for the flips after which
    it answers anything else, and two for those after which it answers c. Another member gives one for those after which it answers c, a member that
    votes for c none. Each member offers one of its choices at most. The cheapest set with enough votes is found by sorting
    (`defenses.certify.knapsack`), and the radius is one less than its flips.

    The radius is exact with one part, and with two classes. Otherwise it is a lower bound: flips after which c leads the answer of a member may leave
    a third class in front.

    Ties of votes go to the smaller class. A tie of scores counts as lost, whichever class is the smaller, because rounding decides it: sums count as
    enough from a slack of 1e-9 below.

    The rows and their inputs are fixed. Nothing but the labels of the rows that the ensemble was given may change; flips that these rows already
    contain are not covered. What else a member could take from labels is listed in `defenses.train.white_box_flips.WhiteBoxFlips`: nothing.

    Memory: 4 M R K bytes for the flips of every member, 12 M D for the features of test rows, 4 J D for those of all J solved rows, mirror images
    included, three times 8 min(J, D)^2 for one member's system (8 J^2 for kernel_ridge), and 400 MiB for blocks of influences, whatever M.

    Args:
        to: the class that an attacker sets labels to; null: any class, for each row another one.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # a filter may turn a flipped label into a missing row
    to: int | None

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.to is not None and self.to < 0:
            raise ConfigError(f"defense.certify.to={self.to}: give a class, from 0, or null for any")

    @property
    def unit(self) -> str:
        """The unit of the radii."""
        return UNITS["flip"] if self.to is None else f"labels changed to class {self.to}"

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii in flipped labels, -1 where the answer is wrong.

        Where no number of flips changes an answer, the radius is the number of training rows.

        Raises:
            ConfigError: an ensemble of other members, a class that does not exist, or a system that cannot be solved accurately enough.
        """
        members, kinds = labelled(victim), test.num_classes
        if self.to is not None and self.to >= kinds:
            raise ConfigError(f"defense.certify.to={self.to}: there are {kinds} classes, from 0 to {kinds - 1}")
        answers_MR = electorate(victim).tally(test.inputs).answers_MR
        some = next(iter(members.values()))
        features_MD = some.learner.linear.featured(test.inputs).double()
        flips_MRK = torch.full((*answers_MR.shape, kinds), NEVER, dtype=torch.int32)  # a part without rows has no label
        for _, (place, member) in zip(track(len(members), "members"), members.items(), strict=True):
            flips_MRK[:, place] = flips(member, features_MD, answers_MR[:, place].long(), self.to)
        least, answers = cheapest(flips_MRK, answers_MR)
        rows = sum(len(member.labels) for member in members.values())
        return torch.where(answers == test.labels, (least - 1).clamp_max(rows).long(), -1)


def labelled(victim: Victim) -> Mapping[int, LabelledVictim]:
    """Return the members that have rows, by number.

    Raises:
        ConfigError: an ensemble of another defense.
    """
    ensemble = electorate(victim)
    every = ensemble.members if isinstance(ensemble, Votes) else {}
    members = {place: member for place, member in every.items() if isinstance(member, LabelledVictim)}
    if not members or ensemble.rule != "plurality":
        raise ConfigError("defense.certify: this is the certificate of defense=white_box_flips, whose members keep labels; use its defense.train")
    alone(ensemble)
    return members


def flips(member: LabelledVictim, features_MD: Tensor, answers_M: Tensor, to: int | None) -> Tensor:
    """Return (M, K) int32: the smallest number of flips after which a class leads the member's answer, 0 at the answer.

    Raises:
        ConfigError: the influences do not add up to the member's scores.
    """
    influence, own_NK = member.learner.linear.influence(member.inputs), F.one_hot(member.labels, member.kinds).double()
    found = list[Tensor]()
    for some in torch.arange(len(features_MD)).split(max(1, CELLS // len(member.labels))):
        weights_BN, answers_B = influence.of(features_MD[some]), answers_M[some]
        scores_BK = weights_BN @ own_NK
        error = float((scores_BK - weights_BN.sum(1, keepdim=True) / member.kinds - member.asked(features_MD[some])).abs().max())
        if error > SLACK / 4:
            raise ConfigError(f"defense.certify: scores are known to {error:.1g} only, and {SLACK / 4:.1g} is needed; use a larger ridge")
        leads_BK = scores_BK.gather(1, answers_B[:, None]) - scores_BK
        found.append(overtaking(weights_BN, member.labels, answers_B, leads_BK - SLACK, to))
    return torch.cat(found)


def overtaking(weights_BN: Tensor, labels_N: Tensor, answers_B: Tensor, needs_BK: Tensor, to: int | None = None) -> Tensor:
    """Return (B, K) int32: the smallest number of flips after which a class leads the answer, 0 at the answer, `NEVER` where there is none.

    A gain is at most twice the size of its influence. The flips are looked for among the largest influences first, and among more of them where a
    row that was left out could gain as much as the last one that is needed.

    Args:
        weights_BN: influence of each label.
        labels_N: labels.
        answers_B: the classes that lead before.
        needs_BK: what the gains have to reach: the lead of the answer, less a slack. A class above the answer has to exceed it, since a tie goes to
            the smaller class.
        to: the class that labels are set to; None: any.
    """
    kinds, total = needs_BK.shape[1], len(labels_N)
    above = torch.arange(kinds) > answers_B[:, None]
    needs_BK = torch.where(above, needs_BK.nextafter(needs_BK.new_tensor(torch.inf)), needs_BK)  # to exceed is to reach the next number
    found = torch.full(needs_BK.shape, NEVER, dtype=torch.int32)
    open_B, count = torch.arange(len(weights_BN)), min(FIRST, total)
    while len(open_B):
        weights, answers, needs = weights_BN[open_B], answers_B[open_B], needs_BK[open_B]
        weights_BJ, labels_BJ, others = weights, labels_N.expand(len(weights), -1), weights.new_full((len(weights),), -1.0)
        if count < total:
            largest = weights.abs().topk(count, 1)
            weights_BJ, labels_BJ, others = weights.gather(1, largest.indices), labels_N[largest.indices], 2 * largest.values[:, -1]
        known = torch.ones(len(open_B), dtype=torch.bool)
        for rival in range(kinds):
            gains_BJ = descending(gains(weights_BJ, labels_BJ, answers, rival, to))
            short = torch.searchsorted(gains_BJ.cumsum(1), needs[:, rival, None].contiguous())[:, 0]  # how many sums are below the need
            last = gains_BJ.gather(1, short.clamp_max(count - 1)[:, None])[:, 0]
            found[open_B, rival] = torch.where(short < count, short + 1, NEVER).to(torch.int32)
            known &= (answers == rival) | ((short < count) & (last >= others)) | (others < 0)
        open_B, count = open_B[~known], min(4 * count, total)
    found[torch.arange(len(found)), answers_B] = 0
    return found


def gains(weights_BJ: Tensor, labels_BJ: Tensor, answers_B: Tensor, rival: int, to: int | None) -> Tensor:
    """Return (B, J), by how much a new label for a row lowers the lead of the answers over a rival at most; 0 where none does.

    Args:
        weights_BJ: influences of rows.
        labels_BJ: their labels.
        answers_B: answers.
        rival: a class.
        to: the class that labels are set to; None: any.
    """
    # of all labels, the rival's lowers the lead most where the influence is positive, and the answer's where it is negative
    new_BJ = weights_BJ.abs() if to is None else weights_BJ * (float(to == rival) - (answers_B == to).to(weights_BJ))[:, None]
    without_BJ = new_BJ + torch.where(labels_BJ == answers_B[:, None], weights_BJ, 0.0)  # the old label counts no more
    return torch.where(labels_BJ == rival, without_BJ - weights_BJ, without_BJ).clamp_min_(0)


def descending(values_BJ: Tensor) -> Tensor:
    """Return the values of each row, the largest first; numpy sorts them in a tenth of torch's time."""
    return torch.from_numpy(np.sort(values_BJ.numpy(), 1)).flip(1)
