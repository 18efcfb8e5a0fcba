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
    """Certify how many pixels of a test picture may change before the answer changes, with confidence 1 - alpha for all test rows together.

    Source: Levine and Feizi, "Robustness Certificates for Sparse Adversarial Attacks by Randomized Ablation", AAAI 2020, Theorem 1.

    At least one of r changed pixels of d is in an ablation of k pixels with probability 1 - C(d - r, k) / C(d, k). The answer's probability falls
    by at most this, so the answer is certified while a lower bound of its probability stays above 1/2. The bound is Clopper-Pearson's, at level
    alpha / M, from draws other than those that chose the answer. The draws come from the run's seed: against an attacker who knows it, use
    `salt=system`.

    Args:
        draws: ablations that the probability is estimated from, 1 or more.
        alpha: probability that any certificate is wrong, in (0, 1).
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = INPUTS
    draws: int
    alpha: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.draws < 1 or not 0 < self.alpha < 1:
            raise ConfigError(f"defense.certify.draws={self.draws}, alpha={self.alpha}: give 1 or more, and a chance in (0, 1), such as 0.001")

    @property
    def unit(self) -> str:
        """The unit of the radii."""
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
    """Return (M,) int64, the largest r with lower - (1 - C(d - r, k) / C(d, k)) > 1/2; -1 if r = 0 does not satisfy it."""
    changed = np.arange(pixels - kept + 1)  # with more changed pixels, every ablation contains one
    missed = np.exp(_log_choose(pixels - changed, kept) - _log_choose(np.array(pixels), kept))
    return (lower_M[:, None] - (1 - torch.from_numpy(missed)) > 0.5).sum(1) - 1


def _log_choose(many: np.ndarray, few: int) -> np.ndarray:
    chosen: np.ndarray = special.gammaln(many + 1) - special.gammaln(few + 1) - special.gammaln(many - few + 1)
    return chosen
