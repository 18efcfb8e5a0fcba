"""The certificate of randomized ablation.

Shape letters: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

from defenses.train.randomized_ablation import AblatedVictim
from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.proof import INPUTS, Tolerance


@dataclass(frozen=True, kw_only=True)
class AblationCertificate(NoCertificate):
    """How many pixels of a test picture may be changed before the answer can, with confidence 1 - alpha for all test rows together.

    Source: Levine and Feizi, AAAI 2020, Theorem 1: r changed pixels of d meet an ablation of k with chance 1 - C(d - r, k) / C(d, k), so the
    answer's probability falls by no more; it holds while a lower bound of it stays above 1/2. The bound is Clopper-Pearson's, at level
    alpha / M, from draws that had no part in choosing the answer. They come from the run's seed: an attacker who knows it is met
    by `salt=system` alone.

    Args:
        draws: ablations that the probability is estimated from.
        alpha: chance that any certificate is wrong.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = INPUTS
    draws: int
    alpha: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.draws < 1 or not 0 < self.alpha < 1:
            raise ConfigError(f"defense.certify.draws={self.draws}, alpha={self.alpha}: give 1 or more, and a chance in (0, 1), such as 0.001")

    @property
    def unit(self) -> str:
        """What radii count."""
        return "changed pixels of the test picture"

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii in pixels, -1 where the answer is wrong or not proved."""
        if not isinstance(victim, AblatedVictim):
            raise ConfigError("defense.certify: this is the certificate of defense=randomized_ablation, whose victim votes over ablations")
        answers = victim.scores(test.inputs).argmax(1)
        hits = victim.votes(test.inputs, self.draws, "certificates").gather(1, answers[:, None])[:, 0].numpy()
        lower = np.where(hits > 0, stats.beta.ppf(self.alpha / len(test), np.maximum(hits, 1), self.draws - hits + 1), 0.0)
        radii = radius(torch.from_numpy(lower), test.inputs.shape[2] * test.inputs.shape[3], victim.recipe.kept)
        return torch.where(answers == test.labels, radii, -1)


def radius(lower_M: Tensor, pixels: int, kept: int) -> Tensor:
    """Return (M,) int64, the largest r with lower - (1 - C(d - r, k) / C(d, k)) > 1/2; -1 if not even 0 has it."""
    changed = np.arange(pixels - kept + 1)  # of more, some are always seen
    missed = np.exp(_log_choose(pixels - changed, kept) - _log_choose(np.array(pixels), kept))
    return (lower_M[:, None] - (1 - torch.from_numpy(missed)) > 0.5).sum(1) - 1


def _log_choose(many: np.ndarray, few: int) -> np.ndarray:
    chosen: np.ndarray = special.gammaln(many + 1) - special.gammaln(few + 1) - special.gammaln(many - few + 1)
    return chosen
