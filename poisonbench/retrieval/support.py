"""A reader that counts passages; it is no language model.

Shape letters: M questions, L places of a text, R groups of P passages, K candidate answers, A places of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.form import Form
from poisonbench.core.learner import Fitted
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import NONE_OF_THEM, SILENCE
from poisonbench.forms.tokens import begins


@dataclass(frozen=True, kw_only=True)
class Support:
    """Answer with the candidate that most passages support. This is no language model: it reads no question and weighs no argument.

    A passage supports a candidate if the words of the candidate stand in it, next to each other and in order. The score of a candidate is the
    number of passages of the group that support it; "none of them" wins only if no passage supports any. Of equal scores the candidate at the smaller
    place wins.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this reader: it learns nothing."""
        return self

    def check(self, passages: Dataset) -> None:
        """Refuse nothing."""

    def read(self, questions: Tensor, passages: Tensor, answers: Tensor, form: Form) -> Tensor:
        """Return (M, R, K) float32, how many passages of each group support each candidate."""
        rows = [contained(group.flatten(0, 1), each).view(*group.shape[:2], -1).sum(1) for group, each in zip(passages, answers, strict=True)]
        support = torch.stack(rows).float()
        support[..., NONE_OF_THEM] = SILENCE
        return support


def contained(texts_TL: Tensor, answers_KA: Tensor) -> Tensor:
    """Return (T, K) bool, whether the words of each answer stand in each text, next to each other and in order; an answer without words in none."""
    return begins(texts_TL[:, None], answers_KA[None]).any(2)
