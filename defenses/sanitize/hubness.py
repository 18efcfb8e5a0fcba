"""Hubness: a passage that shall be found for many questions lies near the middle of all of them.

Shape letters: N passages, T trusted passages, Q past questions, V vectors, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.sanitize.passages import past, searched
from defenses.sanitize.perplexity import quantile
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class Hubness:
    """Drop the passages whose cosine to the mean of the corpus, or of past questions, is larger than that of nearly all trusted passages.

    Source: Radovanovic, Nanopoulos, Ivanovic, "Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data", JMLR 2010: points near the mean of
    the data are among the nearest neighbours of many others. Zhong, Huang, Wettig, Chen, "Poisoning Retrieval Corpora by Injecting Adversarial
    Passages", EMNLP 2023, make such points on purpose: their passages are optimised to be found for all questions of a group.

    Removed passages are not in the index, so a search finds deeper ones in their place. A passage that is made for a single question lies where its
    question lies, so this filter does not see it. The mean is that of all *other* passages, or of all questions but the one that a trusted passage
    answers; so trusted and other passages are scored alike. Poison in the corpus moves its mean.

    Args:
        centre: mean of the other passages ("corpus") or of the past questions of the trusted rows ("questions").
        quantile: share of the trusted passages whose cosine the threshold reaches, in (0, 1]; about 1 - quantile of the clean passages are lost.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    centre: Literal["corpus", "questions"]
    quantile: float

    def __post_init__(self) -> None:
        """Check that the quantile is in range."""
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"defense.sanitize.quantile={self.quantile}: give a share in (0, 1]")

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse trusted rows without the past questions that are asked for.

        Raises:
            Incompatible: the task has no past questions.
            ConfigError: there are too few.
        """
        if self.centre == "questions":
            past(trusted)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every passage by its cosine to the mean.

        Raises:
            Incompatible: the victim searches no passages.
        """
        victim = searched(data, means, self)
        features, trusted = victim.features(data.inputs), victim.features(means.trusted.inputs)
        if self.centre == "corpus":
            suspicion = central(features, features.sum(0), features)
            clean = central(trusted, features.sum(0), torch.zeros_like(trusted))
        else:
            known = past(means.trusted)
            asked = victim.features(known.questions)
            suspicion = central(features, asked.sum(0), torch.zeros_like(features))
            clean = central(trusted, asked.sum(0), known.asked_about(asked))
        return Verdict(keep=suspicion <= quantile(clean, self.quantile), suspicion=suspicion.float())


def central(vectors_VE: Tensor, whole_E: Tensor, own_VE: Tensor) -> Tensor:
    """Return (V,) float64 cosines of unit vectors to the sum of vectors, each without its own share of this sum."""
    along = (vectors_VE @ whole_E - (vectors_VE * own_VE).sum(1)).double()
    length = (whole_E @ whole_E - 2 * own_VE @ whole_E + (own_VE * own_VE).sum(1)).double().clamp_min(1e-12).sqrt()
    return along / length
