"""Shared code of filters of passages: the features that a retriever compares, and the past questions of the trusted rows.

Shape letters: T trusted rows, Q past questions, L tokens, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Victim
from poisonbench.core.retrieve import Retrieving
from poisonbench.forms.tokens import PADDING

NEVER = -1  # the place of a question that there is not
FOLDS = 10  # of the trusted rows


def folds(count: int) -> Tensor:
    """Return (T,) int64, the fold of each trusted row. Neighbouring rows are about the same thing, so a fold has rows that follow each other."""
    return torch.arange(count) * FOLDS // max(1, count)


@dataclass(frozen=True, eq=False, kw_only=True)
class Past:
    """Questions that were asked before.

    Args:
        questions: (Q, L) different questions.
        own: (T,) int64, which of them each trusted row answers; -1 for none.
    """

    questions: Tensor
    own: Tensor

    def near(self) -> Tensor:
        """Return (T, Q) bool, the questions that a row of the same fold or of a neighbouring one answers: what rows are about may cross a border."""
        fold, answers = folds(len(self.own)), self.own != NEVER
        asked = torch.zeros(FOLDS + 2, len(self.questions), dtype=torch.bool)
        asked[fold[answers] + 1, self.own[answers]] = True
        return (asked[:-2] | asked[1:-1] | asked[2:])[fold]

    def asked_about(self, values_Q: Tensor) -> Tensor:
        """Return (T, ...) values of the question that each trusted row answers, 0 where there is none."""
        found = values_Q[self.own.clamp_min(0)]
        return found.masked_fill((self.own == NEVER).view(-1, *[1] * (found.ndim - 1)), 0)


def searched(data: Dataset, means: Means, plugin: object) -> Victim:
    """Return the undefended victim, whose features are those of its retriever.

    Raises:
        Incompatible: it searches no passages; names the plugin that needs them.
    """
    victim = means.fit(data)
    if not isinstance(victim, Retrieving):
        raise Incompatible(f"{type(plugin).__name__} compares passages as a retriever does, and {type(victim).__name__} searches none; use learner=retrieval")
    return victim


def past(trusted: Dataset, window: int | None = None) -> Past:
    """Return the different questions among the last `window` that trusted rows answer; among all without a window.

    Raises:
        Incompatible: the trusted rows have no column `question`.
        ConfigError: there are fewer than two questions; what to change.
    """
    if "question" not in trusted.extra:
        raise Incompatible("defense.sanitize compares passages with past questions, and the trusted rows of this task have none; use task=facts")
    texts = trusted.extra["question"]
    asked = (texts != PADDING).any(1).nonzero()[:, 0]
    if not len(asked):
        raise Incompatible("defense.sanitize compares passages with past questions, and the passages of this task have none at any share; use task=facts")
    asked = asked if window is None else asked[-window:]
    questions, place = texts[asked].unique(dim=0, return_inverse=True)
    if len(questions) < 2:
        fault = f"defense.sanitize compares passages with past questions, and the trusted rows answer {len(questions)} instead of 2 or more"
        raise ConfigError(f"{fault}; set task.trusted to a larger share")
    return Past(questions=questions, own=torch.full((len(trusted),), NEVER).index_put((asked,), place))
