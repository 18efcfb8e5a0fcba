"""Adversarial poisons (TAP): pictures that a clean model takes for another class, with their true labels.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.availability.noise import CHUNK, changed, limit_of, normal, perturbed, pixel_gradient
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class AdversarialPoison:
    """Move training images towards another class in the eyes of a clean surrogate; labels stay.

    Source: Fowl, Goldblum, Chiang, Geiping, Czaja, Goldstein, "Adversarial Examples Make Strong Poisons", NeurIPS 2021.

    One surrogate is trained on the clean rows and then stays fixed. Signed gradient steps on the noise, within the Linf limit of the budget, lower its
    cross-entropy with the label y + 1 mod K ("next"), or raise the one with the true label ("away", the untargeted variant of the paper). A victim
    that is trained on these rows learns features of class y + 1 under the label y.

    Differences: the authors' code keeps the best of 8 random starts, augments the pictures in each step, and makes the steps smaller during the
    search. Here there is one start, no augmentation, and the step size is constant.

    Args:
        aim: "next" (targeted, the stronger variant in the paper) or "away".
        steps: gradient steps, 1 or more (paper: 250).
        step_size: size of one step, as a share of the budget's limit, above 0.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    SEVERAL_CLASSES: ClassVar[bool] = True
    aim: Literal["next", "away"]
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.aim not in ("next", "away") or self.steps < 1 or not 0 < self.step_size < math.inf:
            raise ConfigError("attack.data: aim is next or away, steps 1 or more, step_size a finite number above 0")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noise on as many of them as the budget allows.

        Raises:
            ConfigError: the budget has no Linf limit above 0.
        """
        limit = limit_of(known, "linf", "unlearnable")

        def change(rows: Dataset) -> Tensor:
            drawn = normal(rng.child("start"), rows.ids, rows.inputs[0].numel()).float().view(rows.inputs.shape)
            start = (limit * drawn).clamp(-limit, limit)
            victim = known.fit(known.rows)
            noise = [self._moved(victim, rows.take(part), start[part], limit) for part in torch.arange(len(rows)).split(CHUNK)]
            return perturbed(rows.inputs, torch.cat(noise))

        return changed(known, rng, change)

    def _moved(self, victim: Victim, rows: Dataset, noise: Tensor, limit: float) -> Tensor:
        """Return (N, C, H, W) noise in whole grey levels after all steps."""
        labels = (rows.labels + 1) % rows.num_classes if self.aim == "next" else rows.labels
        seen, step = rows.edit(torch.arange(len(rows)), labels=labels), self.step_size * limit * (-1 if self.aim == "next" else 1)
        for _ in range(self.steps):
            noise = (noise + step * pixel_gradient(victim, seen, noise).sign()).clamp(-limit, limit)
        return noise.trunc()  # rounding could exceed the limit
