"""Pictures of one concept with captions of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.generators.goals import OfConcept, concept_rows
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class DirtyLabel(OfConcept):
    """Give pictures of the anchor captions of the concept.

    Source: the baseline of Shan et al., "Nightshade", IEEE S&P 2024, section 4: a person who looks at a pair sees at once that it is wrong. The captions
    are those of training rows of the concept, drawn at random.

    Args:
        concept: number of the attacked class.
        anchor: number of the class that the model shall draw instead.
    """

    VERSION: ClassVar[int] = 1

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with pictures of the anchor under captions of the concept."""

        def relabelled(rows: Dataset, rng: Key) -> Dataset:
            among = concept_rows(known, self.concept, "concept")
            draws = torch.rand(len(rows), generator=rng.child("captions").torch())
            captions = known.rows.inputs[among[(draws * len(among)).long()]]
            return rows.edit(torch.arange(len(rows)), inputs=captions, labels=torch.full((len(rows),), self.concept))

        return self.planted(known, rng, relabelled, source=self.anchor, shown=self.concept)
