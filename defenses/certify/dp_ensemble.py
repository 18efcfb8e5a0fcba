"""The certificates of differentially private training.

Shape letters: M test rows, K classes, R members, A orders of the Renyi divergence, J rows of the group that a batch may hold, Z points of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import special, stats
from torch import Tensor

from defenses.certify.bagging import bounds
from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import UNITS, Change, electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.proof import ROWS, Tolerance

Floats = npt.NDArray[np.float64]

ORDERS = np.array([1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256])
MOVES: dict[Change, tuple[Change, ...]] = {"insert": ("insert",), "delete": ("delete",), "flip": ("delete", "insert"), "edit": ("delete", "insert")}
MOST = 200  # the largest radius that is tested
STEP, REACH = 16, 12  # grid points per standard deviation, and the reach of the grid beyond the outermost centre, in standard deviations
ROUNDING = 1e-12  # largest rounding error of sums of a few thousand terms
BETS = np.linspace(0, 1, 4001)  # candidate means


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """DP-SGD as its certificates see it: T steps of a Poisson-sampled Gaussian mechanism.

    Args:
        noise: standard deviation, in clipping bounds.
        rate: probability that a row joins a step.
        steps: T.
    """

    noise: float
    rate: float
    steps: int

    def floor(self, chance: Floats, rows: int, change: Change) -> Floats:
        """Return lower bounds of the probabilities of events after `rows` rows are changed; an edit is a deletion and an insertion."""
        for move in MOVES[change] if rows else ():
            forth, back = self.spent(rows, move)
            chance = np.maximum(_fallen(chance, forth), 1 - _risen(1 - chance, back))
        return chance

    def ceiling(self, chance: Floats, rows: int, change: Change) -> Floats:
        """Return upper bounds of the probabilities of events after `rows` rows are changed."""
        return 1 - self.floor(1 - chance, rows, change)

    def spent(self, rows: int, move: Change) -> tuple[Floats, Floats]:
        """Return (A,) divergences of the whole training: of before from after, and of after from before."""
        thin, thick = divergences(self.noise, self.rate, rows)
        before, after = (thin, thick) if move == "insert" else (thick, thin)
        return before * self.steps, after * self.steps


def _fallen(chance: Floats, divergence_A: Floats) -> Floats:
    """Return the smallest Q(S) for P(S) = chance: P(S) <= (exp(D(P, Q)) Q(S))^((a - 1) / a), the best of all orders."""
    logs = np.log(np.maximum(chance, 1e-300))[..., None] * (ORDERS / (ORDERS - 1)) - divergence_A
    floor: Floats = np.where(chance > 0, np.exp(logs.max(-1)), 0.0)
    return floor


def _risen(chance: Floats, divergence_A: Floats) -> Floats:
    """Return the largest Q(S) for P(S) = chance, from the divergence of Q from P."""
    logs = (np.log(np.maximum(chance, 1e-300))[..., None] + divergence_A) * ((ORDERS - 1) / ORDERS)
    most: Floats = np.minimum(np.exp(logs.min(-1)), 1.0)
    return most


@lru_cache(maxsize=4096)
def divergences(noise: float, rate: float, rows: int) -> tuple[Floats, Floats]:
    """Return (A,) Renyi divergences of one step on N rows from one on N + r rows, and in the other direction, for the group of r at once.

    Source: Ganesh, "Tight Group-Level DP Guarantees for DP-SGD with Sampling via Mixture of Gaussians Mechanisms", 2024: with r more rows no pair of
    outcomes differs more than a Gaussian N(0, s^2) and the mixture over j ~ Binomial(r, q) of N(j, s^2). Both integrals are smooth and
    one-dimensional; a sum over an equidistant grid is exact up to rounding.
    """
    counts_J = np.arange(rows + 1)
    weights_J = stats.binom.logpmf(counts_J, rows, rate)
    thin, thick = [], []
    for order in ORDERS:
        points_Z = np.arange(-(order - 1) * rows - REACH * noise, order * rows + REACH * noise, noise / STEP)
        ratio_Z = np.full(len(points_Z), -np.inf)
        for count, weight in zip(counts_J, weights_J, strict=True):
            ratio_Z = np.logaddexp(ratio_Z, weight + (2 * count * points_Z - count**2) / (2 * noise**2))
        base_Z = stats.norm.logpdf(points_Z, scale=noise) + np.log(noise / STEP)
        thick.append(special.logsumexp(base_Z + order * ratio_Z) / (order - 1))
        thin.append(special.logsumexp(base_Z + (1 - order) * ratio_Z) / (order - 1))
    return np.maximum(thin, 0) + ROUNDING, np.maximum(thick, 0) + ROUNDING


@dataclass(frozen=True, kw_only=True)
class DpCertificate(NoCertificate):
    """Certify how many rows may change before the answer of a private training changes, with confidence 1 - alpha for all test rows together.

    Source: Ma, Zhu and Hsu, "Data Poisoning against Differentially-Private Learners: Attacks and Defenses", IJCAI 2019; Liu et al., "Enhancing the
    Antidote: Improved Pointwise Certifications against Poisoning Attacks", AAAI 2023, for pointwise answers by Renyi divergences.

    Let p be the probability that one training gives the answer that most members gave, and q that of a rival. Both have Clopper-Pearson bounds at
    level alpha / (2 M K) from the members' votes. Poison changes both by at most the divergence of trainings on sets that differ in r rows, computed
    for r at once (`divergences`), not by chaining single rows. The answer is certified while the lower bound of p stays above the upper bound of q.
    What is certified is the answer that most trainings give; the vote of the R members is an estimate of it.

    `together` bounds the expected accuracy of one training under one common attack of r rows. Its mean over the members is bounded from below with
    confidence 1 - alpha by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024), and then
    changed like p.

    The adjacency is add or remove one row; a flip or an edit is one removed and one added. The sampling rate, the number of steps and the input
    statistics are public and the same before and after (`PrivateStep`). The confidence is over draws that come from the run's seed: against an
    attacker who knows it, use `salt=system`.

    Args:
        alpha: probability that any pointwise certificate is wrong, and probability that the bound on the accuracy is wrong, in (0, 1).
        change: what is counted: inserted ("insert"), deleted ("delete"), relabelled ("flip") or edited ("edit") rows.
        radii: numbers of changed rows for `together`, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ROWS
    alpha: float
    change: Change
    radii: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 < self.alpha < 1:
            raise ConfigError(f"defense.certify.alpha={self.alpha}: give a chance in (0, 1), such as 0.001")
        if min(self.radii, default=0) < 0:
            raise ConfigError(f"defense.certify.radii={list(self.radii)}: give numbers of changed rows, 0 or more")

    @property
    def unit(self) -> str:
        """The unit of the radii, with the adjacency."""
        steps = len(MOVES[self.change])
        return f"{UNITS[self.change]}, {'each one step of add or remove one row' if steps == 1 else 'each one row removed and one added'}"

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii, -1 where the answer is wrong or cannot be distinguished from its rival."""
        votes_MK = electorate(victim).tally(test.inputs).votes_MK
        return torch.where(votes_MK.argmax(1) == test.labels, self.proved(votes_MK, mechanism(victim)), -1)

    def proved(self, votes_MK: Tensor, training: Mechanism) -> Tensor:
        """Return (M,) int64 radii of the answers with the most votes, -1 where one cannot be distinguished from its rival."""
        first_M, second_M = bounds(votes_MK.numpy(), self.alpha)
        radii_M = np.where(first_M > second_M, 0, -1)
        for rows in range(1, MOST + 1):
            held_M = (radii_M == rows - 1) & (training.floor(first_M, rows, self.change) > training.ceiling(second_M, rows, self.change))
            if not held_M.any():
                break
            radii_M[held_M] = rows
        return torch.from_numpy(radii_M)

    def together(self, victim: Victim, test: Dataset) -> Mapping[int, float]:
        """Return a lower bound of the expected accuracy of one training for each of `radii`."""
        right_R = (electorate(victim).tally(test.inputs).answers_MR == test.labels[:, None]).double().mean(0)
        accuracy, training = np.array(least_mean(right_R.numpy(), self.alpha)), mechanism(victim)
        return {rows: float(training.floor(accuracy, rows, self.change)) for rows in self.radii}


def mechanism(victim: Victim) -> Mechanism:
    """Return how one member was trained: the certificate is about one training, so it does not use the epsilon of all of them.

    Raises:
        ConfigError: the members were not trained by DP-SGD.
    """
    facts = victim.facts
    if not {"noise_multiplier", "sampling_rate", "epochs", "public_rows"} <= facts.keys():
        raise ConfigError("defense.certify: this is the certificate of defense=dp_ensemble, whose members are trained by DP-SGD")
    noise, rate, epochs = (float(str(facts[name])) for name in ("noise_multiplier", "sampling_rate", "epochs"))
    return Mechanism(noise=noise, rate=rate, steps=round(epochs / rate))


def least_mean(values_R: Floats, alpha: float) -> float:
    """Return a lower confidence bound of the mean of independent values in [0, 1], by betting.

    A gambler bets against every candidate mean; those against which the capital never grew to 1 / alpha are not rejected. The stake on value i
    depends only on earlier values, so the capital is a martingale under the true mean and Ville's inequality applies.
    """
    capital, seen, spread = np.zeros(len(BETS)), 0.5, 0.25
    most = np.zeros(len(BETS))
    for number, value in enumerate(values_R, start=1):
        stake = np.sqrt(2 * np.log(1 / alpha) / (spread / number * len(values_R)))
        capital += np.log1p(np.minimum(stake, 0.9 / np.maximum(BETS, 1e-9)) * (value - BETS))
        most = np.maximum(most, capital)
        seen += value
        spread += (value - seen / (number + 1)) ** 2
    held = most < np.log(1 / alpha)
    return float(BETS[max(int(held.argmax()) - 1, 0)])
