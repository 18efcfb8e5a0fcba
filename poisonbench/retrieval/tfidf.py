"""Cosines of TF-IDF vectors, by scikit-learn.

Shape letters: M questions, N passages, V words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import State
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import Hits
from poisonbench.forms.tokens import TEXTS, Tokens
from poisonbench.forms.words import words_form
from poisonbench.retrieval.lexical import NEEDS_WORDS, Scored, counts, hits
from poisonbench.retrieval.search import BLOCK
from poisonbench.retrieval.words import Weighted, unspecial

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

READER = "the retriever TF-IDF"


@dataclass(frozen=True, kw_only=True)
class Tfidf:
    """Compare counts of words, each weighted by how few of the public passages have it.

    Source: scikit-learn's TfidfTransformer with its defaults: the weight of a word is ln((1 + n) / (1 + d)) + 1, where d of n passages have it, and the
    score is the cosine of the two vectors. Words that no public passage has are weighted as the rarest ones.
    The weights come from passages that nobody can poison, so the score of a passage depends on no other passage of the index.

    Args:
        fitted: "weights" (V,) float64, once they are computed.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    READS: ClassVar[frozenset[str]] = TEXTS
    PACKAGES: ClassVar[tuple[str, ...]] = ("scikit-learn", "scipy", "numpy")
    fitted: State = field(default_factory=dict)

    def with_public(self, public: Dataset) -> Tfidf:
        """Return the retriever with the weights of the public passages; without them if there are none."""
        return dataclasses.replace(self, fitted={"weights": weights(words_form(public, READER, NEEDS_WORDS), public.inputs)} if len(public) else {})

    def check(self, passages: Dataset) -> None:
        """Refuse rows that are not words, and a task without public passages.

        Raises:
            ConfigError: what to change.
        """
        words_form(passages, READER, NEEDS_WORDS)
        if not self.fitted:
            raise ConfigError("retriever=tfidf weighs words by public passages, and there are none; set task.public=0.2, or retriever=tfidf_corpus")

    def index(self, passages: Dataset, state: State | None = None) -> TfidfIndex:
        """Return the index; it is computed in milliseconds, so it has no state."""
        assert self.fitted, "with_public comes first"
        return TfidfIndex(passages=passages, form=words_form(passages, READER, NEEDS_WORDS), weights=self.fitted["weights"])


@dataclass(frozen=True, kw_only=True)
class TfidfCorpus:
    """Compare counts of words, each weighted by how few passages of the index have it; otherwise as `Tfidf`.

    Every passage of the index, a poisoned one too, changes the weights and with them the scores of all passages.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "all rows"
    READS: ClassVar[frozenset[str]] = TEXTS
    PACKAGES: ClassVar[tuple[str, ...]] = ("scikit-learn", "scipy", "numpy")

    def with_public(self, public: Dataset) -> TfidfCorpus:
        """Return the retriever as it is."""
        return self

    def check(self, passages: Dataset) -> None:
        """Refuse rows that are not words.

        Raises:
            ConfigError: what to change.
        """
        words_form(passages, READER, NEEDS_WORDS)

    def index(self, passages: Dataset, state: State | None = None) -> TfidfIndex:
        """Return the index; it is computed in milliseconds, so it has no state."""
        form = words_form(passages, READER, NEEDS_WORDS)
        return TfidfIndex(passages=passages, form=form, weights=weights(form, passages.inputs))


@dataclass(frozen=True, eq=False, kw_only=True)
class TfidfIndex:
    """Passages as unit vectors.

    Args:
        passages: (N,) rows of words.
        form: of the words.
        weights: (V,) float64 of the words.
    """

    passages: Dataset
    form: Tokens
    weights: Tensor

    @cached_property
    def module(self) -> Weighted:
        """The differentiable form of the vectors."""
        return Weighted(unspecial(self.weights).float())

    @cached_property
    def vectors_VN(self) -> csr_matrix:
        """The passages' unit vectors, one column each."""
        return self._vectors(self.passages.inputs).T.tocsr()

    def _vectors(self, inputs: Tensor) -> csr_matrix:
        from sklearn.feature_extraction.text import TfidfTransformer

        transformer = TfidfTransformer()
        transformer.idf_ = self.weights.numpy()
        table = counts(self.form, inputs)
        return transformer.transform(table) if len(inputs) else table  # it refuses a table without rows

    def search(self, questions: Tensor, count: int) -> Hits:
        """Return the best passages with a score above 0."""
        return hits(self._scored(questions), len(questions), count)

    def _scored(self, questions: Tensor) -> Iterator[Scored]:
        """Yield the scores of passages that share a word with a question; a product of sparse tables, for as many questions at a time as fit a block."""
        for part in questions.split(max(1, BLOCK // max(1, len(self.passages)))):
            scores = self._vectors(part) @ self.vectors_VN
            for start, end in zip(scores.indptr[:-1], scores.indptr[1:], strict=True):
                yield Scored(scores.indices[start:end].astype(np.int64), scores.data[start:end].astype(np.float32))

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, V) unit vectors."""
        return torch.from_numpy(self._vectors(inputs).astype(np.float32).toarray())

    def state(self) -> State:
        """Return nothing."""
        return {}


def weights(form: Tokens, inputs: Tensor) -> Tensor:
    """Return (V,) float64, the weight of each word by how few of the (N, L) rows have it."""
    from sklearn.feature_extraction.text import TfidfTransformer

    table = counts(form, inputs)
    return torch.from_numpy(TfidfTransformer().fit(table).idf_ if len(inputs) else np.ones(table.shape[1]))
