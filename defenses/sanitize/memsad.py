"""MemSAD: an entry that shall be found for a question resembles this question more than other entries do.

Shape letters: N passages, T trusted passages, Q past questions, V passages, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.sanitize.passages import past, searched
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS

CELLS = 1 << 24  # cosines that are held at a time


@dataclass(frozen=True, kw_only=True)
class MemSad:
    """Drop the passages that resemble a recent question more than trusted passages do.

    Source: Gowda, "MemSAD", 2026 (arXiv 2605.03482): s(e) is the largest cosine of an entry to the recent questions, or half of it plus half of the
    mean; mu and sigma are those of benign entries; an entry is flagged if s > mu + kappa sigma. The paper's window holds 100 questions.

    The recent questions are those of the trusted rows (column `question`). A trusted passage is calibrated without the question that it answers and
    without those of neighbouring rows, which are about the same thing: an entry that answers a recent question resembles it for a good reason, which must
    not raise the threshold. Removed passages
    are not in the index, so a search finds deeper ones in their place.

    Limits: questions that the defender has never seen do not help, so a passage made for a new question passes as long as no recent question is close
    to it. Passages that answer a recent question honestly may be flagged. The paper's own limit: rewriting an entry with synonyms evades the filter.

    Args:
        score: "max", the largest cosine; or "max_mean", half of it plus half of the mean cosine.
        kappa: standard deviations above the mean, 0 or more (paper: 2).
        window: questions that are recent, 2 or more (paper: 100); the last ones of the trusted rows.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    score: Literal["max", "max_mean"]
    kappa: float
    window: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.kappa < 0 or self.window < 2:
            raise ConfigError(f"defense.sanitize: kappa={self.kappa} is 0 or more, window={self.window} is 2 or more")

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse trusted rows without past questions.

        Raises:
            Incompatible: the task has no past questions.
            ConfigError: there are too few.
        """
        past(trusted, self.window)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every passage by how much it resembles the recent questions.

        Raises:
            Incompatible: the victim searches no passages.
            ConfigError: too few trusted rows.
        """
        victim, known = searched(data, means, self), past(means.trusted, self.window)
        asked = victim.features(known.questions)
        clean = self.resemblance(victim.features(means.trusted.inputs), asked, known.near())
        if not (compared := clean.isfinite()).any():
            raise ConfigError("defense.sanitize: no trusted row can be compared with a question of another one; set task.trusted to a larger share")
        clean = clean[compared]
        suspicion = self.resemblance(victim.features(data.inputs), asked, torch.zeros(1, 1, dtype=torch.bool).expand(len(data), len(asked)))
        return Verdict(keep=suspicion <= clean.mean() + self.kappa * clean.std(correction=0), suspicion=suspicion.float())

    def resemblance(self, features_VE: Tensor, asked_QE: Tensor, left_out_VQ: Tensor) -> Tensor:
        """Return (V,) float64, how much passages resemble the questions except those that are left out; -inf where all are."""
        parts = list[Tensor]()
        for rows in torch.arange(len(features_VE)).split(max(1, CELLS // len(asked_QE))):
            cosines = (features_VE[rows] @ asked_QE.T).double()
            other = ~left_out_VQ[rows]
            largest = cosines.masked_fill(~other, -torch.inf).amax(1)
            mean = (cosines * other).sum(1) / other.sum(1).clamp_min(1)
            parts.append(largest if self.score == "max" else (largest + mean) / 2)
        return torch.cat(parts)
