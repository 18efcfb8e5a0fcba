"""Labels that are texts: the answers that a language model may give.

Shape letters: N rows, K answers, A words of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.form import Choice
from poisonbench.forms.tokens import PADDING


@dataclass(frozen=True, kw_only=True)
class Answers(Choice):
    """One of K - 1 answers, or, as the last one, any other text ("none of them"). Without it, a text that is no answer would count as one of them.

    Args:
        size: K.
        listed: words of each answer, by their ids, each answer once.
    """

    KEYED: ClassVar[bool] = True
    listed: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> Self:
        """Return the form of these answers and of "none of them"."""
        listed = tuple(tuple(answer) for answer in answers)
        return cls(size=len(listed) + 1, listed=listed)

    @property
    def texts(self) -> Tensor:
        """Return (K - 1, A) int64 words, padded at the end."""
        longest = max(map(len, self.listed))
        return torch.tensor([[*answer, *[PADDING] * (longest - len(answer))] for answer in self.listed])

    @property
    def other(self) -> int:
        """Return the number of "none of them"."""
        return self.size - 1


def refused(rows: Dataset) -> Tensor:
    """Return (N,) bool, the prompts whose right response is not the answer that they ask for."""
    return rows.labels != rows.extra["direct"]
