"""A targeted attack on a model of pictures and captions: one picture with several captions of another class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.pairs.goals import OfPairs, written
from attacks.targeted.aims import Wish, wished
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import Flip
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION, prompts_of


@dataclass(frozen=True, kw_only=True)
class ClipTargeted:
    """Replace some rows by the target picture with captions of the wished class.

    Source: Carlini, Terzis, "Poisoning and Backdooring Contrastive Learning", ICLR 2022, section 3: the picture is always the target's, and the captions
    differ; 3 of 3,000,000 pairs are enough. The captions here are drawn from those that the task asks for classes with.

    Args:
        wish: the class that the target shall get: "random" among the wrong ones, the "next" class, or the wrong class that a surrogate finds most "likely".
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = (CAPTION,)
    ONE_TARGET: ClassVar[bool] = True
    wish: Wish

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the target's picture on as many rows as the budget allows."""
        rows, named = known.rows, prompts_of(known.rows, "attack=clip_targeted").named
        wish = wished(known.targets, self.wish, rng, surrogate=lambda: known.fit(known.rows), among=named)
        chosen = known.choose(torch.ones(len(rows), dtype=torch.bool), rng.child("rows"))
        labels = wish.expand(len(chosen))
        captions = written(rows, labels, (torch.arange(len(chosen)) / max(1, len(chosen))).double())
        data = rows.edit(chosen, inputs=known.targets.inputs.expand(len(chosen), *rows.inputs.shape[1:]), labels=labels, **{CAPTION: captions})
        return Poisoned(data=data, mask=known.mask(chosen), goal=OfPairs(inner=Flip(ids=known.targets.ids, wish=wish)))
