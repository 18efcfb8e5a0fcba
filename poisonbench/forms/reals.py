"""Rows of a table of numbers.

Shape letters: N rows, D columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.form import Form, Piece

TABLES = frozenset({"reals"})  # for READS of plugins that need tables
NUMBERS = frozenset({"pixels", "reals", "numbers"})  # for READS of plugins that calculate with the values


@dataclass(frozen=True, kw_only=True)
class Reals(Form):
    """Rows of a table, (N, D) float32; changes are measured in the units of the columns, by "linf" or "l2".

    Args:
        names: one per column.
    """

    NAME: ClassVar[str] = "reals"
    KEYED: ClassVar[bool] = True
    names: tuple[str, ...]

    @classmethod
    def numbered(cls, columns: int) -> Reals:
        """Return the form of a table whose columns have no names: x0, x1, ..."""
        return cls(names=tuple(f"x{place}" for place in range(columns)))

    def fault(self, values: Tensor) -> str | None:
        """Refuse anything but (N, D) float32, and values that are not finite."""
        if values.dtype != torch.float32 or values.ndim != 2:
            return f"inputs are {values.dtype} of shape {tuple(values.shape)}; give float32 features (N, D)"
        if values.shape[1] != len(self.names):
            return f"rows have {values.shape[1]} columns, but {len(self.names)} columns have names; give one name per column"
        return super().fault(values)

    def text(self, value: Tensor) -> str:
        """Return every column's name and number."""
        return ", ".join(f"{name}={number:.6g}" for name, number in zip(self.names, value.tolist(), strict=True))

    def pieces(self, value: Tensor, before: Tensor | None) -> tuple[Piece, ...]:
        """Return one piece for each column, and two for a column that changed."""
        old = value if before is None else before
        return tuple(piece for one in zip(self.names, old.tolist(), value.tolist(), strict=True) for piece in _compared(*one))


def _compared(name: str, old: float, new: float) -> tuple[Piece, ...]:
    if old == new:
        return (Piece(f"{name}={new:.6g}"),)
    return (Piece(f"{name}={old:.6g}", "removed"), Piece(f"{name}={new:.6g}", "added"))
