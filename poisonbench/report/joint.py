"""One ranking from several filters: each suspicion becomes a strength, each strength the share of clean rows that reach it, and the shares are joined.

Shape letters: N rows, F filters, C clean rows of all tasks that a table was measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Scale: TypeAlias = Literal["given", "data", "class"]
LOW, LOWEST = 0.4, 0.1  # quantiles; only less suspicious rows set the scale, so poison in up to half of a class does not widen it


def strengths(suspicion_N: Tensor, labels_N: Tensor, scale: Scale) -> Tensor:
    """Return (N,) float64 suspicions on a scale that is comparable between data sets.

    The scale is the distance between the quantiles LOW and LOWEST, of the data set or of the row's class.
    """
    values = suspicion_N.double()
    if scale == "given":
        return values
    if scale == "data":
        return _relative(values)
    found = torch.zeros_like(values)
    for label in labels_N.unique().tolist():
        rows = labels_N == label
        found[rows] = _relative(values[rows])
    return found


def _relative(values_R: Tensor) -> Tensor:
    low, lowest = values_R.quantile(LOW), values_R.quantile(LOWEST)
    width = low - lowest
    return (values_R - low) / width if width > 0 else torch.zeros_like(values_R)


def tails(strength_N: Tensor, clean: Mapping[str, Tensor]) -> Tensor:
    """Return (N,) float64, the share of clean rows with at least this strength, each task with the same weight.

    A strength beyond all C clean rows has the share 1 / (C + 1), so no row has 0.

    Args:
        strength_N: of the rows.
        clean: ascending strengths of the rows of each clean task, by its name.
    """
    shares = [(len(values) - torch.searchsorted(values, strength_N)) / len(values) for values in clean.values()]
    rows = sum(map(len, clean.values()))
    return torch.stack([share.double() for share in shares]).mean(0).clamp_min(1 / (rows + 1))


def joined(tails_FN: Tensor) -> Tensor:
    """Return (N,) float64: the smallest of the F shares times F, at most 1 (Bonferroni)."""
    return (tails_FN.min(0).values * len(tails_FN)).clamp_max(1.0)


def ranked(tails_FN: Tensor) -> Tensor:
    """Return (N,) int64 positions, strongest evidence first: by the product of the two smallest shares, ties by the smallest, then by position.

    Measured with tables of other tasks (seeds 100 and 101, AUROC of the poisoned rows; the smallest share alone / two / the product of all): blended on
    digits 0.970 / 0.995 / 0.997, badnets on mnist 0.988 / 0.995 / 0.996, random flips on digits 1.000 / 0.9995 / 0.998 and on breast_cancer
    0.949 / 0.958 / 0.937.
    """
    smallest = tails_FN.sort(0).values[:2]
    order = smallest[0].argsort(stable=True)
    return order[smallest.prod(0)[order].argsort(stable=True)]
