"""Inner products of an encoder's unit vectors.

Shape letters: M questions, N passages, E numbers of an embedding, k passages found.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.keys import key
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import NOWHERE, Hits
from poisonbench.forms.tokens import TEXTS
from poisonbench.forms.words import words_form
from poisonbench.retrieval.encoders import Encoder
from poisonbench.retrieval.faiss import Flat
from poisonbench.retrieval.lexical import NEEDS_WORDS
from poisonbench.retrieval.search import search
from poisonbench.retrieval.words import WordEncoder

if TYPE_CHECKING:
    from poisonbench.core.learner import State

READER = "a retriever by an encoder"


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Compare unit vectors of an encoder by their inner products.

    Every text is encoded by itself, so the score of a passage depends on no other passage. A text without a word finds nothing and is never found.

    Args:
        encoder: which one.
        search: "exact", by matrix products in blocks, or "faiss", by the flat index of faiss-cpu; both find the same passages in the same order.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    READS: ClassVar[frozenset[str]] = TEXTS
    PACKAGES: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")
    encoder: Encoder
    search: Literal["exact", "faiss"] = field(metadata={"spec": False})

    def with_public(self, public: Dataset) -> Dense:
        """Return the retriever as it is."""
        return self

    def check(self, passages: Dataset) -> None:
        """Refuse rows that are not words, and an encoder or a package that is not there.

        Raises:
            ConfigError: what to change.
        """
        words_form(passages, READER, NEEDS_WORDS)
        self.encoder.check()
        if self.search == "faiss":
            Flat.check()

    def index(self, passages: Dataset, state: State | None = None) -> DenseIndex:
        """Return the index; `state` saves encoding the passages again."""
        module = _worded(cast("Hashable", self.encoder), key(self.encoder), words_form(passages, READER, NEEDS_WORDS).vocabulary)
        embeddings = module.encoded(passages.inputs) if state is None else state["embeddings"]
        return DenseIndex(module=module, embeddings=embeddings, flat=self.search == "faiss")


@dataclass(frozen=True, eq=False, kw_only=True)
class DenseIndex:
    """Passages as unit vectors of an encoder.

    Args:
        module: the encoder for the words of the passages.
        embeddings: (N, E) float32 unit vectors; zeros for a passage without a word.
        flat: search by faiss.
    """

    module: WordEncoder
    embeddings: Tensor
    flat: bool

    def search(self, questions: Tensor, count: int) -> Hits:
        """Return the best passages; scores can be below 0."""
        asked = self.module.encoded(questions)
        speaks = asked.any(1).nonzero()[:, 0]
        places = torch.full((len(asked), count), NOWHERE)
        scores = torch.full((len(asked), count), -torch.inf)
        found = self._find(asked[speaks], count)
        kept = self._kept
        places[speaks] = torch.where(found.places >= 0, kept[found.places.clamp_min(0)], NOWHERE) if len(kept) else found.places
        scores[speaks] = found.scores
        return Hits(places, scores)

    @cached_property
    def _kept(self) -> Tensor:
        """The positions of passages that have a word."""
        return self.embeddings.any(1).nonzero()[:, 0]

    @cached_property
    def _find(self) -> Callable[[Tensor, int], Hits]:
        """The search among the passages that have a word."""
        some = self.embeddings if len(self._kept) == len(self.embeddings) else self.embeddings[self._kept]
        return Flat(some).search if self.flat else lambda questions, count: search(questions, some, count)

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, E) unit vectors."""
        return self.module.encoded(inputs)

    def state(self) -> State:
        """Return the embeddings."""
        return {"embeddings": self.embeddings}


@functools.lru_cache(maxsize=4)
def _worded(encoder: Hashable, identity: str, vocabulary: tuple[str, ...]) -> WordEncoder:
    """Return the encoder for rows of these words; several victims share it, until its files change and with them its identity."""
    return cast("Encoder", encoder).words(vocabulary)
