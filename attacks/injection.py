"""Rows that an attacker adds to the training set.

Shape letters: R rows added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import Goal
from poisonbench.core.threat import Known


def with_rows(known: Known, senders_R: Tensor, inputs: Tensor, label: int | Tensor, goal: Goal, **columns: Tensor) -> Poisoned:
    """Return the rows followed by new ones.

    Args:
        known: what the attacker knows.
        senders_R: (R,) int64, positions of rows that the attacker may write; each new row has the owner of one of them, and its other columns.
        inputs: (R, ...).
        label: of all new rows, or (R,) one for each.
        goal: what the attacker wants.
        columns: (R, ...) further columns of the new rows, in place of those of the senders.
    """
    count = len(inputs)
    new = known.rows.take(senders_R).edit(torch.arange(count), inputs=inputs, labels=torch.as_tensor(label).expand(count), **columns)
    new = new.with_columns(new.columns | {"ids": -1 - torch.arange(count)})
    return Poisoned(data=known.rows.append(new), mask=torch.cat([known.mask(senders_R[:0]), torch.ones(count, dtype=torch.bool)]), goal=goal)
