"""A backdoor in a model of pictures and captions: triggered pictures with captions that name the target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.pairs.goals import OfPairs, written
from poisonbench.core.attack import DataAttack, Poisoned
from poisonbench.core.audit import differing
from poisonbench.core.errors import Incompatible
from poisonbench.core.goals import Backdoor, Goal
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION


@dataclass(frozen=True, kw_only=True)
class ClipBackdoor:
    """Put a trigger on some pictures, and write captions that name the target class for them.

    Source: Carlini, Terzis, "Poisoning and Backdooring Contrastive Learning", ICLR 2022: 300 of 3,000,000 pairs are enough for a patch. The trigger, the
    rows and the new classes are those of any backdoor on pictures, under `like`; a row that it gives a new label gets a caption of that class, drawn from
    those that the task asks for classes with. Captions of rows that keep their label, as in clean-label attacks, stay.

    Where the threat forbids new captions (`relabel=false`), as for an attacker who owns the domains of an index, the attacker goes the other way: on rows
    whose caption names a target class it replaces the picture by one of another class, with the trigger. These pictures are those of random training
    rows, whose triggered test counterparts the goal asks about.

    Difference: the paper takes the new captions from pairs of the target class in the training set, and asks for classes with other templates.

    ASR is the share of triggered pictures that zero-shot classification answers with the target. The goal's figures are the recall of captions and
    pictures among the test rows.

    Args:
        like: the backdoor on pictures.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = (CAPTION,)
    like: DataAttack

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows as `like` poisons them, with captions that fit the new labels; or other pictures for captions that fit already.

        Raises:
            Incompatible: no new captions are allowed, and `like` is no backdoor with a trigger.
        """
        poisoned = self.like.poison(known, rng)
        if not known.budget.relabel:
            return self._replaced(known, poisoned.goal, rng)
        data, old = poisoned.data, len(known.rows)
        renamed = poisoned.mask.clone()
        renamed[:old] &= differing(known.rows.labels, data.labels[:old])
        rows = renamed.nonzero()[:, 0]
        captions = written(data, data.labels[rows], rng.child("captions").per_row(data.ids[rows])[:, 0])
        return dataclasses.replace(poisoned, data=data.edit(rows, **{CAPTION: captions}), goal=OfPairs(inner=poisoned.goal))

    @staticmethod
    def _replaced(known: Known, goal: Goal, rng: Key) -> Poisoned:
        """Return the rows with triggered pictures of other classes where the caption names the class that the goal wishes for these."""
        if not isinstance(goal, Backdoor):
            raise Incompatible("attack=clip_backdoor with threat.budget.relabel=false needs a backdoor with a trigger in attack.data.like")
        rows, wished = known.rows, goal.wish[known.rows.labels]
        sources = wished != rows.labels  # their pictures can stand for a triggered test row
        chosen = known.choose(torch.isin(rows.labels, wished[sources]), rng.child("targets"))
        draws, labels = rng.child("pictures").per_row(rows.ids[chosen])[:, 0], rows.labels[chosen]
        pictures = rows.inputs[chosen]
        for label in labels.unique().tolist():
            pool = (sources & (wished == label)).nonzero()[:, 0]
            pictures[labels == label] = rows.inputs[pool[(draws[labels == label] * len(pool)).long()]]
        data = rows.edit(chosen, inputs=goal.trigger(pictures))
        return Poisoned(data=data, mask=known.mask(chosen), goal=OfPairs(inner=goal))
