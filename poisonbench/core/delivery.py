"""What leaves the attacker's hands and reaches the defender's: rows whose names and order tell nothing.

Shape letters: N' rows after poisoning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.audit import Kinds, changed_rows, kinds
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import UNITS
from poisonbench.core.goals import Goal
from poisonbench.core.rng import Key


@dataclass(frozen=True, eq=False, kw_only=True)
class Delivered:
    """An audited training set as a defender receives it.

    Args:
        data: N' rows.
        kinds: what each of them is; for measuring, and for plugins that declare to need the truth.
        goal: what the attacker wants.
    """

    data: Dataset
    kinds: Kinds
    goal: Goal

    @property
    def mask(self) -> Tensor:
        """(N',) bool, the rows that the attacker changed or put in."""
        return self.kinds.poison | self.kinds.cover

    def changes(self, clean: Dataset) -> dict[str, int]:
        """Return how many rows the attacker put in, relabelled or edited, in the words of certificates.

        A row whose label alone differs is a flip, but beside rows that were put in, where all are in another order, it counts as an edit.
        """
        put_in = self.kinds.injected
        if put_in.any():
            told = {UNITS["insert"]: int(put_in.sum()), UNITS["edit"]: int((self.mask & ~put_in).sum())}
        else:  # in place, so that rows can be compared
            changed = changed_rows(clean, self.data)
            flips = changed & ~changed_rows(clean, self.data.with_columns(self.data.columns | {"labels": clean.labels}))
            told = {UNITS["flip"]: int(flips.sum()), UNITS["edit"]: int((changed & ~flips).sum())}
        return {unit: count for unit, count in told.items() if count}


def delivered(clean: Dataset, poisoned: Poisoned, rng: Key) -> Delivered:
    """Return the rows under names and in an order that tell nothing.

    Edited rows keep the place and the id of the clean row that they were, which says nothing about them. As soon as rows were injected,
    negative ids at the end would name every one of them: then all rows are put into an order drawn from `rng` and numbered anew.

    Args:
        clean: N rows as the task gave them.
        poisoned: audited; injected rows stand behind the clean ones.
        rng: for the order.
    """
    found = kinds(clean, poisoned)
    if not found.injected.any():
        return Delivered(data=poisoned.data, kinds=found, goal=poisoned.goal)
    order = rng.per_row(torch.arange(len(poisoned.data)))[:, 0].argsort(stable=True)
    data = poisoned.data.take(order)
    return Delivered(data=data.with_columns(data.columns | {"ids": torch.arange(len(data))}), kinds=found.take(order), goal=poisoned.goal)
