"""The form of a column: which values fit, how far a row moved, and how a person sees a value. Each form is one file in `poisonbench/forms/`.

Shape letters: N rows, D columns of a table, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from poisonbench.core.duplicates import marks
from poisonbench.core.rng import Key

Norm: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (N,) float64 sizes of the changes from the first to the second rows
Role: TypeAlias = Literal["seen", "said", "sealed"]


class Piece(NamedTuple):
    """A part of a value as a person reads it, and whether a change added or removed it."""

    text: str
    change: Literal["kept", "added", "removed"] = "kept"


class Twins(NamedTuple):
    """Which rows copy an earlier one: `twin` (N,) int64, its position, -1 for none; `likeness` (N,) float32, 1 for an equal row, 0 for no copy."""

    twin: Tensor
    likeness: Tensor


def equal_rows(values: Tensor) -> Twins:
    """Return for each row of (N, ...) values the first row that is equal to it."""
    first: dict[bytes, int] = {}
    twin = torch.tensor([first.setdefault(mark, place) for place, mark in enumerate(marks(values))], dtype=torch.int64)
    copies = twin < torch.arange(len(twin))
    return Twins(twin=twin.where(copies, -1), likeness=copies.float())


def linf(one: Tensor, other: Tensor) -> Tensor:
    """Return (N,) float64, the largest change of a value of each row."""
    return _moved(one, other).abs().amax(1)


def l2(one: Tensor, other: Tensor) -> Tensor:
    """Return (N,) float64, the Euclidean length of each row's change."""
    return _moved(one, other).square().sum(1).sqrt()


def _moved(one: Tensor, other: Tensor) -> Tensor:
    return (one.to(torch.float64) - other.to(torch.float64)).flatten(1)


@dataclass(frozen=True, kw_only=True)
class Form:
    """Numbers of which nothing else is known; base class of all forms."""

    VERSION: ClassVar[int] = 1
    NAME: ClassVar[str] = "numbers"  # what the class attribute READS of a plugin names
    KEYED: ClassVar[bool] = False  # part of a data set's digest; pixels and plain numbers are not, so digests from before forms stay valid
    NORMS: ClassVar[Mapping[str, Norm]] = MappingProxyType({"linf": linf, "l2": l2})

    def __deepcopy__(self, memo: object) -> Self:
        """Return the form itself: it is a value, and a network that is copied keeps it."""
        return self

    def fault(self, values: Tensor) -> str | None:
        """Return why (N, ...) values do not fit, as the rest of a sentence; None if they do."""
        if values.is_floating_point() and not (finite := values.isfinite()).all():
            row = int((~finite.reshape(len(values), -1).all(1)).nonzero()[0])
            return f"row {row} holds a value that is not finite; remove or correct it"
        return None

    def ready(self, inputs: Tensor) -> Tensor:
        """Return (B, ...) inputs as networks take them."""
        return inputs.float()

    def table(self, inputs: Tensor) -> Tensor:
        """Return (N, D) float32 for learners that read tables; sparse (COO) if most values are 0."""
        return inputs.float().flatten(1)

    def mixed(self, inputs: Tensor, others: Tensor, weight: float, rng: Key) -> Tensor:
        """Return (B, ...) inputs, each mixed with one of the others.

        Args:
            inputs: (B, ...) rows.
            others: (B, ...) rows.
            weight: of both, in (0, 1], where values can be weighed.
            rng: for forms that mix at random.
        """
        return (weight * inputs + weight * others).to(inputs.dtype)

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """Return (N, ...), all that a row holds: the inputs, (N, ...) as the first part, and those further parts that can be joined to them."""
        return parts[0]

    def twins(self, values: Tensor, rng: Key) -> Twins:
        """Return which of (N, ...) rows copy an earlier row: for numbers, those that are equal to one.

        Args:
            values: (N, ...).
            rng: for forms that learn from random pairs how far different rows are apart.
        """
        return equal_rows(values)

    def text(self, value: Tensor) -> str:
        """Return one value as a text on one line."""
        return " ".join(f"{number:g}" for number in value.flatten().tolist())

    def pieces(self, value: Tensor, before: Tensor | None) -> tuple[Piece, ...]:
        """Return a value in pieces, with those that a change from `before` added or removed; None for no comparison."""
        now = Piece(self.text(value), "kept" if before is None or torch.equal(before, value) else "added")
        return (now,) if now.change == "kept" or before is None else (Piece(self.text(before), "removed"), now)

    def picture(self, value: Tensor) -> Tensor | None:
        """Return a value as (C, H, W) uint8, or None if it is not a picture."""
        return None


@dataclass(frozen=True, kw_only=True)
class Choice(Form):
    """One of several answers, as (N,) int64.

    Args:
        size: number of answers, K.
    """

    NAME: ClassVar[str] = "choice"
    NORMS: ClassVar[Mapping[str, Norm]] = MappingProxyType({})
    size: int

    def fault(self, values: Tensor) -> str | None:
        """Refuse values that are not whole numbers from 0 to K - 1."""
        if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
            return f"labels are {values.dtype} of shape {tuple(values.shape)}; give integers, one per row"
        if (wrong := (values < 0) | (values >= self.size)).any():
            row = int(wrong.nonzero()[0])
            return f"label {int(values[row])} in row {row} is out of range; {self.size} classes allow 0 to {self.size - 1}"
        return None


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column is.

    Args:
        form: of its values.
        role: "seen", what the model reads: the threat's norm measures its changes. "said", what the model is to say, such as a label or a
            caption: it may change only if the threat allows new labels. "sealed", such as an owner or a signed hash: it never changes.
    """

    VERSION: ClassVar[int] = 1
    form: Form
    role: Role


IDENTITY = Column(form=Form(), role="sealed")
