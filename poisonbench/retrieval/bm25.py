"""BM25, by bm25s.

Shape letters: M questions, N passages, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # the usual name

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import Hits
from poisonbench.forms.tokens import SPECIAL, TEXTS, Tokens
from poisonbench.forms.words import words_form
from poisonbench.retrieval.lexical import NEEDS_WORDS, Scored, counts, hits

if TYPE_CHECKING:
    import bm25s

    from poisonbench.core.learner import State

READER = "the retriever BM25"


@dataclass(frozen=True, kw_only=True)
class BM25:
    """Compare words by BM25, in the variant of Lucene.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; the variant as in Kamphuis, de Vries, Boytsov, Lin,
    "Which BM25 Do You Mean?", ECIR 2020; computed by bm25s (Lù, 2024). The score is the sum, over the words of the question, of
    ln(1 + (N - d + 0.5) / (d + 0.5)) * f / (f + k1 * (1 - b + b * l / a)), where d of N passages have the word, f is how often this passage
    has it, l is the length of this passage, and a the mean length. So a repeated word counts less and less. Words are compared as the task has them,
    without stemming; <unk> counts as no word.

    Differences: bm25s returns the last passages with score 0 where a question has no known word; here a hit needs a score above 0, and of equal scores
    the passage at the smaller position comes first. The variants BM25L and BM25+ are not offered: BM25+ orders passages as BM25 does, and with the
    BM25L of rank-bm25 a repeated word counts without limit.

    Args:
        k1: how slowly a repeated word saturates, 0 or more.
        b: how much long passages are discounted, in [0, 1].
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "all rows"
    READS: ClassVar[frozenset[str]] = TEXTS
    PACKAGES: ClassVar[tuple[str, ...]] = ("bm25s", "numpy", "scipy")
    k1: float
    b: float

    def __post_init__(self) -> None:
        """Refuse numbers that define no score."""
        if not (self.k1 >= 0 and 0 <= self.b <= 1 and self.k1 < np.inf):
            raise ConfigError(f"retriever.k1={self.k1}, retriever.b={self.b}: give k1 as 0 or more, and b in [0, 1]")

    def with_public(self, public: Dataset) -> BM25:
        """Return the retriever as it is."""
        return self

    def check(self, passages: Dataset) -> None:
        """Refuse rows that are not words, and a missing package.

        Raises:
            ConfigError: what to change.
        """
        words_form(passages, READER, NEEDS_WORDS)
        _library()

    def index(self, passages: Dataset, state: State | None = None) -> BM25Index:
        """Return the index; 100,000 passages take seconds, so it has no state."""
        return BM25Index(recipe=self, passages=passages, form=words_form(passages, READER, NEEDS_WORDS))


@dataclass(frozen=True, eq=False, kw_only=True)
class BM25Index:
    """Passages as an inverted index.

    Args:
        recipe: k1 and b.
        passages: (N,) rows of words.
        form: of the words.
    """

    recipe: BM25
    passages: Dataset
    form: Tokens

    @property
    def module(self) -> None:
        """None: no gradient of BM25 is offered."""
        return

    @cached_property
    def library(self) -> bm25s.BM25 | None:
        """The index of bm25s; None if no passage has a word, which it divides by zero for."""
        words = _words(self.passages.inputs)
        if not any(words):
            return None
        index = _library()(method="lucene", k1=self.recipe.k1, b=self.recipe.b, csc_backend="scipy")
        index.index((words, {place: place for place in range(len(self.form.vocabulary))}), create_empty_token=False, show_progress=False)
        return index

    def search(self, questions: Tensor, count: int) -> Hits:
        """Return the best passages with a score above 0."""
        return hits(self._scored(questions), len(questions), count)

    def _scored(self, questions: Tensor) -> Iterator[Scored]:
        for words in _words(questions):
            scores = self.library.get_scores_from_ids(words) if words and self.library else np.zeros(0, np.float32)
            places = np.flatnonzero(scores)
            yield Scored(places, scores[places])

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, V) unit vectors of the weights that BM25 gives to the words of a text, as if it were a passage; of words in no passage, 0."""
        table, (frequencies, mean) = counts(self.form, inputs).toarray(), self._statistics
        lengths = table.sum(1, keepdims=True)
        rarity = np.where(frequencies > 0, np.log1p((len(self.passages) - frequencies + 0.5) / (frequencies + 0.5)), 0.0)
        scale = self.recipe.k1 * (1 - self.recipe.b + self.recipe.b * lengths / mean)
        weights = rarity * np.divide(table, table + scale, out=np.zeros_like(table), where=table > 0)
        return F.normalize(torch.from_numpy(weights), dim=1).float()

    @cached_property
    def _statistics(self) -> tuple[NDArray[np.int64], float]:
        """Return in how many passages each word occurs (V,), and the mean length of passages."""
        table = counts(self.form, self.passages.inputs)
        return np.bincount(table.indices, minlength=table.shape[1]), max(float(table.sum()), 1.0) / max(1, len(self.passages))

    def state(self) -> State:
        """Return nothing."""
        return {}


def _words(inputs: Tensor) -> list[list[int]]:
    return [[word for word in row if word >= len(SPECIAL)] for row in inputs.tolist()]


def _library() -> type[bm25s.BM25]:
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError('retriever=bm25 needs bm25s: pip install "poisonbench[text]"') from error
    kind: type[bm25s.BM25] = bm25s.BM25
    return kind
