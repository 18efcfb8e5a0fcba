"""Combine contributions a few thousand parameters at a time, so that the work stays in the processor's cache.

Shape letters: R contributions, P parameters, m values kept of each parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

COLUMNS = 4000  # not a power of two: such rows share a few cache sets, which made a sort three times slower


def columnwise(rows_RP: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """Return (P,) float64: the results of `combine` on (R, up to COLUMNS) float64 blocks, joined.

    All blocks use the same buffer, so `combine` must not keep a reference to its block.
    """
    buffer = torch.empty(len(rows_RP) * COLUMNS, dtype=torch.float64, device=rows_RP.device)
    return torch.cat([combine(buffer[: block.numel()].view(block.shape).copy_(block)) for block in rows_RP.split(COLUMNS, 1)])


def middle(rows_RP: Tensor, drop: int) -> Tensor:
    """Return (m, P), the values of each parameter in ascending order, without the `drop` smallest and the `drop` largest.

    Needs rows without NaN, of a type that numpy has. numpy sorts 50 x 200,000 in 28 ms, torch in 350, on one core.
    """
    rows = rows_RP.numpy(force=True)
    kept = np.empty((len(rows) - 2 * drop, rows.shape[1]), rows.dtype)
    for start in range(0, rows.shape[1], COLUMNS):
        block = slice(start, start + COLUMNS)
        kept[:, block] = np.sort(rows[:, block], axis=0)[drop : len(rows) - drop]
    return torch.from_numpy(kept).to(rows_RP.device)
