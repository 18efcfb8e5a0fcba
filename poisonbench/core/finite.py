"""Checks for values that have to be finite. Among NaN scores the largest is class 0, so NaN scores must never become an answer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from poisonbench.core.errors import Diverged


def finite(values: Tensor, where: str) -> Tensor:
    """Return the values; integers are always finite.

    Args:
        values: of any shape and type.
        where: what they are, for the error.

    Raises:
        Diverged: infinite values or NaN; says how many, and the position of the first.
    """
    wrong = ~values.isfinite()
    if wrong.any():
        raise Diverged(f"{where}: {int(wrong.sum())} of {values.numel()} values are not finite, the first at {wrong.nonzero()[0].tolist()}")
    return values


def finite_state(state: Mapping[str, Tensor], where: str) -> None:
    """Check every tensor of a model's state.

    Args:
        state: tensors by name.
        where: whose state, for the error.

    Raises:
        Diverged: the first tensor with a value that is not finite.
    """
    for name, values in state.items():
        finite(values, f"{where}, tensor {name}")
