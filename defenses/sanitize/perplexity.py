"""Perplexity: texts that were optimised word by word look unlikely to a language model.

Shape letters: N rows, T trusted rows, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.sanitize.passages import FOLDS, folds
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import Ngrams, check_order
from poisonbench.forms.tokens import TEXTS, Tokens
from poisonbench.forms.words import whole_rows


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Drop the rows whose perplexity is larger than that of nearly all trusted rows.

    Source: Jain et al., "Baseline Defenses for Adversarial Attacks Against Aligned Language Models", 2023 (arXiv 2309.00614), and Alon and Kamfonas,
    "Detecting Language Model Attacks with Perplexity", 2023 (arXiv 2308.14132); against poisoned passages by Zou, Geng, Wang, Jia, "PoisonedRAG",
    USENIX Security 2025, where it does not separate them: their passages are fluent.

    A row is one text: the words of all columns that a writer of rows can change, one column after the other, such as a prompt, then its response.

    Removed passages are not in the index, so a search finds deeper ones in their place. Large perplexities alone are suspicious. The verdict on a row
    depends on that row and on trusted rows only.

    Differences: the language model is an n-gram model (interpolated Kneser-Ney) of the trusted rows, instead of a neural one, so words that the
    trusted rows do not have are unlikely, such as names. The threshold is therefore taken from trusted rows that the model was not fitted on. Rows that
    stand next to each other are held out together, since they may be about the same thing: with rows from everywhere, 10 to 54 % of the clean passages
    of task=facts exceeded a threshold meant for 1 %, with neighbours 0.5 to 2.1 % (seeds 100 to 102).

    Args:
        order: words of an n-gram, 1 or more.
        quantile: share of the trusted rows whose perplexity the threshold reaches, in (0, 1]; about 1 - quantile of the clean rows are lost.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    order: int
    quantile: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.order < 1 or not 0 < self.quantile <= 1:
            raise ConfigError(f"defense.sanitize: order={self.order} is 1 or more, quantile={self.quantile} lies in (0, 1]")

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse too few trusted rows, and n-grams that are too long for the vocabulary.

        Raises:
            ConfigError: what to change.
        """
        check_order(self.order, words(trusted), "defense.sanitize")
        if len(trusted) < 2 * FOLDS:
            raise ConfigError(f"defense.sanitize learns a language model from {len(trusted)} trusted rows; set task.trusted to a share that gives {2 * FOLDS}")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row by its perplexity."""
        trusted, size = whole_rows(means.trusted), words(data)
        suspicion = Ngrams.of(trusted, self.order, size).perplexity(whole_rows(data))
        return Verdict(keep=suspicion <= quantile(held_out(trusted, self.order, size), self.quantile), suspicion=suspicion.float())


def held_out(inputs_TL: Tensor, order: int, size: int) -> Tensor:
    """Return (T,) float64 perplexities of trusted rows, each by a model of rows in which neither it nor its neighbours are."""
    fold, found = folds(len(inputs_TL)), torch.zeros(len(inputs_TL), dtype=torch.float64)
    for number in fold.unique().tolist():
        found[fold == number] = Ngrams.of(inputs_TL[fold != number], order, size).perplexity(inputs_TL[fold == number])
    return found


def quantile(values_T: Tensor, share: float) -> Tensor:
    """Return the smallest value that this share of the values does not exceed."""
    return torch.quantile(values_T, share, interpolation="higher")


def words(data: Dataset) -> int:
    """Return the number of words of the task, padding included."""
    assert isinstance(data.form, Tokens), "READS says so"
    return len(data.form.vocabulary)
