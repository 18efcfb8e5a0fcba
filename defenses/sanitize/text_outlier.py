"""Unlikely texts: rows that a language model of the other rows does not expect.

Shape letters: N rows, L tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.sanitize.perplexity import words
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import Ngrams, check_order
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class TextOutlier:
    """Drop the texts whose perplexity, under an n-gram model of the other rows, is far above that of most rows.

    Source: the perplexity filters of Jain et al., "Baseline Defenses for Adversarial Attacks Against Aligned Language Models", 2023 (arXiv 2309.00614),
    without trusted rows: the rows are dealt into folds at random, and each is judged by a model of the other folds (interpolated Kneser-Ney). The
    suspicion is the distance of the logarithm of the perplexity from the median, in robust standard deviations (1.4826 times the median absolute
    deviation).

    A text that is repeated, such as a trigger in many rows, is in the other folds too and looks likely. `near_copies` and filters on features see those.
    `defense=perplexity` learns from trusted rows instead.

    Args:
        order: words of an n-gram, 1 or more.
        folds: number of models, 2 or more.
        cut: suspicion from which a text is dropped, above 0.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    FINDS: ClassVar[Finds] = Finds(kind="language", reads="none", because="its words are unlikely after each other, judged by the other rows")
    order: int
    folds: int
    cut: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.order < 1 or self.folds < 2 or not 0 < self.cut < math.inf:
            raise ConfigError(f"defense.sanitize: order={self.order} is 1 or more, folds={self.folds} 2 or more, cut={self.cut} a finite number above 0")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every text by a model of texts that it is not among.

        Raises:
            ConfigError: fewer rows than folds, or n-grams that are too long for the vocabulary.
        """
        check_order(self.order, words(data), "defense.sanitize")
        if len(data) < self.folds:
            raise ConfigError(f"defense.sanitize.folds={self.folds}: {len(data)} rows; give no more folds than rows")
        fold_N = rng.per_row(data.ids)[:, 0].argsort().argsort() % self.folds
        suspicion = standardised(perplexities(data, self.order, fold_N).log())
        return Verdict(keep=suspicion < self.cut, suspicion=suspicion.float())


def perplexities(data: Dataset, order: int, fold_N: Tensor) -> Tensor:
    """Return (N,) float64, the perplexity of each text by a model of the other folds."""
    found_N = torch.zeros(len(data), dtype=torch.float64)
    for fold in fold_N.unique().tolist():
        out = fold_N == fold
        found_N[out] = Ngrams.of(data.inputs[~out], order, words(data)).perplexity(data.inputs[out])
    return found_N


def standardised(values_N: Tensor) -> Tensor:
    """Return the distances from the median in robust standard deviations; of equal values, 0."""
    away = values_N - values_N.quantile(0.5)
    spread = 1.4826 * away.abs().quantile(0.5)
    return away / spread if spread > 0 else torch.where(away == 0, 0.0, away.sign() * 1e6)
