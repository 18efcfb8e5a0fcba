"""The training set as the defender receives it: ids and order do not reveal which rows are poisoned.

Shape letters: N' rows after poisoning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.audit import Kinds, changed_rows, kinds
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import UNITS
from poisonbench.core.goals import Goal
from poisonbench.core.manifest import Manifest, signed
from poisonbench.core.rng import Key


@dataclass(frozen=True, eq=False, kw_only=True)
class Delivered:
    """An audited training set as a defender receives it.

    Args:
        data: N' rows.
        kinds: the kind of each row; for measuring, and for plugins that declare NEEDS = {"truth"}.
        goal: what the attacker wants.
        clean_ids: (N',) int64, the id that each row had before it was delivered: that of its clean row, negative for injected rows; for
            records of where rows come from, never for a defender.
        given: the signed list that the attacker delivers; None: the publisher signed the rows as they are delivered.
    """

    data: Dataset
    kinds: Kinds
    goal: Goal
    clean_ids: Tensor
    given: Manifest | None = None

    @property
    def mask(self) -> Tensor:
        """(N',) bool, the rows that the attacker changed or added."""
        return self.kinds.poison | self.kinds.cover

    @cached_property
    def manifest(self) -> Manifest:
        """The signed list that comes with the rows."""
        return signed(self.data) if self.given is None else self.given

    def changes(self, clean: Dataset) -> dict[str, int]:
        """Return how many rows the attacker inserted, relabelled or edited, by the units of certificates.

        A row that differs only in its label is a flip. Where rows were inserted, all rows are in a new order, and it counts as an edit.
        """
        inserted = self.kinds.injected
        if inserted.any():
            counts = {UNITS["insert"]: int(inserted.sum()), UNITS["edit"]: int((self.mask & ~inserted).sum())}
        else:  # rows are at their old positions, so they can be compared
            changed = changed_rows(clean, self.data)
            flips = changed & ~changed_rows(clean, self.data.with_columns(self.data.columns | {"labels": clean.labels}))
            counts = {UNITS["flip"]: int(flips.sum()), UNITS["edit"]: int((changed & ~flips).sum())}
        return {unit: count for unit, count in counts.items() if count}


def delivered(clean: Dataset, poisoned: Poisoned, rng: Key) -> Delivered:
    """Return the rows with ids and an order that do not reveal which are poisoned.

    Edited rows keep the position and the id of their clean row. Injected rows have negative ids at the end, which would reveal them:
    where there are any, all rows are put into a random order and numbered again.

    Args:
        clean: N rows as the task gave them.
        poisoned: audited; injected rows come after the clean ones.
        rng: draws the order.
    """
    found = kinds(clean, poisoned)
    if not found.injected.any():
        return Delivered(data=poisoned.data, kinds=found, goal=poisoned.goal, clean_ids=poisoned.data.ids, given=poisoned.manifest)
    order = rng.per_row(torch.arange(len(poisoned.data)))[:, 0].argsort(stable=True)
    data = poisoned.data.take(order)
    numbered = data.with_columns(data.columns | {"ids": torch.arange(len(data))})
    return Delivered(data=numbered, kinds=found.take(order), goal=poisoned.goal, clean_ids=data.ids, given=poisoned.manifest)
