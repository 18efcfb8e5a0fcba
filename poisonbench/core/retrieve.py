"""Retrieval: a victim searches passages for a question and reads the best of them.

Shape letters: M questions, N passages, L places of a text, k passages read, D passages found, R groups of P passages that are read together,
K candidate answers of a question, A places of an answer, E numbers of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import Incompatible
from poisonbench.core.form import Form
from poisonbench.core.proof import Looks

if TYPE_CHECKING:
    from poisonbench.core.defense import Aggregator
    from poisonbench.core.learner import Differentiable, Fitted, State

NONE_OF_THEM = 0  # the place of the candidate answer without words
NOWHERE = -1  # the position of a hit that there is not
SILENCE = 1e-3  # the score of "none of them" where nothing is read: below one passage of any number that is read


class Hits(NamedTuple):
    """What a search found.

    Args:
        places: (M, k) int64 positions of passages, best first; -1 where there is no further hit.
        scores: (M, k) float32; -inf where there is no further hit.
    """

    places: Tensor
    scores: Tensor


class Index(Protocol):
    """Passages that can be searched."""

    @property
    def module(self) -> Differentiable | None:
        """The differentiable encoder, whose features are those of the index; None if there is none."""
        ...

    def search(self, questions: Tensor, count: int) -> Hits:
        """Return the best `count` passages for each of (M, L) questions; of equal scores, the passage at the smaller position comes first.

        A retriever that compares words finds only passages with a score above 0.
        """
        ...

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, E) float32 unit vectors of texts (M, L); a text of which nothing is known is all zeros."""
        ...

    def state(self) -> State:
        """Return what takes long to compute again, such as embeddings; may be empty."""
        ...


class Retriever(Protocol):
    """How passages are found, as a frozen dataclass.

    The class attribute LOOKS_AT states what the score of a passage depends on: "each row alone" (on no other passage of the index) or "all rows".
    """

    def with_public(self, public: Dataset) -> Retriever:
        """Return this retriever with what it learns from passages that cannot be poisoned, such as document frequencies."""
        ...

    def check(self, passages: Dataset) -> None:
        """Refuse passages or settings that it cannot work with; cheap.

        Raises:
            ConfigError: what to change.
        """
        ...

    def index(self, passages: Dataset, state: State | None = None) -> Index:
        """Return the index of these passages; `state` is that of an earlier index of the same passages."""
        ...


class Reader(Protocol):
    """How an answer is read off passages, as a frozen dataclass."""

    def with_public(self, public: Dataset, fit: Fitted | None) -> Reader:
        """Return this reader with what it learns from rows that cannot be poisoned; `fit` is None where nothing may be trained yet."""
        ...

    def check(self, passages: Dataset) -> None:
        """Refuse passages or settings that it cannot work with; cheap.

        Raises:
            ConfigError: what to change.
        """
        ...

    def read(self, questions: Tensor, passages: Tensor, answers: Tensor, form: Form) -> Tensor:
        """Return (M, R, K) float32, how well each group of passages supports each candidate answer; the largest is the answer of the group.

        Args:
            questions: (M, L).
            passages: (M, R, P, L), R groups of P passages for each question, best first; a row of padding is no passage.
            answers: (M, K, A); the answer at place 0 has no words: "none of them".
            form: of all of them.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """What a filter after the search sees of one question: D passages, best first.

    Args:
        question: (L,).
        passages: (D, L).
        scores: (D,) float32, of the search.
        form: of question and passages.
        encode: returns (M, E) unit vectors of texts (M, L).
        alone: returns (D,) int64, the answer that the reader gives from each passage alone, by its place among the candidates; 0 is none of them.
    """

    question: Tensor
    passages: Tensor
    scores: Tensor
    form: Form
    encode: Callable[[Tensor], Tensor]
    alone: Callable[[], Tensor]

    @cached_property
    def features(self) -> Tensor:
        """Return (D, E) float32 unit vectors of the passages."""
        return self.encode(self.passages)

    @cached_property
    def answers(self) -> Tensor:
        """Return (D,) int64, the answer from each passage alone."""
        return self.alone()


class Sift(Protocol):
    """A filter between search and reader, as a frozen dataclass with LOOKS_AT.

    It judges more passages than are read; the best of those that it keeps are read, so removed passages are replaced by deeper ones.
    """

    def depth(self, top: int) -> int:
        """Return how many passages it wants to see where `top` are read.

        Raises:
            ConfigError: more than it can judge.
        """
        ...

    def keep(self, found: Found) -> Tensor:
        """Return (D,) bool, the passages that may be read."""
        ...


@runtime_checkable
class Retrieves(Protocol):
    """A learner whose victims search passages."""

    def with_sift(self, sift: Sift) -> Self:
        """Return the recipe with one more filter between search and reader, behind those that it has."""
        ...

    def with_isolation(self) -> Self:
        """Return the recipe that reads each passage alone, so that a rule combines the answers."""
        ...

    def with_top(self, top: int) -> Self:
        """Return the recipe that reads so many passages."""
        ...


@runtime_checkable
class Retrieving(Protocol):
    """A victim that searches passages."""

    @property
    def passages(self) -> Dataset:
        """The passages of the index."""
        ...

    @property
    def rule(self) -> Aggregator | None:
        """The rule that combines what single passages say; None if the reader reads all of them together."""
        ...

    @property
    def top(self) -> int:
        """Return k, how many passages are read."""
        ...

    def hits(self, inputs: Tensor, answers: Tensor) -> Hits:
        """Return the passages that are read for each of (M, L) questions; filters may look at what they answer among (M, K, A)."""
        ...

    def search(self, inputs: Tensor, count: int) -> Hits:
        """Return the best passages of the index, before any filter."""
        ...

    def alone(self, inputs: Tensor, answers: Tensor, places: Tensor) -> Tensor:
        """Return (M, D, K) what the reader makes of the passages at positions (M, D), each alone; -1 is no passage."""
        ...

    def choose(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Return (M, K) scores of the candidate answers (M, K, A)."""
        ...

    def handed(self, inputs: Tensor, answers: Tensor, texts: Tensor) -> Tensor:
        """Return (M, K) scores if the texts (M, n, L) were the first passages that are read; rows of padding are no text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sifted:
    """The wrap that puts a filter between search and reader.

    Args:
        sift: the filter.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "all rows"
    sift: Sift

    def __call__(self, learner: object) -> object:
        """Return the learner with the filter.

        Raises:
            Incompatible: a learner that searches no passages.
        """
        return retrieving(learner, self.sift).with_sift(self.sift)


@dataclass(frozen=True, kw_only=True)
class Isolated:
    """The wrap that lets the reader read each passage alone; a rule (`defense.aggregate`) combines what they say.

    Args:
        top: passages that are read, 1 or more; null: as many as the learner reads.
    """

    VERSION: ClassVar[int] = 1
    top: int | None

    def __call__(self, learner: object) -> object:
        """Return the learner that reads passages one by one.

        Raises:
            Incompatible: a learner that searches no passages.
        """
        isolated = retrieving(learner, self).with_isolation()
        return isolated if self.top is None else isolated.with_top(self.top)


def retrieving(learner: object, plugin: object) -> Retrieves:
    """Return the learner as one that searches passages.

    Raises:
        Incompatible: it is none; names the plugin that needs one.
    """
    if not isinstance(learner, Retrieves):
        raise Incompatible(f"{type(plugin).__name__} filters or reads passages, and {type(learner).__name__} searches none; use learner=retrieval")
    return learner


def silence(answers: int) -> Tensor:
    """Return (K,) float32, what a reader says of no passage: "none of them"."""
    said = torch.zeros(answers)
    said[NONE_OF_THEM] = SILENCE
    return said


def fingerprints(inputs: Tensor) -> Tensor:
    """Return (N,) int64, a number for each text (N, L) that depends on its words alone, not on padding; never 0, which stands for no text.

    Two different texts have the same number with a probability of about 2 ** -63.
    """
    rows = [hashlib.blake2b(row[row != 0].numpy().tobytes(), digest_size=8).digest() for row in inputs.contiguous().unbind()]
    return torch.tensor([int.from_bytes(row, "little", signed=True) or 1 for row in rows], dtype=torch.int64)
