"""Random labels: the memorisation experiment, used as an attack."""

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
    """Give as many training rows as the budget allows a random label, drawn uniformly from all classes.

    Source: Zhang, Bengio, Hardt, Recht, Vinyals, "Understanding Deep Learning Requires Rethinking Generalization", ICLR 2017, "partially corrupted
    labels".

    The draw includes the true label, so about 1 / K of the chosen rows keep their label. The mask and the budget count these rows as well.
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with random labels on as many of them as the budget allows."""
        rows = known.rows
        chosen = known.choose(torch.ones(len(rows), dtype=torch.bool), rng.child("rows"))
        labels = (rng.child("labels").per_row(rows.ids[chosen])[:, 0] * rows.num_classes).long()
        return Poisoned(data=rows.edit(chosen, labels=labels), mask=known.mask(chosen), goal=Degrade())
