"""Query echo: a passage that repeats the question was written to be found for it.

Shape letters: D passages, L tokens, Q words of the question, G n-grams of the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.sift.deeper import Deeper
from poisonbench.core.errors import ConfigError
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import Found
from poisonbench.forms.tokens import PADDING


@dataclass(frozen=True, kw_only=True)
class QueryEcho(Deeper):
    """Remove the passages that repeat the question.

    Source: this filter is ours. It looks for what Zou, Geng, Wang, Jia, "PoisonedRAG", USENIX Security 2025, do where they cannot see the retriever:
    the part of a passage that makes it be found is the question itself.

    Each passage is judged by itself. An attacker who puts the question in other words is not seen, and a passage that answers a question in its own
    words may be removed: that depends on the questions and is to be measured without an attack.

    Args:
        measure: "ngrams", the share of the question's n-grams that the passage contains; or "run", the longest run of words that stands in both, as a
            share of the question.
        order: n, words of an n-gram, 1 or more; a question with fewer words is one n-gram.
        threshold: share from which a passage is removed, in (0, 1].
        reach: passages that are judged, over those that are read; 1 or more.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    measure: Literal["ngrams", "run"]
    order: int
    threshold: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if self.order < 1 or not 0 < self.threshold <= 1:
            raise ConfigError(f"defense.train.sift: order={self.order} is 1 or more, threshold={self.threshold} lies in (0, 1]")

    def keep(self, found: Found) -> Tensor:
        """Return (D,) bool, whether each passage repeats less of the question than the threshold."""
        question = found.question[found.question != PADDING]
        if len(question) == 0:
            return torch.ones(len(found.passages), dtype=torch.bool)
        if self.measure == "run":
            return longest_run(question, found.passages).double() / len(question) < self.threshold
        return shared(question.unfold(0, min(self.order, len(question)), 1), found.passages) < self.threshold


def shared(grams_Gn: Tensor, passages_DL: Tensor) -> Tensor:
    """Return (D,) float64, the share of n-grams that each passage contains."""
    size = grams_Gn.shape[1]
    windows = torch.nn.functional.pad(passages_DL, (0, max(0, size - passages_DL.shape[1])), value=PADDING).unfold(1, size, 1)
    return (windows[:, None] == grams_Gn[None, :, None]).all(3).any(2).double().mean(1)


def longest_run(question_Q: Tensor, passages_DL: Tensor) -> Tensor:
    """Return (D,) int64, the length of the longest run of words that stands in the question and in each passage."""
    runs, best = torch.zeros_like(passages_DL), torch.zeros(len(passages_DL), dtype=torch.int64)
    for word in question_Q:
        before = torch.nn.functional.pad(runs, (1, 0))[:, :-1]  # runs that end one word earlier, in both
        runs = torch.where(passages_DL == word, before + 1, 0)
        best = torch.maximum(best, runs.amax(1))
    return best
