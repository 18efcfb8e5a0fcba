"""Learners whose scores are linear in the labels of their rows, as certificates use them.

Shape letters: N rows, M test rows, K classes, D features.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


class Influence(Protocol):
    """How the labels of given rows act on the score of any input. Everything is computed in float64.

    The score of a class is the sum of a test row's influences over the training rows with that label, less the mean over all classes.
    """

    def of(self, asked_MD: Tensor) -> Tensor:
        """Return (M, N) influences on test rows with these features; no label has a part in them."""
        ...

    def solution(self, targets_NK: Tensor) -> Tensor:
        """Return what scores are computed from, for given targets of the rows."""
        ...

    def scores(self, asked_MD: Tensor, solution: Tensor) -> Tensor:
        """Return (M, K) scores."""
        ...


@runtime_checkable
class LinearInLabels(Protocol):
    """A learner whose scores are linear in the one-hot labels of its rows: the rows alone decide the factors."""

    def featured(self, inputs: Tensor) -> Tensor:
        """Return (M, D) features; they depend on no label and on no other row."""
        ...

    def influence(self, inputs: Tensor) -> Influence:
        """Return the influence of rows with these inputs; computed when it is first used."""
        ...

    def check_influence(self, rows: int) -> None:
        """Refuse more rows than the influence can be computed for.

        Raises:
            ConfigError: what to change.
        """
        ...
