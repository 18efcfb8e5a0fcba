"""Pictures of a concept with noise of the size that the threat allows, without a direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.availability.noise import limit_of, perturbed
from attacks.generators.goals import OfConcept
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.shapes import PICTURE


@dataclass(frozen=True, kw_only=True)
class RandomNoise(OfConcept):
    """Add or subtract the limit at each pixel, by a coin: the control of `nightshade`, with changes of the same size and no direction.

    Source: none; a control of this suite.

    Args:
        concept: number of the attacked class.
        anchor: number of the class whose share among the answers is measured, as for `nightshade`.
    """

    VERSION: ClassVar[int] = 1

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noisy pictures.

        Raises:
            ConfigError: the budget has no limit of each pixel.
        """
        limit = float(int(limit_of(known, "linf", "cloaked")))

        def noisy(rows: Dataset, rng: Key) -> Dataset:
            pictures = rows.extra[PICTURE]
            coins = torch.rand(pictures.shape, generator=rng.child("coins").torch()) < 0.5
            return rows.edit(torch.arange(len(rows)), **{PICTURE: perturbed(pictures, torch.where(coins, limit, -limit))})

        return self.planted(known, rng, noisy, source=self.concept, shown=self.concept)
