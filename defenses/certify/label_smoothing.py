"""The certificate of smoothing over labels.

Shape letters: M test rows, N rows, K classes, T tilts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.train.label_smoothing import SmoothedVictim
from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import UNITS
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.proof import ALONE, Tolerance

TILTS = 60  # exponents that are tried for the Chernoff bound
ROWS = 50  # test rows per chunk


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingCertificate(NoCertificate):
    """Certify how many training labels may be flipped before the smoothed answer changes.

    Source: Rosenfeld, Winston, Ravikumar and Kolter, "Certified Robustness to Label-Flipping Attacks via Randomized Smoothing", ICML 2020, Theorem 1
    and equation 6, for K classes; with two classes the radius is the paper's.

    Let the answer win with probability p > 1/2 over the redrawn labels. Flipping one label changes their distribution by a divergence of (1 - q - q /
    (K - 1)) log((1 - q) (K - 1) / q). The probability cannot fall to 1/2 as long as the divergence of r flips is below that of 1/2 from p, which is
    -log(4 p (1 - p)) / 2. p is at least 1 minus the sum, over all rivals, of the probability that the rival's score reaches the answer's. Each is
    bounded by Chernoff's bound for a sum of independent terms, the best of 60 exponents. If p is not above 1/2, nothing is proved, not even the
    answer.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # a filter may turn a flipped label into a missing row, which the proof does not cover

    @property
    def unit(self) -> str:
        """The unit of the radii."""
        return UNITS["flip"]

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii in flipped labels, -1 where the answer is wrong or not proved."""
        if not isinstance(victim, SmoothedVictim):
            raise ConfigError("defense.certify: this is the certificate of defense=label_smoothing, whose victim is linear in its labels")
        radii = list[Tensor]()
        for some in torch.arange(len(test)).split(ROWS):
            influence_MN = victim.influence(test.inputs[some])
            answers = victim.scores(test.inputs[some]).argmax(1)
            wrong = error(influence_MN, answers, victim)
            radii.append(torch.where(answers == test.labels[some], radius(wrong, victim.recipe.flip, victim.kinds), -1))
        return torch.cat(radii)


def radius(wrong_M: Tensor, flip: float, kinds: int) -> Tensor:
    """Return (M,) int64 radii from upper bounds of the probability that the answer does not win."""
    step = (1 - flip - flip / (kinds - 1)) * math.log((1 - flip) * (kinds - 1) / flip)
    wrong = wrong_M.clamp(1e-300, 0.5)
    room = -(4 * wrong * (1 - wrong)).log() / 2
    return torch.where(wrong_M < 0.5, (room / step - 1e-9).ceil().long() - 1, -1)  # the inequality is strict: at equality there may be a tie


def error(influence_MN: Tensor, answers_M: Tensor, victim: SmoothedVictim) -> Tensor:
    """Return (M,) float64, an upper bound of the probability that the score of some rival reaches the answer's."""
    flip, kinds = victim.recipe.flip, victim.kinds
    spread = flip / (kinds - 1)
    size = influence_MN.abs().max(1).values.clamp_min(1e-300)
    best = torch.zeros(len(answers_M), kinds, dtype=torch.float64)
    own = (victim.labels == answers_M[:, None]).double()
    for tilt in torch.logspace(-3, 2, TILTS, dtype=torch.float64):
        push = influence_MN * (tilt / size)[:, None]
        down, up = (-push).exp(), push.exp()
        # a redrawn label is the answer's (down), the rival's (up) or neither (1); the probabilities depend on the original label
        stays = ((1 - flip) * down + spread * up + (kinds - 2) * spread).log()
        comes = (spread * down + (1 - flip) * up + (kinds - 2) * spread).log()
        other = (spread * (down + up) + (1 - 2 * spread)).log()
        base = (other + own * (stays - other)).sum(1)
        for rival in range(kinds):
            theirs = victim.labels == rival
            best[:, rival] = torch.minimum(best[:, rival], base + (comes - other)[:, theirs].sum(1))
    chance = best.exp().masked_fill(torch.arange(kinds) == answers_M[:, None], 0.0)
    return chance.sum(1).clamp_max(1.0)
