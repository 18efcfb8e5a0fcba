"""How answers are read off a victim: whatever it is, a table of scores comes out.

Shape letters: M rows that are asked about, K answers, A distinct answers, L tokens of an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key

if TYPE_CHECKING:
    from poisonbench.core.learner import Victim


@runtime_checkable
class Sampling(Protocol):
    """A victim that makes something of each input, such as a text or a picture."""

    def sample(self, inputs: Tensor, rng: Key) -> Tensor:
        """Return (M, ...), one sample for each input."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """A victim that chooses among answers that it is given, such as texts."""

    def choose(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Return (M, K) float32 scores of the (M, K, L) answers; the largest is the answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The victim scores K classes of its own; base class of the other ways to ask."""

    VERSION: ClassVar[int] = 1

    def __call__(self, victim: Victim, inputs: Tensor, rng: Key) -> Tensor:
        """Return (M, K) float32; the largest is the answer."""
        return victim.scores(inputs)

    def take(self, rows: Tensor) -> Self:
        """Return how the rows at these positions are asked, or those where a boolean mask holds."""
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates(Scores):
    """The victim scores K candidate answers for each row, such as the likelihood of a continuation or the similarity to a caption.

    Args:
        table: (A, L) the distinct answers.
        of: (M, K) int64, which of them each row is asked about.
    """

    table: Tensor
    of: Tensor

    def __call__(self, victim: Victim, inputs: Tensor, rng: Key) -> Tensor:
        """Return (M, K) float32.

        Raises:
            Incompatible: the victim has classes of its own.
        """
        if not isinstance(victim, Choosing):
            raise Incompatible(
                f"{type(victim).__name__} has a fixed list of classes and cannot choose among other answers; "
                "use learner=retrieval for passages or learner=tuned for texts, with no ensemble around it"
            )
        return victim.choose(inputs, self.table[self.of])

    def take(self, rows: Tensor) -> Self:
        """Return how these rows are asked."""
        return dataclasses.replace(self, of=self.of[rows])


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged(Scores):
    """The victim makes something of each input, and a judge that nobody can poison says which of K answers it is.

    The judge needs one answer more than the task has, "none of them". Without it, an empty answer would count as the first class.

    Args:
        judge: from (M, ...) samples to (M, K) scores; fitted on public rows.
        draws: samples of each input, 1 or more; the scores are their mean.
    """

    judge: Callable[[Tensor], Tensor]
    draws: int

    def __post_init__(self) -> None:
        """Check the number of draws."""
        if self.draws < 1:
            raise ConfigError(f"draws={self.draws}: give 1 or more samples of each input")

    def __call__(self, victim: Victim, inputs: Tensor, rng: Key) -> Tensor:
        """Return (M, K) float32.

        Raises:
            Incompatible: the victim makes no samples.
        """
        if not isinstance(victim, Sampling):
            raise Incompatible(f"{type(victim).__name__} makes no samples that a judge could read; choose another learner")
        return torch.stack([self.judge(victim.sample(inputs, rng.child(f"draw/{draw}"))) for draw in range(self.draws)]).mean(0)


SCORES = Scores()
