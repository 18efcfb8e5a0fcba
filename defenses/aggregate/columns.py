"""Combining contributions a few thousand parameters at a time, so that the work stays in the processor's cache.

Shape letters: R contributions, P parameters, m values kept of each parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

COLUMNS = 4000  # no power of two: rows of such a length fall into the same few cache sets, which made a sort three times slower


def columnwise(rows_RP: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """Return (P,) float64: what `combine` makes of (R, up to COLUMNS) float64 blocks.

    All blocks lie in one buffer, one after the other, so `combine` keeps none of them.
    """
    buffer = torch.empty(len(rows_RP) * COLUMNS, dtype=torch.float64, device=rows_RP.device)
    return torch.cat([combine(buffer[: block.numel()].view(block.shape).copy_(block)) for block in rows_RP.split(COLUMNS, 1)])


def middle(rows_RP: Tensor, drop: int) -> Tensor:
    """Return (m, P), the values of each parameter in ascending order, less the `drop` smallest and the `drop` largest.

    Sorted by numpy, 28 ms for 50 x 200,000 where torch takes 350 on one core; rows of a type that numpy knows, without NaN.
    """
    rows = rows_RP.numpy(force=True)
    kept = np.empty((len(rows) - 2 * drop, rows.shape[1]), rows.dtype)
    for start in range(0, rows.shape[1], COLUMNS):
        block = slice(start, start + COLUMNS)
        kept[:, block] = np.sort(rows[:, block], axis=0)[drop : len(rows) - drop]
    return torch.from_numpy(kept).to(rows_RP.device)
