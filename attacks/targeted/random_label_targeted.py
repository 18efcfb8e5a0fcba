"""The control of targeted attacks: the wished label on random rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.targeted.aims import Wish, wished
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import Flip
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class RandomLabelTargeted:
    """Give the wished label to random training rows of other classes.

    Source: none; a control. It has the budget, the targets and the wished labels of a targeted attack, and does not look at the target. An attack that is
    no better than it owes its success to the wrong labels alone. `label_flip_targeted` is the same with the rows nearest to the target.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels, or the "next" class; there is no surrogate
            for "likely".
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    SEVERAL_CLASSES: ClassVar[bool] = True
    wish: Wish

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the wished label on as many random rows as the budget allows.

        Raises:
            ConfigError: fewer rows of other labels than the budget.
        """
        rows, wish = known.rows, wished(known.targets, self.wish, rng)
        chosen = known.choose(rows.labels != wish[0], rng.child("rows"))
        data = rows.edit(chosen, labels=wish.expand(len(chosen)))
        return Poisoned(data=data, mask=known.mask(chosen), goal=Flip(ids=known.targets.ids, wish=wish))
