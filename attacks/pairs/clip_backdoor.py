"""A backdoor in a model of pictures and captions: triggered pictures with captions that name the target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from attacks.pairs.goals import OfPairs, written
from poisonbench.core.attack import DataAttack, Poisoned
from poisonbench.core.audit import differing
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
        """Return the rows as `like` poisons them, with captions that fit the new labels."""
        poisoned = self.like.poison(known, rng)
        data, old = poisoned.data, len(known.rows)
        renamed = poisoned.mask.clone()
        renamed[:old] &= differing(known.rows.labels, data.labels[:old])
        rows = renamed.nonzero()[:, 0]
        captions = written(data, data.labels[rows], rng.child("captions").per_row(data.ids[rows])[:, 0])
        return dataclasses.replace(poisoned, data=data.edit(rows, **{CAPTION: captions}), goal=OfPairs(inner=poisoned.goal))
