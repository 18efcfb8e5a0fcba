"""The white-box certificate against flipped labels: what every label weighs in every member is known, so flips are counted row by row.

Shape letters: M test rows, B of them at a time, N rows of a member, R members, K classes, D features, P pairs of a test row and a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # the usual name

from defenses.certify.dpa import alone, gaps
from defenses.train.committee import Votes
from defenses.train.white_box_flips import LabelledVictim
from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import UNITS, electorate, votes
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.progress import track
from poisonbench.core.proof import ALONE, Tolerance

CELLS = 1 << 23  # influences that are held at a time; five tensors of this size take 320 MiB
FIRST = 64  # gains that are sorted first; eight times as many where these do not suffice
SLACK = 1e-9  # of sums of influences, on the attacker's side; scores are of size 1, and rounding moves them by less than a quarter of this
NEVER = torch.iinfo(torch.int32).max  # no number of flips is enough


@dataclass(frozen=True, kw_only=True)
class WhiteBoxCertificate(NoCertificate):
    """Certify how many training labels may be flipped before an answer changes, by adding up what each flip can do.

    Source: "EnsembleCert" and "ScaLabelCert", ICLR 2026 (arXiv 2604.11416), of which only a summary was read; the bounds here were derived for ridge
    regression.

    Inside one member, the score of class c is the sum of w over the rows with label c, where w does not depend on labels. Let the member answer y, with
    the lead m = f_y - f_c over a rival c. A new label for one row lowers the lead by at most |w| - w ([label = c] - [label = y]): it becomes c if w > 0,
    and y if w < 0. These gains add up, so the smallest number of flips after which c leads is that of the largest gains whose sum reaches m. It is exact
    for each pair of classes, and its minimum over all rivals is exact for the answer of the member.

    The answer y of the ensemble changes when some class c has enough votes more. A member that votes for y gives one vote for the flips after which it
    answers anything else, and two for those after which it answers c. Another member gives one for those after which it answers c, a member that votes
    for c none. Each member offers at most one of its choices, and the cheapest set with enough votes is found by sorting (`cheapest`). The radius
    is one less than its flips.

    The radius is exact with one part, and with two classes. Otherwise it is a lower bound: flips after which c leads the answer of a member may leave
    a third class in front.

    Ties of votes go to the smaller class. A tie of scores counts as lost, whichever class is the smaller, because rounding decides it: sums count as
    enough from a slack of 1e-9 below.

    The rows and their inputs are fixed. Nothing but the labels of the rows that the ensemble was given may change; flips that these rows already contain
    are not covered. What else a member could take from labels is listed in `defenses.train.white_box_flips.WhiteBoxFlips`: nothing.

    Memory: 4 M R K bytes for the flips of every member, 8 M D for the features of test rows, 4 J D for those of J training rows, mirror images
    included, 8 min(J, D)^2 for one member's system (8 J^2 for kernel_ridge), and 320 MiB for blocks of influences. 50,000 rows of CIFAR-10 in one part,
    with mirror images and 4,000 features, take about 2.5 GiB beside the pictures.

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
    members = {place: member for place, member in ensemble.members.items() if isinstance(member, LabelledVictim)} if isinstance(ensemble, Votes) else {}
    if not members or ensemble.rule != "plurality":
        raise ConfigError("defense.certify: this is the certificate of defense=white_box_flips, whose members keep their labels; its defense.train is needed")
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
        weights_BN = influence.of(features_MD[some])
        error = float((weights_BN @ (own_NK - 1 / member.kinds) - member.asked(features_MD[some])).abs().max())
        if error > SLACK / 4:
            raise ConfigError(f"defense.certify: scores are known to {error:.1g} only, and {SLACK / 4:.1g} is needed; use a larger ridge")
        found.append(overtaking(weights_BN, own_NK, answers_M[some], to=to))
    return torch.cat(found)


def overtaking(weights_BN: Tensor, own_NK: Tensor, answers_B: Tensor, *, to: int | None = None, slack: float = SLACK) -> Tensor:
    """Return (B, K) int32: the smallest number of flips after which a class leads the answer, 0 at the answer, `NEVER` where there is none.

    With a slack of 0 a tie goes to the smaller class, as in an argmax.

    Args:
        weights_BN: influence of each label.
        own_NK: one-hot labels, float64.
        answers_B: the classes that lead before.
        to: the class that labels are set to; None: any.
        slack: sums that fall short of a lead by this much are enough.
    """
    rows, scores_BK, answered_BN = torch.arange(len(weights_BN)), weights_BN @ own_NK, own_NK.T[answers_B]
    found = torch.zeros(scores_BK.shape, dtype=torch.int32)
    for rival in range(own_NK.shape[1]):
        if to is None:  # the largest of all changes: the label becomes the rival where the influence is positive, the answer where it is negative
            gains = weights_BN.abs().addcmul_(weights_BN, answered_BN - own_NK[:, rival])
        else:
            set_B = float(to == rival) - (answers_B == to).to(weights_BN)
            gains = (weights_BN * (set_B[:, None] + answered_BN - own_NK[:, rival])).clamp_min_(0)
        lead = scores_BK[rows, answers_B] - scores_BK[:, rival]
        found[:, rival] = fewest(gains, lead - slack, rival > answers_B)
    found[rows, answers_B] = 0
    return found


def fewest(gains_PN: Tensor, needs_P: Tensor, strict_P: Tensor) -> Tensor:
    """Return (P,) int32: the smallest number of gains, 1 or more, whose sum reaches the need, or exceeds it where that is strict; else `NEVER`.

    Args:
        gains_PN: 0 or more.
        needs_P: needs.
        strict_P: whether the sum has to exceed the need.
    """
    found = torch.full((len(gains_PN),), NEVER, dtype=torch.int32)
    open_P, count = torch.arange(len(gains_PN)), min(FIRST, gains_PN.shape[1])
    while len(open_P):
        sums = (gains_PN if len(open_P) == len(gains_PN) else gains_PN[open_P]).topk(count, 1).values.cumsum(1)
        need, strict = needs_P[open_P, None], strict_P[open_P, None]
        reached = torch.where(strict, sums > need, sums >= need)
        done = reached[:, -1]
        found[open_P[done]] = (~reached[done]).sum(1, dtype=torch.int32) + 1
        if count == gains_PN.shape[1]:
            break
        open_P, count = open_P[~done], min(8 * count, gains_PN.shape[1])
    return found


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
    for some in torch.arange(len(voted)).split(max(1, CELLS // (8 * kinds * voted.shape[1]))):
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

    A member whose second vote costs no less than its first counts as two single votes, because a cheapest set takes the first one first. Any other
    is a pair. At most one pair gives one vote in a cheapest set: of two such, the pair whose both votes are cheaper could give two, and the other none.
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
