"""Random labels: the memorisation test as an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class RandomLabel:
    """Give as many rows as the budget allows a label drawn from all classes alike, their own among them.

    Source: Zhang, Bengio, Hardt, Recht, Vinyals, "Understanding Deep Learning Requires Rethinking Generalization",
    ICLR 2017, "partially corrupted labels". A share of 1 / K of the chosen rows keeps its label; the mask and the
    budget count them all the same.
    """

    VERSION: ClassVar[int] = 1

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with random labels on as many of them as the budget allows."""
        rows = known.rows
        chosen = known.choose(torch.ones(len(rows), dtype=torch.bool), rng.child("rows"))
        labels = (rng.child("labels").per_row(rows.ids[chosen])[:, 0] * rows.num_classes).long()
        return Poisoned(data=rows.edit(chosen, labels=labels), mask=known.mask(chosen), goal=Degrade())
