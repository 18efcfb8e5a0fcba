"""The dirty-label baseline of targeted attacks: new labels for the rows around the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.targeted.aims import Wish, distances, wished
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import Flip
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class LabelFlipTargeted:
    """Give the wished label to the training rows nearest to the target.

    Source: the k-nearest label-flip baseline that clean-label attacks are compared with. See Schwarzschild, Goldblum, Gupta, Dickerson, Goldstein,
    "Just How Toxic Is Data Poisoning?", ICML 2021, for why such baselines are needed.

    The distance is Euclidean in the features of a surrogate trained on the clean rows. Rows that already have the wished label are not used.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels, the "next" class, or the wrong label that the surrogate finds most
            "likely".
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    SEVERAL_CLASSES: ClassVar[bool] = True
    wish: Wish

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the wished label on as many rows around the target as the budget allows."""
        rows, wish = known.rows, wished(known.targets, self.wish, rng, surrogate=lambda: known.fit(known.rows))
        count = known.budget.rows(len(rows))
        pool = known.pool(rows.labels != wish[0], count)
        near = distances(known.fit(rows), rows.inputs[pool], known.targets.inputs) if count else torch.zeros(len(pool))
        chosen = pool[near.argsort(stable=True)[:count]]
        data = rows.edit(chosen, labels=wish.expand(len(chosen)))
        return Poisoned(data=data, mask=known.mask(chosen), goal=Flip(ids=known.targets.ids, wish=wish))
